"""From tokens back to text: what each token adds to the text, all at once or as a stream.

The text of a sequence is the UTF-8 reading of the bytes of its tokens, one after the other, where a token's bytes may
depend on whether it comes first (SentencePiece drops the space before the first word). This one definition serves
`decode` and the stream, so that both give the same text by construction. It agrees with `tokenizers` for everything
that was encoded; where a model invents invalid UTF-8, each broken character becomes U+FFFD and the whole ones stay.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Container, Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from zhixing.core.errors import BadInput
from zhixing.tokenization.definition import Definition, parts

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece spells the piece of one byte."""

ANCHOR = "a"
"""A token put before another to see what the second adds when it is not the first."""


def byte_alphabet() -> dict[str, int]:
    """Returns GPT-2's printable spelling of the 256 bytes: printable Latin-1 is itself, the rest is moved up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(moved)}


ALPHABET = byte_alphabet()


def is_composable(steps: Sequence[Any]) -> bool:
    """Tells whether a decoder's text is the sum of what each token adds, knowing only which token is the first."""
    for step in steps:
        kind = step["type"]
        if kind == "Strip" and step.get("stop", 0):
            return False
        if kind == "Replace" and len(step["pattern"].get("String", "")) != 1:
            return False
        if kind not in ("ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"):
            return False
    return True


class Decoder:
    """Knows the bytes that every token adds to a text.

    Args:
        definition: The tokenizer's definition.
        backend: The `tokenizers` object of the same tokenizer.
        pieces: The spelling of every token by id; None for an id that is not used.
    """

    def __init__(self, definition: Definition, backend: Backend, pieces: Sequence[str | None]) -> None:
        steps = parts(definition.get("decoder"), "decoders")
        kinds = {step["type"] for step in steps}
        self._backend = backend
        self._pieces = pieces
        self._decoder = backend.decoder
        self._byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        self.composable = is_composable(steps)
        self._first: dict[int, bytes] = {}
        self._rest: dict[int, bytes] = {}

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """Returns the bytes that one token adds, as the first of a text or behind others.

        Raises:
            BadInput: There is no such token.
        """
        known = self._first if first else self._rest
        found = known.get(token)
        if found is None:
            if not 0 <= token < len(self._pieces):
                raise BadInput(f"token id {token} is outside the vocabulary of {len(self._pieces)}")
            piece = self._pieces[token]
            found = known[token] = b"" if piece is None else self._compute(piece, first)
        return found

    def _compute(self, piece: str, first: bool) -> bytes:
        if self._byte_level:
            # As the library does: a piece with any other character in it (an added token) stands for itself.
            codes = [ALPHABET.get(character) for character in piece]
            return piece.encode() if None in codes else bytes(code for code in codes if code is not None)
        if self._byte_fallback and (match := BYTE_PIECE.fullmatch(piece)) and int(match[1], 16) >= 0x80:
            return bytes([int(match[1], 16)])
        if self._decoder is None:
            return (piece if first else " " + piece).encode()
        if first:
            return str(self._decoder.decode([piece])).encode()
        before = len(self._decoder.decode([ANCHOR]))
        return str(self._decoder.decode([ANCHOR, piece]))[before:].encode()

    def decode(self, tokens: Iterable[int], skip: Container[int] = ()) -> str:
        """Returns the text of a sequence of tokens, leaving out those in `skip`."""
        kept = [token for token in map(int, tokens) if token not in skip]
        if not self.composable:
            for token in kept:
                if not 0 <= token < len(self._pieces):
                    raise BadInput(f"token id {token} is outside the vocabulary of {len(self._pieces)}")
            return self._backend.decode(kept, skip_special_tokens=False)
        content = [self.token_bytes(token, first=index == 0) for index, token in enumerate(kept)]
        return b"".join(content).decode("utf-8", errors="replace")


class StreamDecoder:
    """Turns tokens into text one by one, never cutting a character.

    What all calls of `push` and the closing `finish` return, put together, is exactly the text of all tokens.

    Args:
        decoder: The tokenizer's decoder.
        skip: Tokens that add nothing.
    """

    def __init__(self, decoder: Decoder, skip: Container[int] = ()) -> None:
        self._decoder = decoder
        self._skip = skip
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._first = True
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Takes the next token; returns the text that is now certain, which may be empty."""
        token = int(token)
        if token in self._skip:
            return ""
        if not self._decoder.composable:
            # A decoder that looks at later tokens (suffix marks): nothing is certain before the end.
            self._held.append(token)
            return ""
        content = self._decoder.token_bytes(token, first=self._first)
        self._first = False
        return self._utf8.decode(content)

    def fork(self) -> StreamDecoder:
        """Returns another stream that stands where this one does; what is pushed to either does not touch the other."""
        twin = StreamDecoder(self._decoder, self._skip)
        twin._utf8.setstate(self._utf8.getstate())
        twin._first = self._first
        twin._held = self._held.copy()
        return twin

    def finish(self) -> str:
        """Returns what was held back (U+FFFD for a character that never became whole) and starts anew."""
        text = self._decoder.decode(self._held) if self._held else self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._first = True
        self._held = []
        return text

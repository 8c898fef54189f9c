"""Cutting a stream of text into chunks that, encoded one by one, give the tokens of the whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

CHUNK_CHARACTERS = 1 << 16
"""Where a chunk's end is sought."""
CONTEXT = 256
"""Characters on either side of a seam over which the tokens are compared."""
TRIES = (2, 6, 24, 96)
"""How many possible seams are compared at once, round after round."""

# Before a space or a line end that follows a word, after a line end, after Chinese punctuation; else between any two.
_CANDIDATE = re.compile(r"(?<=\S)(?=\s)|(?<=\n)(?=\S)|(?<=[。！？；，])")


def seamless_chunks(
    texts: Iterable[str],
    encode_batch: Callable[[list[str]], Sequence[Any]],
    note: Callable[[str], None],
    size: int = CHUNK_CHARACTERS,
) -> Iterator[str]:
    """Joins texts and cuts them where the tokenizer does not see the cut.

    A place is a seam when the text around it encodes to the same tokens as its two halves do. Tokenizers split text at
    nearby characters, so what holds for the neighbourhood holds for the whole.

    Args:
        texts: The text in order, in parts of any size.
        encode_batch: The tokenizer.
        note: Is told, once, when no seam is found: some tokenizers begin every text with a token of its own.
        size: Characters per chunk, about.

    Yields:
        Chunks whose tokens, joined, are those of the whole text.
    """
    buffer = ""
    noted = False
    for text in texts:
        buffer += text
        start = 0
        while len(buffer) - start > 2 * size:
            seam = find_seam(buffer, start + size, start + 2 * size - CONTEXT, encode_batch)
            if seam is None:
                seam = start + size
                if not noted:
                    noted = True
                    note("this tokenizer's tokens depend on where a text begins: long text is encoded in parts")
            yield buffer[start:seam]
            start = seam
        buffer = buffer[start:]
    if buffer:
        yield buffer


def find_seam(text: str, start: int, end: int, encode_batch: Callable[[list[str]], Sequence[Any]]) -> int | None:
    """Returns a place from `start` to `end` at which a cut does not change the tokens, or None."""
    places = _candidates(text, start, end)
    for count in TRIES:
        some = [place for _, place in zip(range(count), places, strict=False)]
        if not some:
            return None
        parts = []
        for place in some:
            left, right = text[max(0, place - CONTEXT) : place], text[place : place + CONTEXT]
            parts += [left, right, left + right]
        encoded = [list(ids) for ids in encode_batch(parts)]
        for number, place in enumerate(some):
            left_ids, right_ids, both = encoded[3 * number : 3 * number + 3]
            if left_ids + right_ids == both:
                return place
    return None


def _candidates(text: str, start: int, end: int) -> Iterator[int]:
    """Yields natural seams first, then every place."""
    for match in _CANDIDATE.finditer(text, start, end):
        yield match.start()
    yield from range(start, end)

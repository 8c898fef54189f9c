"""What there is to see in a tokenizer, as plain data: its facts, how a text splits, how several compare.

Printing is the command line's work.
"""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.tokenization.readable import readable_bytes
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.utf8 import utf8_size

SCRIPTS = {
    "CJK": "Chinese",
    "LATIN": "Latin",
    "FULLWIDTH": "full-width",
    "HIRAGANA": "kana",
    "KATAKANA": "kana",
    "HANGUL": "Hangul",
    "CYRILLIC": "Cyrillic",
    "GREEK": "Greek",
    "ARABIC": "Arabic",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari",
    "THAI": "Thai",
}
"""First word of a letter's Unicode name, and the script it is counted as."""


SPELT_ON = "⁺"
"""Stands for a token that goes on spelling the character before it."""

MOST_SPELLING = 8
"""Tokens that are looked at to complete a character: one takes four at most, and several may share a token."""

TIMED_FROM = 100_000
"""Bytes of text below which an encoding speed says nothing."""


@dataclass(frozen=True)
class TokenView:
    """One token of a text."""

    id: int
    piece: str
    special: bool


@dataclass(frozen=True)
class TokenizerFacts:
    """What `zhixing tokenizer show` prints."""

    kind: str
    vocab_size: int
    fingerprint: str
    special_tokens: dict[str, int]
    roles: dict[str, str]
    scripts: dict[str, int]
    """The number of tokens by script, the most frequent first."""
    longest: list[TokenView]
    sample: list[TokenView]
    """Ordinary tokens at even distances through the vocabulary."""
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns the facts as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """How one tokenizer does on a text. The figures are None when it cannot spell the text; `problem` says why."""

    name: str
    kind: str
    vocab_size: int
    tokens: int | None
    bytes_per_token: float | None
    characters_per_token: float | None
    unknown: int
    """Tokens that stand for what the vocabulary cannot spell."""
    round_trip: bool | None
    megabytes_per_second: float | None
    """Encoding speed on this machine now; None for a text too short to time."""
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison as plain data."""
        return asdict(self)


@cache
def script_of_character(character: str) -> str:
    """Names the script of one character; what is no letter is a digit, a sign or a blank."""
    category = unicodedata.category(character)
    if category[0] in "ZC":
        return "blank"
    if category[0] == "N":
        return "digits"
    if category[0] != "L":
        return "signs"
    return SCRIPTS.get(unicodedata.name(character, "").split(" ")[0], "other")


def script_of_token(tokenizer: Tokenizer, token: int) -> str:
    """Names the script of one token: by its letters, else its digits, else its signs, else its blanks."""
    if token in tokenizer.special_ids:
        return "special"
    try:
        text = tokenizer.token_bytes(token).decode("utf-8")
    except UnicodeDecodeError:
        return "parts of characters"
    found = {script_of_character(character) for character in text}
    letters = found - {"blank", "digits", "signs"}
    if len(letters) > 1:
        return "several"
    return next((name for name in (*letters, "digits", "signs") if name in found), "blank")


def describe(tokenizer: Tokenizer, count: int = 20) -> TokenizerFacts:
    """Gathers the facts of a tokenizer, with its `count` longest pieces and a sample of as many."""
    ordinary = [token for token in range(tokenizer.vocab_size) if token not in tokenizer.special_ids]
    lengths = {token: len(tokenizer.token_bytes(token).decode("utf-8", "replace").strip()) for token in ordinary}
    longest = sorted(ordinary, key=lambda token: (-lengths[token], token))[:count]
    step = max(1, len(ordinary) // count) if count else 1
    return TokenizerFacts(
        kind=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        fingerprint=tokenizer.fingerprint,
        special_tokens=dict(tokenizer.special_tokens),
        roles=dict(tokenizer.roles),
        scripts=dict(Counter(script_of_token(tokenizer, token) for token in range(tokenizer.vocab_size)).most_common()),
        longest=_views(tokenizer, longest),
        sample=_views(tokenizer, ordinary[step // 2 :: step][:count]),
        notes=list(tokenizer.notes),
    )


def _views(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[TokenView]:
    return [TokenView(token, tokenizer.piece(token), token in tokenizer.special_ids) for token in tokens]


def running_pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Returns consecutive tokens in readable form, one text each, so that a person can read what they spell.

    A character that several tokens spell stands whole at the first of them, and `SPELT_ON` at the others; bytes that
    never become a character are shown as such.
    """
    pieces: list[str] = []
    while len(pieces) < len(tokens):
        place = len(pieces)
        spelt, count = b"", 0
        for token in tokens[place : place + MOST_SPELLING]:
            if token in tokenizer.special_ids:
                break
            spelt, count = spelt + tokenizer.token_bytes(token), count + 1
            if _is_text(spelt):
                break
        whole = count > 1 and _is_text(spelt)
        pieces += [readable_bytes(spelt), *[SPELT_ON] * (count - 1)] if whole else [tokenizer.piece(tokens[place])]
    return pieces


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def split_text(
    tokenizer: Tokenizer, text: str, *, special: bool = False, parse_special: bool = False
) -> list[TokenView]:
    """Returns the tokens of a text in readable form; the options are those of `Tokenizer.encode`."""
    return _views(tokenizer, tokenizer.encode(text, special=special, parse_special=parse_special))


def compare(tokenizers: Mapping[str, Tokenizer], texts: Sequence[str]) -> list[Comparison]:
    """Encodes the same texts with several tokenizers.

    Args:
        tokenizers: The tokenizers by the names to show.
        texts: The documents, at least one character in all.

    Returns:
        One row for each tokenizer, in the order given.

    Raises:
        BadInput: There is no text.
    """
    size = sum(utf8_size(text) for text in texts)
    if not size:
        raise BadInput("there is no text to compare on")
    return [_compare_one(name, tokenizer, texts, size) for name, tokenizer in tokenizers.items()]


def _compare_one(name: str, tokenizer: Tokenizer, texts: Sequence[str], size: int) -> Comparison:
    start = time.perf_counter()
    try:
        encoded = tokenizer.encode_batch(texts)
    except BadInput as error:
        return Comparison(
            name, tokenizer.kind, tokenizer.vocab_size, None, None, None, 0, None, None, problem=error.cause
        )
    seconds = max(time.perf_counter() - start, 1e-9)
    tokens = sum(map(len, encoded))
    unknown = tokenizer.unknown_id
    exact = all(tokenizer.decode(ids) == text for ids, text in zip(encoded, texts, strict=True))
    return Comparison(
        name=name,
        kind=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        tokens=tokens,
        bytes_per_token=size / tokens if tokens else None,
        characters_per_token=sum(map(len, texts)) / tokens if tokens else None,
        unknown=sum(ids.count(unknown) for ids in encoded) if unknown is not None else 0,
        round_trip=exact,
        megabytes_per_second=size / 1e6 / seconds if size >= TIMED_FROM else None,
        problem=None,
    )

"""Long texts in parts that a model can read: cut where a paragraph, a sentence or at least a word ends.

The parts put together are the text, so nothing is lost between them.
"""

from __future__ import annotations

import re

from zhixing.tokenization.tokenizer import Tokenizer

_BORDERS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"[。！？；…]+[”’」』）]?|(?<![.!?])[.!?]+[\"')\]]?(?=\s)|\n"),
    re.compile(r"[，、,;:：]|\s"),
)
"""Where a text may be cut, best first: between paragraphs, sentences, words. A part ends behind the match."""

LEAST = 0.5
"""A better border is taken when the part is at least so full of what it may hold."""


def parts_of(text: str, most: int, tokenizer: Tokenizer) -> list[str]:
    """Cuts a text into parts of at most so many tokens.

    Args:
        text: Any text.
        most: Tokens of a part, at least 8.
        tokenizer: Counts them.

    Returns:
        The parts, which joined are the text; the text itself when it is short enough.
    """
    tokens, offsets = tokenizer.encode_with_offsets(text)
    if len(tokens) <= most:
        return [text]
    # Cut alone, a part may have a few tokens more than it has within the whole.
    room = max(1, most - max(2, most // 32))
    parts: list[str] = []
    start = 0  # a character
    token = 0
    while token < len(tokens):
        if len(tokens) - token <= room:
            parts.append(text[start:])
            break
        limit = max(offsets[token + room - 1][1], start + 1)
        end = _border(text, start, limit)
        parts.append(text[start:end])
        start = end
        while token < len(tokens) and offsets[token][1] <= start:
            token += 1
    return [piece for part in parts for piece in _halved(part, most, tokenizer)]


def _border(text: str, start: int, limit: int) -> int:
    least = start + max(1, int(LEAST * (limit - start)))
    for pattern in _BORDERS:
        ends = [match.end() for match in pattern.finditer(text, least, limit)]
        if ends:
            return min(ends[-1], limit)
    return limit


def _halved(part: str, most: int, tokenizer: Tokenizer) -> list[str]:
    """Returns a part, or halves of it until each is short enough."""
    if len(part) < 2 or len(tokenizer.encode(part)) <= most:
        return [part]
    middle = _border(part, 0, len(part) // 2)
    return [*_halved(part[:middle], most, tokenizer), *_halved(part[middle:], most, tokenizer)]


def sentences_of(text: str) -> list[str]:
    """Cuts a text into sentences, each with the space behind it; joined they are the text.

    A line end also ends a sentence. What looks like an abbreviation (a single letter and a period) does not.
    """
    found: list[str] = []
    start = 0
    for match in _SENTENCE.finditer(text):
        before = text[max(start, match.start() - 2) : match.start()]
        if match[0].startswith(".") and len(before) == 2 and not before[0].isalnum() and before[1].isalpha():
            continue
        found.append(text[start : match.end()])
        start = match.end()
    return [*found, text[start:]] if start < len(text) else found


# Looked at from its beginning only, a long run of dots or spaces that ends no sentence is not read again and again.
_SENTENCE = re.compile(r"[。！？…]+[”’」』）]*\s*|(?<![.!?])[.!?]+[\"'”’)\]]*\s+|(?<!\s)\s*\n\s*")

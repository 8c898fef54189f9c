"""Cutting long text into documents at content-defined places. Decoding bytes into text is `decoding`'s.

A cut depends only on the text near it, so that text added elsewhere in a file leaves the other documents, and with
them the held-out split, as they were. The method is content-defined chunking (Muthitacharoen, Chen and Mazieres 2001,
"A low-bandwidth network file system"), with paragraphs for its candidate boundaries.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

SHORTEST = 16_384
"""A piece is cut only when it has at least this many characters."""
LONGEST = 65_536
"""No piece has more characters than this, and no text that is shorter is cut at all."""
ONE_IN = 32
"""One paragraph end in so many is a cut, on average, once a piece is long enough."""
WINDOW = 64
"""So many characters before a boundary decide whether it is a cut."""
NEAR_END = 8_192
"""In text without line ends, the cut is sought in so many last characters before the limit."""

# Patterns that begin with one literal character, which the regex engine seeks fast; one set for each kind of line end.
_BLANK_LINES = {"\n": re.compile(r"\n(?:[ \t\r]*\n)+"), "\r": re.compile(r"\r(?:[ \t]*\r)+")}
_LINE_END = {"\n": re.compile(r"\n"), "\r": re.compile(r"\r")}
_WORD_END = re.compile(r"[\s。！？；，、]")


def cut_text(chunks: Iterable[str]) -> Iterator[str]:
    """Cuts a stream of text into pieces; joined again, they are the text.

    Cuts are made after blank lines, else after line ends, else after words, else anywhere.

    Args:
        chunks: The text in order, in parts of any size; the parts make no difference to the pieces.

    Yields:
        Pieces of at most `LONGEST` characters; a text no longer than that is one piece.
    """
    buffer = ""
    was_cut = False
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start > LONGEST:
            end = _next_cut(buffer, start, start + LONGEST)
            yield buffer[start:end]
            start = end
            was_cut = True
        buffer = buffer[start:]
    start = 0
    while was_cut:
        # The rest obeys the same rule as the middle: text that is appended later must not move these cuts.
        line_end = _line_end(buffer, start, len(buffer))
        marked, _ = _best(_BLANK_LINES[line_end], buffer, start + SHORTEST, len(buffer))
        if marked is None or marked == len(buffer):
            break
        yield buffer[start:marked]
        start = marked
    if start < len(buffer):
        yield buffer[start:]


def _next_cut(buffer: str, start: int, end: int) -> int:
    line_end = _line_end(buffer, start, end)
    marked, least = _best(_BLANK_LINES[line_end], buffer, start + SHORTEST, end)
    if marked is not None:
        return marked
    if least is None:
        least = _best(_LINE_END[line_end], buffer, start + SHORTEST, end, one_in=0)[1]
    if least is None:
        least = _best(_WORD_END, buffer, end - NEAR_END, end, one_in=0)[1]
    return end if least is None else least


def _line_end(buffer: str, start: int, end: int) -> str:
    """Returns the character that ends lines here: a carriage return only where there is no line feed."""
    return "\r" if buffer.find("\n", start, end) < 0 and buffer.find("\r", start, end) >= 0 else "\n"


def _best(
    boundary: re.Pattern[str], buffer: str, start: int, end: int, one_in: int = ONE_IN
) -> tuple[int | None, int | None]:
    """Returns the first boundary whose hash marks it (None: no such), and the one with the smallest hash."""
    least, least_hash = None, 1 << 32
    for match in boundary.finditer(buffer, start, end):
        before = match.start()
        value = zlib.crc32(buffer[max(0, before - WINDOW) : before].encode("utf-8", "surrogatepass"))
        if one_in and value % one_in == 0:
            return match.end(), None
        if value < least_hash:
            least, least_hash = match.end(), value
    return None, least

"""Rows of CSV and TSV out of numbered lines. A quotation mark that does not end costs its own line and no other."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal

from zhixing.data.problems import Problems

LONGEST_CELL = 1 << 26
"""Characters of a cell; one that is longer has a quotation mark that was never closed."""


def table_rows(
    lines: Iterable[tuple[int, str]], delimiter: str, source: str, problems: Problems, *, quoted: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Splits the lines of a table into rows, each with the line on which it begins.

    A quotation mark that opens a cell and is not closed would take the lines behind it, to the next mark or to the end
    of the file, for one cell. Such a line is reported, and those behind it are read anew. In a TSV file, where marks
    are mostly characters like others, the line is taken as it stands.

    Args:
        lines: With their numbers and line ends.
        delimiter: What stands between cells.
        source: The file's name, for reports.
        problems: Where broken rows are reported, as "csv".
        quoted: Whether quotation marks are read at all.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    numbered = iter(lines)
    again: deque[tuple[int, str]] = deque()
    taken: list[tuple[int, str]] = []

    def following() -> Iterator[str]:
        while (one := again.popleft() if again else next(numbered, None)) is not None:
            taken.append(one)
            yield one[1]

    width: int | None = None
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    # Strict, for then a mark within a cell is an error where it stands, and not after the rest of the file was read.
    rows = csv.reader(following(), delimiter=delimiter, quoting=quoting, strict=quoted)
    while True:
        taken.clear()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            line, text = taken[0]
            again.extendleft(reversed(taken[1:]))
            rows = csv.reader(following(), delimiter=delimiter, quoting=quoting, strict=quoted)
            found = _alone(text, delimiter, width)
            if found is None:
                problems.report("csv", source, _in_words(str(error)), line=line)
                continue
            row = found
        else:
            line = taken[0][0]
        width = len(row) if width is None else width
        yield line, row


def _alone(text: str, delimiter: str, width: int | None) -> list[str] | None:
    """Reads a line by itself where its quotation marks leave no doubt about where it ends; else returns None."""
    if delimiter == "\t":
        cells = text.rstrip("\r\n").split(delimiter)
        if width in (None, len(cells)) and not any("\r" in cell for cell in cells):
            return cells
    ended = True

    def lines() -> Iterator[str]:
        nonlocal ended
        yield text
        ended = False  # another line is asked for: a mark is open

    try:
        row = next(csv.reader(lines(), delimiter=delimiter))
    except (csv.Error, StopIteration):
        return None
    return row if ended else None


def _in_words(error: str) -> str:
    """Says what the csv module says, in words that help."""
    if error.startswith("new-line character"):
        return "a carriage return stands within the line; put the cell into quotation marks"
    return (
        "a quotation mark opens a cell in this line that does not end with one; the lines behind it are read by"
        ' themselves (write a mark within a cell as "")'
    )


def repeated_name(columns: Iterable[str]) -> str | None:
    """Returns the first name that several columns have, or None."""
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            return name
        seen.add(name)
    return None

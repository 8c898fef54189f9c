"""The document: one stretch of text with the place it came from. How documents are read stands in `readers`."""

from __future__ import annotations

from typing import NamedTuple


class Document(NamedTuple):
    """One text that is encoded, split and counted as a whole.

    Attributes:
        text: The text, exactly as it stands in its source; always encodable as UTF-8.
        source: The file it came from, `path` or `archive.zip!member`.
        line: The line, or for tables the record, of the source where it starts, counted from 1.
    """

    text: str
    source: str
    line: int | None = None

"""Records of structured files: JSON Lines, JSON, CSV, TSV, Parquet. Which field holds the text is `fields`' concern."""

from __future__ import annotations

import codecs
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from zhixing.data.decoding import CHUNK, NotTextError, Utf8Stream, buffered, find_encoding, read_up_to
from zhixing.data.fields import Record, TextField
from zhixing.data.problems import Problems
from zhixing.data.sources import Source
from zhixing.data.tables import repeated_name, table_rows

RECORD_LIMIT = 1 << 26
"""Longest record, in bytes, that is held in memory at once."""


def read_records(
    source: Source, stream: BinaryIO, problems: Problems, field: TextField
) -> Iterator[tuple[int, Record]]:
    """Reads the records of a structured source.

    Yields:
        The line (for Parquet and JSON arrays on few lines: see each reader) and the record: a dict, or a bare value.
    """
    if source.format == "parquet":
        yield from parquet_rows(source, stream, problems, field)
        return
    text = utf8_stream(source, stream, problems)
    if text is None:
        return
    if source.format == "jsonl":
        yield from json_lines(source, text, problems)
    elif source.format == "json":
        yield from json_values(source, text, problems)
    else:
        yield from _table(source, text, problems, field)


def utf8_stream(source: Source, stream: BinaryIO, problems: Problems) -> BinaryIO | None:
    """Returns the text of a source as a stream of UTF-8; None, and a report, when it is empty or no text."""
    first = read_up_to(stream, CHUNK)
    if not first:
        problems.report("empty", source.name, "the file is empty")
        return None
    try:
        encoding = find_encoding(first, complete=len(first) < CHUNK, nul_share=0.1)
    except NotTextError as error:
        problems.report_file(error.kind, source.name, str(error), line=error.line)
        return None
    if encoding.note:
        problems.report("encoding", source.name, encoding.note)
    return buffered(Utf8Stream(first[encoding.mark :], stream, encoding.codec))


def numbered_lines(source: Source, stream: BinaryIO, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yields the lines of a UTF-8 stream with their numbers; lines that are too long or do not decode are reported."""
    number = 0
    while line := stream.readline(RECORD_LIMIT):
        number += 1
        if len(line) == RECORD_LIMIT and not line.endswith(b"\n"):
            while (rest := stream.readline(RECORD_LIMIT)) and not rest.endswith(b"\n"):
                pass
            problems.report("long", source.name, f"a line of more than {RECORD_LIMIT >> 20} MiB", line=number)
            continue
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            problems.report("undecodable", source.name, f"not UTF-8 at byte {error.start + 1} of the line", line=number)


def json_lines(source: Source, stream: BinaryIO, problems: Problems) -> Iterator[tuple[int, Record]]:
    """Reads JSON Lines: one value on each line."""
    empty, before = True, problems.total
    for number, line in numbered_lines(source, stream, problems):
        if line.isspace():
            continue
        empty = False
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.report("json", source.name, f"not valid JSON: {json_fault(error)}", line=number)
        else:
            yield number, value
    if empty and problems.total == before:
        problems.report("empty", source.name, "the file holds nothing but white space")


def json_fault(error: Exception) -> str:
    """Says what is wrong with JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (column {error.colno})"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def json_values(source: Source, stream: BinaryIO, problems: Problems) -> Iterator[tuple[int, Record]]:
    """Reads JSON: a list of records is streamed; an object is one record, or holds a list as its `data`.

    Several values may follow each other, as in JSON Lines.
    """
    reader = JsonText(stream)
    try:
        if not reader.peek():
            problems.report("empty", source.name, "the file holds nothing but white space")
        while following := reader.peek():
            if following == "[":
                yield from reader.items()
                continue
            line = reader.line
            value = reader.value()
            inner = value.get("data") if isinstance(value, dict) else None
            if isinstance(inner, list):
                yield from ((line, item) for item in inner)
            else:
                yield line, value
    except UnicodeDecodeError as error:
        problems.report(
            "undecodable", source.name, f"not UTF-8; the rest is left out: {error.reason}", line=reader.line
        )
    except (ValueError, RecursionError) as error:
        fault = f"not valid JSON: {json_fault(error)}; the rest of the file is left out"
        problems.report("json", source.name, fault, line=reader.line)


@dataclass(frozen=True)
class BrokenItem:
    """An item of a list that is no JSON, where the next one could be found.

    Attributes:
        text: How it stands in the file; "" where only what stands between two items is wrong.
        fault: What is wrong.
    """

    text: str
    fault: str


class JsonText:
    """Parses JSON from a stream value by value, holding one value (at most RECORD_LIMIT) in memory.

    Attributes:
        line: The line that is read.
        raw: The last value as it stands in the file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False
        self.line = 1
        self.raw = ""
        self._blank = ""

    def _more(self, count: int = CHUNK) -> bool:
        """Reads on; False when the stream has ended."""
        if self._ended:
            return False
        data = read_up_to(self._stream, count)
        self._ended = len(data) < count
        self._text = self._text[self._at :] + self._decode(data, self._ended)
        self._at = 0
        return True

    def _take(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def peek(self) -> str:
        """Returns the next character that is not white space, "" at the end."""
        while True:
            rest = self._at
            while rest < len(self._text) and self._text[rest] in " \t\r\n":
                rest += 1
            if rest > self._at:
                self._blank = self._text[self._at : rest]
            self._take(rest)
            if rest < len(self._text):
                return self._text[rest]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Parses the next value."""
        self.peek()
        size = CHUNK
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError:
                # It may only be cut off. Reading twice as much each time keeps the work linear.
                if len(self._text) - self._at > RECORD_LIMIT:
                    raise ValueError(f"a value is longer than {RECORD_LIMIT >> 20} MiB, or broken") from None
                if not self._more(size):
                    raise
                size *= 2
            else:
                if end == len(self._text) and not self._ended:  # a number may go on
                    self._more(size)
                    continue
                self.raw = self._text[self._at : end]
                self._take(end)
                return value

    def items(self, *, lenient: bool = False) -> Iterator[tuple[int, Any]]:
        """Parses a list, yielding each item with the line it starts on.

        Args:
            lenient: Yield a `BrokenItem` for one that is broken, and go on with the next, where items begin on lines of
                their own; likewise where the comma between two items is missing, or stands behind the last one.
        """
        self._take(self._at + 1)
        if self.peek() == "]":
            self._take(self._at + 1)
            return
        while True:
            self._blank = self._blank if "\n" in self._blank else ""
            self.peek()
            line, indent = self.line, self._blank.rpartition("\n")[2] if "\n" in self._blank else None
            try:
                value = self.value()
            except ValueError as error:
                text = self._pass_over(indent) if lenient and indent is not None else None
                if text is None:
                    raise
                yield line, BrokenItem(text, json_fault(error))
                continue
            self._blank = ""
            yield line, value
            follows = self.peek()
            if follows not in (",", "]"):
                fault = f"',' or ']' expected, found {follows!r}" if follows else "the list does not end"
                if not lenient or follows != "{":
                    raise ValueError(fault)
                yield self.line, BrokenItem("", "a comma is missing before this item")
                continue
            self._take(self._at + 1)
            if follows == "]":
                return
            self._blank = ""
            if lenient and self.peek() == "]":
                yield self.line, BrokenItem("", "a comma too many before the bracket")
                self._take(self._at + 1)
                return

    def _pass_over(self, indent: str) -> str | None:
        """Passes over a broken item up to the line on which the next one begins, as far from the margin as itself.

        Returns:
            What was passed over; None where no other item begins.
        """
        begins = re.compile(r"\n" + re.escape(indent) + r'(?=[{"\[])')
        while (found := begins.search(self._text, self._at + 1)) is None:
            if len(self._text) - self._at > RECORD_LIMIT or not self._more():
                return None
        text = self._text[self._at : found.start()]
        self._take(found.end())
        self._blank = f"\n{indent}"
        return text


def _table(source: Source, stream: BinaryIO, problems: Problems, field: TextField) -> Iterator[tuple[int, Record]]:
    """Reads CSV or TSV. The first row names the columns, unless the field asked for is a column number."""
    numbered = numbered_lines(source, stream, problems)
    first = next(numbered, None)
    if first is None:
        return
    delimiter = "\t" if source.format == "tsv" else max(",;\t|", key=first[1].count)
    lines = itertools.chain([first], numbered)
    columns: list[str] | None = None
    for line, row in table_rows(lines, delimiter, source.name, problems):
        if columns is None:
            if line != first[0]:  # the next line would be taken for the names
                problems.report("unreadable", source.name, "the row that names the columns is broken", line=first[0])
                return
            by_number = field.asked is not None and field.asked.isdigit() and field.asked not in row
            columns = [str(number) for number in range(1, len(row) + 1)] if by_number else row
            if field.choose(columns) is None:
                problems.report("field", source.name, field.why(dict.fromkeys(columns)))
                return
            if (twice := repeated_name(columns)) is not None and field.needs(twice):
                field.columns = []
                called = f"have the name {twice!r}" if twice else "have no name"
                problems.report("unreadable", source.name, f"two columns {called}; give each its own", line=line)
                return
            if not by_number:
                continue
        if not row:
            continue
        if len(row) != len(columns):
            fault = f"{len(row)} cells where the first row has {len(columns)}"
            problems.report("csv", source.name, fault, line=line)
            continue
        yield line, dict(zip(columns, row, strict=True))


def parquet_rows(
    source: Source, stream: BinaryIO, problems: Problems, field: TextField | None
) -> Iterator[tuple[int, Record]]:
    """Reads the text column of a Parquet file, or all columns without a field, a batch of rows at a time.

    The line is the number of the row.
    """
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryFile() as spool:
        file: Any = source.path
        if source.member is not None or source.compression != "none":
            shutil.copyfileobj(stream, spool, CHUNK)  # Parquet is read from its end: a stream will not do
            file = spool
        try:
            table = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
            columns = None
            if field is not None:
                column = field.choose(list(table.schema_arrow.names))
                if column is None:
                    problems.report("field", source.name, field.why(dict.fromkeys(field.columns)))
                    return
                columns = [column]
            row = 0
            for batch in table.iter_batches(batch_size=256, columns=columns):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            problems.report("unreadable", source.name, f"not a Parquet file that can be read: {error}")

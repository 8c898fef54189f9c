"""The rows of a file for a task: in order, each with the record it came from, the bad ones as faults in their place.

How files are decoded and cut into records is `data.records`' concern; here each report takes the place of a row.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, nearest
from zhixing.data.fields import TextField
from zhixing.data.problems import NOTES, Problem, Problems
from zhixing.data.records import numbered_lines, parquet_rows, read_records, utf8_stream
from zhixing.data.sources import Source, find_sources
from zhixing.data.streams import open_source, read_faults, require_packages
from zhixing.tasks.base import Column, Fault, Row

FATAL = frozenset({"empty", "unreadable", "changed", "binary", "unsupported"})
"""Reports about a file as a whole, not about one row."""


@dataclass(frozen=True)
class InputRow:
    """One row of a file.

    Attributes:
        line: Where it stands; see each reader in `data.records`.
        record: All of it, as a mapping; a bare text has the key "text"; None when it could not be read.
        row: What the task reads of it, or what is wrong with it.
    """

    line: int | None
    record: Mapping[str, Any] | None
    row: Row | Fault


class _Reports(Problems):
    """Problems that are also kept, in the order they came, until they are fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: deque[Problem] = deque()

    def report(self, kind: str, source: str, message: str, *, line: int | None = None) -> None:
        """See `Problems.report`."""
        super().report(kind, source, message, line=line)
        self.waiting.append(Problem(kind, source, line, message))

    def report_file(self, kind: str, source: str, message: str, *, line: int | None = None) -> None:
        """See `Problems.report_file`: no row can be passed over where there is none."""
        Problems.report(self, kind, source, message, line=line)
        self.waiting.append(Problem("unreadable", source, line, message))


class _AnyField(TextField):
    """Takes every table: which columns are read is decided here, not by the reader."""

    def choose(self, columns: list[str], record: Mapping[str, Any] | None = None) -> str | None:
        """Returns the first column."""
        self.columns = columns
        return columns[0] if columns else None

    def needs(self, column: str) -> bool:
        """Every column goes into the output."""
        return True


class Reader:
    """Reads the rows of one file.

    Args:
        path: The file: .jsonl, .json, .csv, .tsv, .parquet, or lines of text; also .gz and .zst.
        columns: What the task reads.
        fields: The user's names for them: one for the first column, or NAME=FIELD for others.
        say: Is told what is worth knowing about the file.

    Attributes:
        source: What was found.
        header: The columns of a table, known once reading began.

    Raises:
        MissingResource: There is no such file, or a package is missing.
        BadInput: It is a folder, or no file that can be read; or a field is named that the task does not read.
    """

    def __init__(
        self, path: Path, columns: Sequence[Column], fields: Sequence[str], say: Callable[[str], None]
    ) -> None:
        if path.is_dir():
            raise BadInput("a file is expected, this is a folder", where=str(path), remedy="name a file in it")
        sources = find_sources([path])
        if len(sources) != 1:
            raise BadInput(f"an archive of {len(sources)} files", where=str(path), remedy="unpack it first")
        require_packages(sources)
        self.source: Source = sources[0]
        self.columns, self._say = tuple(columns), say
        self._asked = named_fields(self.columns, fields)
        self._reports = _Reports()
        self._numbered = next((field for field in self._asked.values() if field.isdigit()), None)
        self.header: list[str] | None = None
        self._chosen: dict[str, str] | None = None
        self.no_text = False

    @property
    def is_table(self) -> bool:
        """Whether it has rows of cells."""
        return self.source.format in ("csv", "tsv")

    def __call__(self, advance: Callable[[int], None] | None = None) -> Generator[InputRow, None, None]:
        """Yields the rows from the beginning.

        Args:
            advance: Is called with the number of bytes that were read.

        Raises:
            BadInput: The file is empty, cannot be read to the end, or has not the columns.
        """
        self._reports = _Reports()
        any_row = False
        with self._open(advance) as records:
            for line, record in records:
                yield from self._waiting()
                any_row = True
                yield self._row(line, record)
            for fault in self._waiting():
                any_row = True
                yield fault
        if not any_row:
            raise BadInput("there is no row in this file", where=self.source.name)

    @contextmanager
    def _open(self, advance: Callable[[int], None] | None) -> Iterator[Iterator[tuple[int, Any]]]:
        try:
            with open_source(self.source, advance=advance) as stream:
                if self.source.format == "text":
                    text = utf8_stream(self.source, stream, self._reports)
                    lines = iter(()) if text is None else numbered_lines(self.source, text, self._reports)
                    yield ((number, line.rstrip("\r\n")) for number, line in lines)
                elif self.source.format == "parquet":
                    yield parquet_rows(self.source, stream, self._reports, None)
                else:
                    field = _AnyField(self._numbered)
                    yield self._with_header(read_records(self.source, stream, self._reports, field), field)
        except read_faults() as error:
            raise BadInput(
                f"the file cannot be read to its end: {error}", where=self.source.name, remedy="get a whole copy of it"
            ) from error

    def _with_header(self, records: Iterator[tuple[int, Any]], field: _AnyField) -> Iterator[tuple[int, Any]]:
        for line, record in records:
            if self.header is None and self.is_table:
                self.header = field.columns
            yield line, record

    def _waiting(self) -> Iterator[InputRow]:
        while self._reports.waiting:
            problem = self._reports.waiting.popleft()
            if problem.kind in FATAL or (problem.line is None and problem.kind not in NOTES):
                raise BadInput(problem.message, where=str(problem).removesuffix(f": {problem.message}"))
            if problem.kind in NOTES:
                self._say(f"{problem.source}: {problem.message}")
            else:
                yield InputRow(problem.line, None, Fault(problem.message))

    def _row(self, line: int, record: Any) -> InputRow:
        if isinstance(record, str):
            record = {"text": record}
            if len([column for column in self.columns if not column.optional]) > 1:
                raise BadInput(
                    f"a line of text holds one text, this task reads {_names(self.columns)}",
                    where=self.source.name,
                    remedy=f"give JSON Lines or a table with the columns {_names(self.columns)}",
                )
            return InputRow(line, record, {self.columns[0].name: record["text"]})
        if not isinstance(record, Mapping):
            # No record that could be written beside the others: the fault says what stands there.
            return InputRow(line, None, Fault(f"a record with named fields is expected, got {_shown(record)}"))
        if not record:
            return InputRow(line, record, Fault("the record is empty"))
        if self._chosen is None:
            chosen = self._choose(record)
            if isinstance(chosen, Fault):
                return InputRow(line, record, chosen)
            self._chosen = chosen
        row: dict[str, str] = {}
        for column in self.columns:
            field = self._chosen.get(column.name)
            if field is None:
                continue
            value = record.get(field)
            if column.optional and (value is None or value == ""):
                continue
            if not _is_text(value, column):
                return InputRow(line, record, _no_text(field, record))
            row[column.name] = "\n".join(value) if isinstance(value, list) else str(value)
        return InputRow(line, record, row)

    def _choose(self, record: Mapping[str, Any]) -> dict[str, str] | Fault:
        """Decides which field each column is read from, by what was asked for or by the usual names.

        Returns:
            The fields; or what is wrong with this record, when a later one has to decide.
        """
        lowered = {name.strip().lower(): name for name in reversed([str(key) for key in record])}
        chosen: dict[str, str] = {}
        for column in self.columns:
            asked = self._asked.get(column.name)
            if asked is not None:
                if asked not in record:
                    guess = nearest(asked, lowered.values())
                    hint = f"did you mean {guess!r}? " if guess else ""
                    raise BadInput(
                        f"there is no field {asked!r}",
                        where=self.source.name,
                        remedy=f"{hint}fields: {', '.join(map(str, list(record)[:20]))}",
                    )
                chosen[column.name] = asked
                continue
            texts = [
                name for name in (column.name, *column.usual) if _is_text(record.get(lowered.get(name, "")), column)
            ]
            if texts:
                chosen[column.name] = lowered[texts[0]]
            elif column.optional:
                continue
            elif named := [lowered[name] for name in (column.name, *column.usual) if name in lowered]:
                return _no_text(named[0], record)
            else:
                number = " (its number, if there is no header row)" if self.is_table else ""
                fields = ", ".join(map(str, list(record)[:20]))
                raise BadInput(
                    f"no field has a usual name of the {column.name} ({', '.join(column.usual[:4])}, ...)",
                    where=self.source.name,
                    remedy=f"name it: --field {column.name}=FIELD{number}; fields: {fields}",
                )
        if len(record) > 1:
            self._say(", ".join(f"{name} is read from {field!r}" for name, field in chosen.items()))
        return chosen


def _is_text(value: Any, column: Column) -> bool:
    """Tells whether a value is what a column reads: a text, lines of one, or a number where those are read."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(part, str) for part in value)
    return isinstance(value, str) or (column.numbers and isinstance(value, int | float) and not isinstance(value, bool))


def _no_text(field: str, record: Mapping[str, Any]) -> Fault:
    if field not in record:
        return Fault(f"no field {field!r}")
    return Fault(f"the field {field!r} is not text: {_shown(record[field])}")


def _shown(value: Any) -> str:
    """Shows a value as it stands in the file, in a few characters."""
    text = "null" if value is None else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _names(columns: Sequence[Column]) -> str:
    return " and ".join(column.name for column in columns if not column.optional)


def named_fields(columns: Sequence[Column], fields: Sequence[str]) -> dict[str, str]:
    """Returns the user's field for each column: "FIELD" names the first column's, "NAME=FIELD" another one's.

    Raises:
        BadInput: There is no such column.
    """
    known = [column.name for column in columns]
    asked: dict[str, str] = {}
    for text in fields:
        name, equals, field = text.partition("=")
        if not equals:
            name, field = known[0], text
        if name not in known or not field:
            raise BadInput(
                f"{text!r}: this task reads {', '.join(known)}", where="--field", remedy=f"--field {known[0]}=FIELD"
            )
        asked[name] = field
    return asked

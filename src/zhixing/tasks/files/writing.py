"""How results are laid down in files: each output row is the input row with the result's values added.

Every chunk is written as bytes of its own, so that a file can be cut back to any chunk's end: of .gz, each chunk is
a member by itself, which every reader joins.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.files import check_writable
from zhixing.tasks.base import PREDICTION, Fault, Result
from zhixing.tasks.files.reading import InputRow

OutFormat = Literal["jsonl", "csv", "tsv", "text"]
SUFFIXES: dict[str, OutFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "text"}
ERROR = "error"
"""The key that says why a row has no result."""


def format_of(path: Path) -> tuple[OutFormat, bool]:
    """Returns the format that a file's name asks for, and whether it is compressed with gzip.

    Raises:
        BadInput: It is of no known format.
    """
    packed = path.suffix.lower() == ".gz"
    suffix = (Path(path.stem) if packed else path).suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown_name("format of results", suffix or path.name, [*SUFFIXES, ".jsonl.gz"], where=str(path))
    return SUFFIXES[suffix], packed


def check_target(path: Path, overwrite: bool) -> None:
    """Makes sure that a file can be written under a name, before the work that it shall hold.

    Raises:
        BadInput: It is of no known format, or there is something of this name.
        MissingResource: Nothing can be written there.
    """
    format_of(path)
    check_writable(path, "writing results")
    if path.exists() and not overwrite:
        raise BadInput("there is a file of this name already", where=str(path), remedy="name another, or --overwrite")


class Writer:
    """Turns results into bytes.

    Args:
        path: The output file, for its format.
        outputs: Names of a result's values.
        prefix: Put before every name of a result: for input that has fields of these names already.
    """

    def __init__(self, path: Path, outputs: Sequence[str], prefix: str = "") -> None:
        self.path, self.prefix = path, prefix
        self.outputs = [prefix + name for name in outputs]
        self.format, self.packed = format_of(path)
        self.columns: list[str] | None = None

    def check(self, rows: Sequence[InputRow]) -> None:
        """Makes sure, before the work on some rows, that its results hide nothing of them.

        Raises:
            BadInput: The input has a field of the same name as a result.
        """
        if self.format != "text":
            for row in rows:
                self._refuse_clash(row.record or {}, dict.fromkeys(self.outputs))

    def chunk(
        self,
        rows: Sequence[InputRow],
        results: Sequence[Result | Fault],
        first: bool,
        header: Sequence[str] | None = None,
    ) -> bytes:
        """Returns the bytes of some rows.

        Args:
            rows: The input.
            results: Their results.
            first: Whether they are the first of the file, before which a table has its header.
            header: The columns of the input, where it is a table; the first rows may all be bad.

        Raises:
            BadInput: The input has a field of the same name as a result.
        """
        values = [self._values(row, result) for row, result in zip(rows, results, strict=True)]
        if self.format == "jsonl":
            lines = []
            for row, new in zip(rows, values, strict=True):
                record = {"line": row.line} if row.record is None else dict(row.record)
                self._refuse_clash(record, new)
                lines.append(json.dumps({**record, **new}, ensure_ascii=False, default=_plain) + "\n")
            text = "".join(lines)
        elif self.format == "text":
            text = "".join(("" if isinstance(result, Fault) else _one_line(str(result))) + "\n" for result in results)
        else:
            text = self._table(rows, values, first, header or ())
        data = text.encode("utf-8", "backslashreplace")
        return gzip.compress(data, 6, mtime=0) if self.packed else data

    def _values(self, row: InputRow, result: Result | Fault) -> dict[str, Any]:
        values = {ERROR: result.message} if isinstance(result, Fault) else result.to_json()
        return {self.prefix + name: value for name, value in values.items()}

    def _refuse_clash(self, record: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        if both := [name for name in new if name in record]:
            raise BadInput(
                f"the input has a field {both[0]!r} already, which the result would hide",
                where=str(self.path),
                remedy=f"--prefix zx_ writes the result as zx_{PREDICTION} and so on",
            )

    def _table(
        self, rows: Sequence[InputRow], values: Sequence[Mapping[str, Any]], first: bool, header: Sequence[str]
    ) -> str:
        if self.columns is None:
            known = next((row.record for row in rows if row.record), dict.fromkeys(header))
            names = [*self.outputs, self.prefix + ERROR]
            self._refuse_clash(known, dict.fromkeys(names))
            self.columns = [*map(str, known), *names]
        out = io.StringIO()
        write = csv.writer(out, delimiter="\t" if self.format == "tsv" else ",", lineterminator="\n").writerow
        if first:
            write(self.columns)
        for row, new in zip(rows, values, strict=True):
            record = {**{str(key): value for key, value in (row.record or {}).items()}, **new}
            if unknown := [name for name in record if name not in self.columns]:
                raise BadInput(
                    f"a row has the field {unknown[0]!r}, which the first rows had not: a table cannot hold it",
                    where=str(self.path),
                    remedy="write .jsonl",
                )
            write([_cell(record.get(name)) for name in self.columns])
        return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | float | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return value if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> str:
    """Returns as a text what Parquet holds and JSON does not: bytes as base64; dates, times and exact numbers."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _one_line(text: str) -> str:
    """Returns a text as one line: what readers take for the end of one is written as \\n or \\r."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")

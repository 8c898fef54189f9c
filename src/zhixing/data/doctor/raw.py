"""Rows of a file together with how they stand in it, so that a mended copy leaves good rows byte for byte as they are.

Lines that are not UTF-8 are read in the encoding that fits them, one by one. Broken lines of JSON are mended where only
one mend is possible.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from zhixing.data.doctor.findings import Flaw
from zhixing.data.problems import Problems
from zhixing.data.records import (
    RECORD_LIMIT,
    BrokenItem,
    JsonText,
    json_fault,
    numbered_lines,
    parquet_rows,
    utf8_stream,
)
from zhixing.data.shapes.forms import Form
from zhixing.data.shapes.forms import cells as split_cells
from zhixing.data.shapes.records import brief
from zhixing.data.shapes.rows import Row, read_rows
from zhixing.data.sources import Source
from zhixing.data.streams import open_source

LONGEST_MEND = 1 << 20
"""Characters of a broken line that are tried to be mended."""
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")


class Raw(NamedTuple):
    """A row and how it stands in the file.

    Attributes:
        line: The line it begins on.
        text: How it stands there, with the end of its line; "" for Parquet.
        row: The row; None when it cannot be read.
        flaws: What is wrong with how it is written.
        mended: Whether it must be written anew.
    """

    line: int
    text: str
    row: Row | None
    flaws: tuple[Flaw, ...] = ()
    mended: bool = False


@dataclass
class Shell:
    """What a JSON file has around its rows.

    Attributes:
        style: rows in an array, in the field "data" of an object, or one after the other.
        others: The other fields of that object.
    """

    style: str = "values"
    others: dict[str, Any] = field(default_factory=dict)


def read_raw(source: Source, form: Form, shell: Shell, report: Callable[[str, int | None, str], None]) -> Iterator[Raw]:
    """Reads the rows of a source of UTF-8.

    Args:
        source: The source.
        form: How its rows are written.
        shell: Is filled with what stands around the rows.
        report: Is called with kind, line and message for what belongs to no row.
    """
    problems = Problems()
    with open_source(source) as stream:
        if form.kind == "parquet":
            yield from (Raw(line, "", row) for line, row in parquet_rows(source, stream, problems, None))
        elif (text := utf8_stream(source, stream, problems)) is not None:
            readers = {"jsonl": _json_lines, "json": _json, "table": _table, "conll": _blocks, "conllu": _blocks}
            yield from readers.get(form.kind, _single_lines)(source, text, form, shell, report)
    for group in problems.examples.values():
        for problem in group:
            report("unreadable", problem.line, problem.message)


Report = Callable[[str, int | None, str], None]


def _single_lines(source: Source, text: BinaryIO, form: Form, shell: Shell, report: Report) -> Iterator[Raw]:
    for number, line in numbered_lines(source, text, Problems()):
        rows = list(read_rows(source, io.BytesIO(line.encode("utf-8")), form, Problems())) if line.strip() else []
        yield Raw(number, line, rows[0][1] if rows else None)


def _json_lines(source: Source, text: BinaryIO, form: Form, shell: Shell, report: Report) -> Iterator[Raw]:
    numbered = numbered_lines(source, text, Problems())
    again: deque[tuple[int, str]] = deque()
    constants: list[str] = []
    decode = json.JSONDecoder(parse_constant=constants.append).decode
    while (one := again.popleft() if again else next(numbered, None)) is not None:
        number, line = one
        if not line.strip():
            yield Raw(number, line, None)
            continue
        constants.clear()
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            told = f"not valid JSON: {json_fault(error)}"
            if several := _several_objects(line):
                flaw = Flaw("json", f"{len(several)} records on one line", "give each a line of its own")
                for place, each in enumerate(several):
                    yield Raw(number, line, each, (flaw,) if place == 0 else (), mended=True)
                continue
            row, how = mend_json(line)
            if row is None and (whole := _joined_lines(line, error, again, numbered)) is not None:
                line, row = whole
                how = f"write it on one line, not on {len(line.splitlines())}"
            flaw = Flaw("json", told, how or "correct it; it is left out of a mended copy")
            yield Raw(number, line, row, (flaw,), mended=row is not None)
        else:
            if constants:
                flaw = Flaw(
                    "json", f"not valid JSON: {constants[0]} is no value, and few readers take it", "write null"
                )
                yield Raw(number, line, row, (flaw,), mended=True)
            else:
                yield _with_repeats(Raw(number, line, row))


def _with_repeats(raw: Raw) -> Raw:
    """Says of a row which key stands in it twice: readers take the last one and say nothing."""
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            repeated.append(next(key for at, key in enumerate(keys) if key in keys[:at]))
        return {}

    try:
        json.loads(raw.text.strip().removesuffix(","), object_pairs_hook=once)
    except (ValueError, RecursionError):
        return raw  # read in a way of its own
    if not repeated:
        return raw
    told = f"the key {brief(repeated[0])} stands twice in it, and only the last one is read"
    return raw._replace(
        flaws=(*raw.flaws, Flaw("json", told, "keep the one that is meant; a mended copy keeps the last")), mended=True
    )


MOST_LINES = 64
"""Lines over which one record of JSON Lines may be spread."""


def _joined_lines(
    line: str, error: Exception, again: deque[tuple[int, str]], numbered: Iterator[tuple[int, str]]
) -> tuple[str, Row] | None:
    """Joins a line that breaks off with those behind it, until they are one object: its texts hold line ends."""
    end = len(line.rstrip("\r\n"))
    cut = isinstance(error, json.JSONDecodeError) and (error.pos >= end or error.msg.startswith("Unterminated"))
    if not cut or not line.lstrip().startswith("{"):
        return None
    taken: list[tuple[int, str]] = []
    text = line
    while len(taken) < MOST_LINES and len(text) < LONGEST_MEND:
        following = again.popleft() if again else next(numbered, None)
        if following is None:
            break
        taken.append(following)
        if following[1].lstrip().startswith("{") and _is_json(following[1]):
            break
        text += following[1]
        try:
            value = json.loads(text.replace("\r\n", "\n"), strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return text, value
    again.extendleft(reversed(taken))
    return None


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _several_objects(line: str) -> list[Row]:
    """Returns the objects that stand behind each other on a line; none when there is anything else on it."""
    decoder, found, place = json.JSONDecoder(), [], 0
    bare = line.strip() if len(line) <= LONGEST_MEND else ""
    while place < len(bare):
        try:
            value, place = decoder.raw_decode(bare, place)
        except (ValueError, RecursionError):
            return []
        if not isinstance(value, dict):
            return []
        found.append(value)
        while place < len(bare) and bare[place] in " \t,":
            place += 1
    return found if len(found) > 1 else []


def mend_json(line: str) -> tuple[Any, str]:
    """Returns the value that a broken line of JSON must mean, and how it is mended; None when that cannot be told.

    A comma too many, brackets of an array that was cut into lines, tabs and other control characters within texts, and
    Python's way of writing (single quotes, True, None) have one meaning only.
    """
    if len(line) > LONGEST_MEND:
        return None, ""
    bare = line.strip()
    around = bare.strip("\ufeff\0 \t\r\n")
    candidates = [
        (around, "remove the byte-order mark, or the NUL bytes, around it", True),
        (bare.removesuffix(","), "remove the comma at its end", True),
        (_TRAILING_COMMA.sub(r"\1", bare.removesuffix(",")), "remove the comma before the bracket", True),
        (bare.removeprefix("[").removesuffix(",").removesuffix("]"), "remove the bracket of an array", True),
        (bare, "write the control characters in its texts as escapes", False),
    ]
    for candidate, how, strict in candidates:
        try:
            value = json.loads(candidate, strict=strict)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return value, how
    try:
        value = ast.literal_eval(bare.removesuffix(","))
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None, ""
    return (value, "write it with double quotes, true, false and null") if isinstance(value, dict) else (None, "")


def _json(source: Source, text: BinaryIO, form: Form, shell: Shell, report: Report) -> Iterator[Raw]:
    reader = JsonText(text)
    try:
        while following := reader.peek():
            if following == "[":
                shell.style = "array"
                for line, item in reader.items(lenient=True):
                    yield (
                        _broken_item(line, item)
                        if isinstance(item, BrokenItem)
                        else _with_repeats(Raw(line, reader.raw, item))
                    )
                continue
            line = reader.line
            value = reader.value()
            inner = value.get("data") if isinstance(value, dict) else None
            if isinstance(inner, list):
                shell.style = "data"
                shell.others = {key: part for key, part in value.items() if key != "data"}
                for item in inner:
                    yield Raw(line, json.dumps(item, ensure_ascii=False), item)
            else:
                yield _with_repeats(Raw(line, reader.raw, value))
    except (ValueError, RecursionError) as error:
        report("json", reader.line, f"not valid JSON: {json_fault(error)}; nothing behind it can be read")


def _broken_item(line: int, item: BrokenItem) -> Raw:
    """Returns a broken item of an array, mended where only one mend is possible; what lies between items is no row."""
    if not item.text:
        mend = "remove it" if "too many" in item.fault else "write one"
        return Raw(line, "", None, (Flaw("json", f"not valid JSON: {item.fault}", mend),))
    row, how = mend_json(item.text)
    told = f"not valid JSON: {item.fault}"
    flaw = Flaw("json", told, how or "correct it; it is left out of a mended copy")
    return Raw(line, item.text.strip().removesuffix(","), row, (flaw,), mended=row is not None)


def _table(source: Source, text: BinaryIO, form: Form, shell: Shell, report: Report) -> Iterator[Raw]:
    csv.field_size_limit(max(csv.field_size_limit(), RECORD_LIMIT))
    numbered = numbered_lines(source, text, Problems())
    again: deque[tuple[int, str]] = deque()
    taken: list[tuple[int, str]] = []
    for line, told in islice(numbered, form.lead):
        yield Raw(line, told, None)

    def lines() -> Iterator[str]:
        while (one := again.popleft() if again else next(numbered, None)) is not None:
            taken.append(one)
            yield one[1]

    rows = split_cells(lines(), form.delimiter, form.quoted)
    header = form.header
    while True:
        taken.clear()
        told = ""
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            row, told = [], str(error)
        line, raw = taken[0][0], "".join(text for _, text in taken)
        if header or (not told and (not row or row == [""])):
            header = False
            yield Raw(line, raw, None)
        elif not told and len(row) == len(form.columns):
            if form.header and row == list(form.columns):
                flaw = Flaw("table", "the names of the columns stand here again", "leave the line out")
                yield Raw(line, raw, None, (flaw,))
            else:
                yield Raw(line, raw, dict(zip(form.columns, row, strict=True)))
        else:
            # A quotation mark that is never closed swallows lines behind it: those are read anew.
            again.extendleft(reversed(taken[1:]))
            rows = split_cells(lines(), form.delimiter, form.quoted)
            first = taken[0][1]
            told = told or f"{len(row)} cells where {len(form.columns)} are expected"
            if len(taken) > 1:
                told = f"a quotation mark is not closed, or {told}"
            flaw = Flaw("table", f"{told}: {brief(first.strip())}", "correct it; it is left out")
            yield Raw(line, first, None, (flaw,))


def _blocks(source: Source, text: BinaryIO, form: Form, shell: Shell, report: Report) -> Iterator[Raw]:
    """Yields sentences with all their lines, comments and the blank line behind them."""
    lines: list[str] = []
    begin = 1
    for number, line in numbered_lines(source, text, Problems()):
        if lines and lines[-1].strip() == "" and line.strip():
            yield _block(source, form, lines, begin)
            lines, begin = [], number
        lines.append(line)
    if lines:
        yield _block(source, form, lines, begin)


def _block(source: Source, form: Form, lines: list[str], begin: int) -> Raw:
    text = "".join(lines)
    problems = Problems()
    rows = list(read_rows(source, io.BytesIO(text.encode("utf-8")), form, problems))
    if rows:
        return Raw(begin, text, rows[0][1])
    if faults := problems.examples.get("misfit"):
        told = faults[0]
        line = begin + (told.line or 1) - 1
        return Raw(
            line, text, None, (Flaw("table", told.message.partition(";")[0], "correct it; its sentence is left out"),)
        )
    return Raw(begin, text, None)


def write_row(row: Row, raw: Raw, form: Form) -> str:
    """Writes a mended row in the form of its file."""
    ending = "\r\n" if raw.text.endswith("\r\n") else "\n"
    if form.kind == "jsonl":
        return json.dumps(row, ensure_ascii=False) + ending
    if form.kind == "json":
        return json.dumps(row, ensure_ascii=False)
    if form.kind == "table":
        if not form.quoted:
            return (
                form.delimiter.join(str(row[name]).replace("\t", " ").replace("\n", " ") for name in form.columns)
                + ending
            )
        target = io.StringIO()
        csv.writer(target, delimiter=form.delimiter, lineterminator=ending).writerow(
            [row[name] for name in form.columns]
        )
        return target.getvalue()
    if form.kind in ("conll", "conllu"):
        return _write_block(row, raw, form, ending)
    if form.kind == "labels":
        labels = row["label"] if isinstance(row["label"], list) else [row["label"]]
        mark = "__label__" if raw.text.startswith("__label__") else ""
        return " ".join([*(f"{mark}{label}" for label in labels), row["text"].replace("\n", " ")]) + ending
    if form.kind == "slashed":
        return " ".join(f"{token}/{tag}" for token, tag in zip(row["tokens"], row["tags"], strict=True)) + ending
    return str(row["text"]) + (ending if raw.text.endswith("\n") else "")


def _write_block(row: Row, raw: Raw, form: Form, ending: str) -> str:
    """Writes the cells of a sentence into its own lines, so that comments and blank lines stay."""
    written = []
    number = 0
    for line in raw.text.splitlines(keepends=True):
        cells = line.strip("\r\n").split(form.delimiter) if form.delimiter else line.split()
        skipped = form.kind == "conllu" and (line.startswith("#") or not cells[0].isdigit())
        if not line.strip() or skipped or cells[0] == "-DOCSTART-":
            written.append(line)
            continue
        values = [row[name][number] for name in form.columns]
        same = [cell.strip() for cell in cells] == values
        written.append(line if same else (form.delimiter or " ").join(values) + ending)
        number += 1
    return "".join(written)

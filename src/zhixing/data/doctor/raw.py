"""Rows of a file together with how they stand in it, so that a mended copy leaves good rows byte for byte as they are.

Lines that are not UTF-8 are read in the encoding that fits them, one by one. Broken lines of JSON are mended where only
one mend is possible.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from zhixing.data.decoding import CHUNK, find_encoding, is_chinese, read_up_to
from zhixing.data.doctor.findings import Flaw
from zhixing.data.problems import Problems
from zhixing.data.records import RECORD_LIMIT, JsonText, json_fault, numbered_lines, parquet_rows, utf8_stream
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


def to_utf8(source: Source, folder: Path) -> tuple[Source, list[tuple[int, str, str]]]:
    """Returns a source whose text is UTF-8: itself when it is, else a copy in a folder.

    Returns:
        The source, and (line, codec, the line) for each line that was in another encoding.
    """
    if source.format == "parquet" or _is_utf8(source):
        return source, []
    target = folder / (Path(source.member or source.path.name).name.removesuffix(".gz").removesuffix(".zst"))
    odd = []
    with open_source(source) as stream, target.open("wb") as file:
        for number, line in enumerate(_decoded(stream), start=1):
            text, codec = line
            file.write(text.encode("utf-8"))
            if codec != "utf-8":
                odd.append((number, codec, text))
    copy = replace(source, path=target, member=None, compression="none", size=target.stat().st_size)
    return copy, odd


def _is_utf8(source: Source) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open_source(source) as stream:
            first = read_up_to(stream, CHUNK)
            if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return False
            decoder.decode(first)
            while chunk := stream.read(CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    """Yields the lines of a stream, each with the codec that it is in."""
    first = read_up_to(stream, CHUNK)
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
    if first.startswith(marks):
        encoding = find_encoding(first, complete=False)
        rest = io.BufferedReader(_Joined(first[encoding.mark :], stream))  # type: ignore[type-var]
        for text in io.TextIOWrapper(rest, encoding.codec, "replace", newline=""):
            yield text, encoding.codec
        return
    joined = io.BufferedReader(_Joined(first, stream))  # type: ignore[type-var]
    while line := joined.readline(RECORD_LIMIT):
        yield decode_line(line)


class _Joined(io.RawIOBase):
    """The beginning of a stream that was read already, and its rest."""

    def __init__(self, first: bytes, stream: BinaryIO) -> None:
        self._first, self._stream = first, stream

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray) -> int:  # type: ignore[override]
        data = self._first[: len(target)] or self._stream.read(len(target))
        self._first = self._first[len(data) :] if self._first else b""
        target[: len(data)] = data
        return len(data)


def decode_line(line: bytes) -> tuple[str, str]:
    """Decodes a line: as UTF-8, else in the first encoding in which it reads as a language.

    What reads as none keeps its good characters; the bad bytes become U+FFFD, which only a person can mend.
    """
    try:
        return line.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    for codec, reads in _CODECS.items():
        if reads(line, codec):
            return line.decode(codec), codec
    return line.decode("utf-8", "replace"), "no known encoding"


def _reads_as_chinese(line: bytes, codec: str) -> bool:
    return is_chinese(line, True, codec)


def _reads_as_western(line: bytes, codec: str) -> bool:
    """Tells whether the characters beyond ASCII are letters within words, or the punctuation of Western languages."""
    try:
        text = line.decode(codec)
    except UnicodeDecodeError:
        return False
    beyond = sum(not character.isascii() for character in text)
    letters = sum(character.isalpha() for character in text)
    fitting = sum((c.isalpha() and c not in "ªºƒ") or c in _WESTERN for c in text if not c.isascii())
    return fitting > 0.9 * beyond and beyond <= 0.5 * max(letters, 2)


def _reads_in(first: str, last: str, share: float) -> Callable[[bytes, str], bool]:
    """Returns a test whether so large a share of the characters beyond ASCII is of one script."""

    def reads(line: bytes, codec: str) -> bool:
        try:
            beyond = [character for character in line.decode(codec) if not character.isascii()]
        except UnicodeDecodeError:
            return False
        return sum(first <= character <= last for character in beyond) > share * len(beyond)

    return reads


_WESTERN = frozenset("\u00a0‘’“”„‚‹›«»–—…•·°§©®™€£¥¢¡¿×÷±½¼¾²³¹µ¶†‡")
_KANA, _HANGUL = _reads_in("\u3040", "\u30ff", 0.3), _reads_in("\uac00", "\ud7a3", 0.8)
_CODECS: dict[str, Callable[[bytes, str], bool]] = {
    "cp932": _KANA,
    "euc_jp": _KANA,
    "gb18030": _reads_as_chinese,
    "big5": _reads_as_chinese,
    "euc_kr": _HANGUL,
    "cp1252": _reads_as_western,
}
"""Encodings that are tried for a line that is not UTF-8, with what tells that it reads as a language."""


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
    for number, line in numbered_lines(source, text, Problems()):
        if not line.strip():
            yield Raw(number, line, None)
            continue
        try:
            yield Raw(number, line, json.loads(line))
        except (ValueError, RecursionError) as error:
            told = f"not valid JSON: {json_fault(error)}"
            if several := _several_objects(line):
                flaw = Flaw("json", f"{len(several)} records on one line", "give each a line of its own")
                for place, one in enumerate(several):
                    yield Raw(number, line, one, (flaw,) if place == 0 else (), mended=True)
                continue
            row, how = mend_json(line)
            flaw = Flaw("json", told, how or "correct it; it is left out of a mended copy")
            yield Raw(number, line, row, (flaw,), mended=row is not None)


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
    candidates = [
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
                for line, item in reader.items():
                    yield Raw(line, reader.raw, item)
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
                yield Raw(line, reader.raw, value)
    except (ValueError, RecursionError) as error:
        report("json", reader.line, f"not valid JSON: {json_fault(error)}; nothing behind it can be read")


def _table(source: Source, text: BinaryIO, form: Form, shell: Shell, report: Report) -> Iterator[Raw]:
    csv.field_size_limit(max(csv.field_size_limit(), RECORD_LIMIT))
    numbered = numbered_lines(source, text, Problems())
    again: deque[tuple[int, str]] = deque()
    taken: list[tuple[int, str]] = []

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

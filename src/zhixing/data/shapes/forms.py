"""The form of a file: how its rows are written. Found from its beginning; what the rows mean is `layouts`' concern.

Forms: JSON Lines, JSON, Parquet, tables (CSV, TSV, with or without a first row of names), columns of tokens (CoNLL,
CoNLL-U), words with their tags behind a slash, lines that begin with a label, and plain lines.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from zhixing.core.errors import BadInput
from zhixing.data.decoding import CHUNK, NotTextError, find_encoding, read_up_to
from zhixing.data.shapes.schemes import split_tag
from zhixing.data.sources import Source

Kind = Literal["jsonl", "json", "parquet", "table", "conll", "conllu", "slashed", "labels", "lines"]

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The ten columns of CoNLL-U."""
SAMPLE_ROWS = 200
TAG_SUFFIXES = frozenset((".conll", ".bio", ".iob", ".iob2", ".bioes", ".bmes", ".ner"))
"""Endings of names that say: tokens with their tags."""
"""Rows that are looked at."""

_NAME = re.compile(r"[^\W\d][\w]{0,30}(?:[ _.-]\w+){0,3}$")
_CODE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?$")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?$")
_LABEL = re.compile(r"(?:__label__\S+|\d{1,3}|[A-Z]{2,12}(?::[\w.-]+)?)$")
_SLASHED = re.compile(r"\S+/[^\s/]{1,14}$")


@dataclass(frozen=True)
class Form:
    """How the rows of a file are written.

    Attributes:
        kind: The form.
        delimiter: What stands between the cells of a table or the columns of tokens; "" for any white space.
        quoted: Whether cells may be quoted.
        header: Whether the first row of a table names the columns.
        columns: Names of the columns, as far as the form knows them.
        why: What it was seen by.
        lead: Lines before all rows that only tell a spreadsheet the delimiter.
    """

    kind: Kind
    delimiter: str = ""
    quoted: bool = True
    header: bool = False
    columns: tuple[str, ...] = ()
    why: str = ""
    lead: int = 0

    def to_json(self) -> dict[str, object]:
        """Returns the form as plain data."""
        return {**vars(self), "columns": list(self.columns)}


def find_form(
    source: Source, stream: BinaryIO, known: frozenset[str], mapping: Mapping[str, str] | None = None
) -> Form | None:
    """Finds the form of a source from its first bytes; None when they are no text, which reading will report.

    Args:
        source: The source.
        stream: Its bytes, decompressed.
        known: Names of columns, in lower case, by which a first row of names is seen.
        mapping: The columns that the user named, from role to column.
    """
    if source.format == "parquet":
        return Form("parquet", why="a Parquet file")
    if source.format in ("jsonl", "json"):
        return Form(source.format, why=f"its name ends in {source.suffix}")
    first = read_up_to(stream, CHUNK)
    whole = len(first) < CHUNK
    try:
        encoding = find_encoding(first, complete=whole, nul_share=0.1)
    except NotTextError:
        return None
    text = codecs.getincrementaldecoder(encoding.codec)("replace").decode(first[encoding.mark :], whole)
    lines = text.split("\n") if "\n" in text else text.split("\r")
    if lines and not lines[-1]:
        lines.pop()
    if not whole and lines:
        lines.pop()  # cut off
    if source.format in ("csv", "tsv"):
        return _table(lines, "\t" if source.format == "tsv" else "", known, mapping)
    return _plain(lines, known, mapping, source.suffix)


def _plain(lines: Sequence[str], known: frozenset[str], mapping: Mapping[str, str] | None, suffix: str = "") -> Form:
    """Tells the form of a file whose name does not say it, or hardly."""
    filled = [line for line in lines[:5000] if line.strip()]
    if not filled:
        return Form("lines", why="an empty file")
    if filled[0].lstrip().startswith("{") and all(_is_object(line) for line in filled[:5]):
        return Form("jsonl", why="every line is a JSON object")
    if conllu := _conllu(filled):
        return conllu
    if conll := _conll(lines[:5000], filled, named=suffix in TAG_SUFFIXES):
        return conll
    if slashed := _slashed(filled):
        return slashed
    if labels := _labels(filled):
        return labels
    counts = {line.count("\t") + 1 for line in filled[:SAMPLE_ROWS]}
    if len(counts) == 1 and counts != {1} and len(filled) > 1:
        return _table(lines, "\t", known, mapping)
    return Form("lines", why="plain lines")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _conllu(filled: Sequence[str]) -> Form | None:
    words = [line for line in filled if not line.startswith("#")]
    if words and all(line.count("\t") == 9 and line[0].isdigit() for line in words[:SAMPLE_ROWS]):
        return Form("conllu", "\t", quoted=False, columns=CONLLU, why="ten columns with tabs, as CoNLL-U has them")
    return None


def _conll(lines: Sequence[str], filled: Sequence[str], named: bool) -> Form | None:
    """Recognises columns of tokens: short words, a tag at the end of each line, blank lines between sentences.

    A few lines may be broken: more of them where the file's name says what it holds.
    """
    blank = len(lines) - len(filled)
    tabbed = sum("\t" in line for line in filled) > 0.9 * len(filled)
    rows = [line.split("\t") if tabbed else line.split() for line in filled if not line.startswith("-DOCSTART-")]
    if len(rows) < 2 or not blank:
        return None
    widths = [len(row) for row in rows]
    usual = max(set(widths), key=widths.count)
    broken = len(widths) - widths.count(usual)
    spared = max(1, (0.3 if named else 0.05) * len(widths)) if len(widths) >= 6 else 0
    if usual < 2 or broken > spared:
        return None
    rows = [row for row in rows if len(row) == usual]
    last = [row[-1].strip() for row in rows]
    delimiter, columns = "\t" if tabbed else "", tuple(str(k) for k in range(1, usual + 1))
    tagged = sum(_is_tag(tag) for tag in last)
    if len(last) - tagged <= max(spared - broken, 0.02 * len(last)) and any(tag != "O" for tag in last) and "O" in last:
        why = f"{usual} columns with a tag such as {next(tag for tag in last if tag != 'O')} at the end of each line"
        return Form("conll", delimiter, quoted=False, columns=columns, why=why)
    short = all(len(row[0]) <= 40 for row in rows[:SAMPLE_ROWS])
    if (
        short
        and (named or broken <= 0.05 * len(widths))
        and len(set(last)) <= min(100, len(last) / 4)
        and len(rows) / (blank + 1) > 2
    ):
        why = f"{usual} columns, the last with {len(set(last))} different classes, and blank lines between sentences"
        return Form("conll", delimiter, quoted=False, columns=columns, why=why)
    return None


def _is_tag(tag: str) -> bool:
    if tag == "O":
        return True
    position, hyphen, _ = tag.partition("-")
    if not hyphen or len(position) != 1:
        return False
    try:
        split_tag(tag)
    except BadInput:
        return False
    return True


def _slashed(filled: Sequence[str]) -> Form | None:
    words = [word for line in filled[:SAMPLE_ROWS] for word in line.split()]
    if len(words) >= 30 and sum(bool(_SLASHED.match(word)) for word in words) >= 0.95 * len(words):
        return Form("slashed", why=f"words with a tag behind a slash, such as {words[0]}")
    return None


def _labels(filled: Sequence[str]) -> Form | None:
    firsts = [line.split(None, 1) for line in filled]
    if len(firsts) < 20 or any(len(pair) < 2 for pair in firsts):
        return None
    found = {pair[0] for pair in firsts}
    if not all(_LABEL.match(label) for label in found) or not 2 <= len(found) <= min(200, len(firsts) / 5):
        return None
    why = f"each line begins with one of {len(found)} labels: {', '.join(sorted(found)[:4])}"
    return Form("labels", columns=("label", "text"), why=why)


_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?')
"""The line by which Excel is told how cells are separated."""


def _table(lines: Sequence[str], delimiter: str, known: frozenset[str], mapping: Mapping[str, str] | None) -> Form:
    """Finds delimiter, quoting and header of a table."""
    if not lines:
        return Form("table", delimiter or ",", why="an empty table")
    if (told := _SEPARATOR.fullmatch(lines[0].strip())) and len(lines) > 1:
        return replace(_table(lines[1:], told[1], known, mapping), lead=1)
    delimiter = delimiter or max(",;\t|", key=lines[0].count)
    quoted = delimiter != "\t" or _tabs_are_quoted(lines)
    rows = list(itertools.islice(cells(lines, delimiter, quoted), SAMPLE_ROWS))
    if not rows:
        return Form("table", delimiter, quoted, why="an empty table")
    first = [cell.strip() for cell in rows[0]]
    header, why = _is_header(first, rows[1:], known, mapping)
    names = first if header else []
    columns = tuple(name or str(number) for number, name in enumerate(names, start=1)) if header else ()
    if len(set(columns)) != len(columns):
        columns = tuple(f"{name}#{k}" if columns.count(name) > 1 else name for k, name in enumerate(columns, start=1))
    columns = columns or tuple(str(number) for number in range(1, len(first) + 1))
    return Form("table", delimiter, quoted, header, columns, why)


def cells(lines: Sequence[str] | Iterator[str], delimiter: str, quoted: bool) -> Iterator[list[str]]:
    """Splits the lines of a table into cells."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return iter(csv.reader(lines, delimiter=delimiter, quoting=quoting))


def _tabs_are_quoted(lines: Sequence[str]) -> bool:
    """Tells whether a TSV file quotes cells: some cell begins and ends with a quote and doubles those within.

    Most TSV files of language data do not, and hold quotes as they are.
    """
    counts = {line.count("\t") for line in lines if line.strip()}
    doubled = any(
        len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]
        for line in lines
        for cell in line.split("\t")
    )
    return doubled or (len(counts) > 1 and any(line.count('"') % 2 for line in lines))


def _is_header(
    first: list[str], rows: list[list[str]], known: frozenset[str], mapping: Mapping[str, str] | None
) -> tuple[bool, str]:
    """Tells whether the first row names the columns, and why."""
    lowered = [cell.lower() for cell in first]
    if mapping:
        numbered = all(str(name).isdigit() for name in mapping.values())
        if not numbered and any(name in first for name in mapping.values()):
            return True, "the first row holds the names that were given"
    if any(len(cell) > 40 for cell in first) or any(_NUMBER.match(cell) for cell in first):
        return False, "no row of names"
    if found := [cell for cell in lowered if cell in known]:
        return True, f"the first row names {', '.join(found[:3])}"
    named = [cell for cell in first if cell]
    if len(first) > 1 and named and all(_CODE.match(cell) for cell in named) and len(set(named)) == len(named):
        return True, f"the first row holds codes of languages: {', '.join(named)}"
    if len(first) > 1 and named and all(_NAME.match(cell) for cell in named) and len(set(named)) == len(named):
        for column in range(len(first)):
            values = [row[column] for row in rows if len(row) > column]
            unlike = sum(bool(_NUMBER.match(value)) or len(value) > 30 for value in values)
            if len(values) >= 3 and unlike >= 0.9 * len(values):
                return True, f"the first row looks like names: {', '.join(named[:4])}"
    return False, "no row of names"

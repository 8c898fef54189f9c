"""Reading the rows of a source in its form, as a stream. Finding the form is `forms`' concern."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from zhixing.data.problems import Problems
from zhixing.data.records import json_lines, json_values, numbered_lines, parquet_rows, utf8_stream
from zhixing.data.shapes.forms import Form
from zhixing.data.sources import Source
from zhixing.data.tables import table_rows

Row = Any
"""A dict as a rule; whatever else JSON holds otherwise."""


def read_rows(source: Source, stream: BinaryIO, form: Form, problems: Problems) -> Iterator[tuple[int, Row]]:
    """Reads the rows of a source.

    Yields:
        The line on which a row begins (the row number for Parquet) and the row: for tables a dict by column; for
        columns of tokens a dict from column to the list of a sentence; for JSON what stands there.
    """
    if form.kind == "parquet":
        yield from parquet_rows(source, stream, problems, None)
        return
    text = utf8_stream(source, stream, problems)
    if text is None:
        return
    if form.kind == "jsonl":
        yield from json_lines(source, text, problems)
    elif form.kind == "json":
        yield from json_values(source, text, problems)
    elif form.kind == "table":
        yield from _table(source, text, form, problems)
    elif form.kind in ("conll", "conllu"):
        yield from _sentences(source, text, form, problems)
    else:
        yield from _lines(source, text, form, problems)


def _table(source: Source, text: BinaryIO, form: Form, problems: Problems) -> Iterator[tuple[int, Row]]:
    header = form.header
    lines = (numbered for numbered in numbered_lines(source, text, problems) if numbered[0] > form.lead)
    for line, row in table_rows(lines, form.delimiter, source.name, problems, quoted=form.quoted):
        if header:
            header = False
            continue
        if not row or row == [""]:
            continue
        if len(row) != len(form.columns):
            fault = f"{len(row)} cells where {len(form.columns)} are expected ({', '.join(form.columns[:6])})"
            problems.report("csv", source.name, fault, line=line)
            continue
        yield line, dict(zip(form.columns, row, strict=True))


def _sentences(source: Source, text: BinaryIO, form: Form, problems: Problems) -> Iterator[tuple[int, Row]]:
    """Gathers columns of tokens into sentences. A line with another number of columns costs its sentence."""
    columns: list[list[str]] = [[] for _ in form.columns]
    begin, spoilt = 0, False

    def finish() -> Iterator[tuple[int, Row]]:
        nonlocal columns, spoilt
        if columns[0] and not spoilt:
            yield begin, dict(zip(form.columns, columns, strict=True))
        columns, spoilt = [[] for _ in form.columns], False

    for number, raw in numbered_lines(source, text, problems):
        line = raw.rstrip("\r\n")
        if not line.strip():
            yield from finish()
            continue
        if form.kind == "conllu" and line.startswith("#"):
            continue
        cells = line.split(form.delimiter) if form.delimiter else line.split()
        if cells[0] == "-DOCSTART-":
            problems.report("border", source.name, "-DOCSTART-", line=number)
            continue
        if form.kind == "conllu" and not cells[0].isdigit():
            continue  # 3-4 for a word of several tokens, 5.1 for one that is not written
        if not columns[0]:
            begin = number
        if len(cells) != len(columns):
            if not spoilt:
                fault = f"{len(cells)} column(s) where {len(columns)} are expected: {line[:60]!r}"
                mend = "its sentence is left out; mend the line, or put a blank line between sentences"
                problems.report("misfit", source.name, f"{fault}; {mend}", line=number)
            spoilt = True
            columns[0].append("")
            continue
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell.strip())
    yield from finish()


def _lines(source: Source, text: BinaryIO, form: Form, problems: Problems) -> Iterator[tuple[int, Row]]:
    for number, raw in numbered_lines(source, text, problems):
        line = raw.rstrip("\r\n")
        if form.kind == "lines":
            yield number, {"text": line}
        elif not line.strip():
            continue
        elif form.kind == "labels":
            yield number, _labelled(line)
        else:
            pairs = [word.rpartition("/") for word in line.split()]
            yield number, {"tokens": [word for word, _, _ in pairs], "tags": [tag for _, _, tag in pairs]}


def _labelled(line: str) -> Row:
    labels: list[str] = []
    rest = line
    while True:
        label, _, after = rest.lstrip().partition(" ")
        if labels and not label.startswith("__label__"):
            break
        labels.append(label.removeprefix("__label__"))
        rest = after
        if not line.startswith("__label__"):
            break
    return {"label": labels[0] if len(labels) == 1 else labels, "text": rest.strip()}

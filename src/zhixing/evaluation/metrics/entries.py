"""Reading predictions and references: lines of text, JSON Lines, tables, columns of tags, SQuAD's and TREC's files.

Every fault is one message with file and line. Nothing is left out: one line that is missing would shift all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, nearest
from zhixing.data.problems import Problems
from zhixing.data.readers import fault_reason
from zhixing.data.shapes.forms import Form, find_form
from zhixing.data.shapes.rows import Row, read_rows
from zhixing.data.sources import Source, find_sources
from zhixing.data.streams import open_source, read_faults
from zhixing.evaluation.metrics.base import short
from zhixing.evaluation.metrics.registry import Family

PREDICTED = (
    *("prediction", "predicted", "pred", "output", "hypothesis", "hyp", "generated", "completion", "translation"),
    *("summary", "answer", "label", "tags", "ranking", "results", "retrieved", "text"),
)
"""Names of fields that hold predictions, best first."""
REFERENCE = (
    *("references", "reference", "ref", "refs", "gold", "expected", "target", "targets", "answers", "answer"),
    *("relevant", "qrels", "label", "labels", "tags", "summary", "translation", "text"),
)
"""Names of fields that hold references, best first."""
IDS = ("id", "qid", "query_id", "question_id", "idx")
CONFIDENCES = ("confidence", "probability", "score")
NO_ANSWER = "no_answer_probability"


@dataclass
class Entries:
    """What a file holds, in its order.

    Attributes:
        source: The file.
        values: A value for each example.
        lines: The line that each stands on.
        ids: The name of each, where the file has names.
        column: The field or column that was taken, "" for whole lines.
        extra: Further columns by name, such as probabilities.
    """

    source: str
    values: list[Any] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    ids: list[str] | None = None
    column: str = ""
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def place(self, example: int) -> str:
        """Returns file and line of an example, counted from 1."""
        return f"{self.source}:{self.lines[example - 1]}" if 0 < example <= len(self.lines) else self.source


def read_entries(path: str | Path, family: Family, names: Sequence[str], asked: str | None) -> Entries:
    """Reads one file.

    Args:
        path: The file, also compressed.
        family: The measures that it is for, which decide what its values are.
        names: `PREDICTED` or `REFERENCE`: names of the field that is looked for.
        asked: The field that the user named.

    Raises:
        MissingResource: It is not there.
        BadInput: It cannot be read, is empty, or does not hold what the measure takes.
    """
    sources = find_sources([path])
    if len(sources) > 1:
        raise BadInput(f"{len(sources)} files where one is expected", where=str(path))
    source = sources[0]
    problems = Problems()
    rows: list[tuple[int, Row]] = []
    try:
        with open_source(source) as stream:
            form = find_form(source, stream, frozenset(names)) or Form("lines")
        form = _form(source, form, family)
        with open_source(source) as stream:
            rows += read_rows(source, stream, form, problems)
    except read_faults() as error:
        raise BadInput(fault_reason(error), where=source.name) from error
    if problems.faults and (first := problems.first()):
        where = first.source if first.line is None else f"{first.source}:{first.line}"
        raise BadInput(first.message, where=where, remedy="mend the line: nothing can be left out here")
    if not rows:
        raise BadInput("the file is empty: there is nothing to score", where=source.name)
    entries = _entries(source, form, rows, family, names, asked)
    if entries.ids is not None and len(set(entries.ids)) != len(entries.ids):
        twice = next(k for k, name in enumerate(entries.ids) if name in entries.ids[:k])
        raise BadInput(f"the id {entries.ids[twice]!r} stands here a second time", where=entries.place(twice + 1))
    return entries


def _form(source: Source, form: Form, family: Family) -> Form:
    """Takes a text file by its lines, whatever it looks like, but for tags and rankings, which have forms of their
    own."""
    if source.format == "text" and form.kind != "jsonl" and not (family.kind == "tags" and form.kind == "conll"):
        return Form("lines")
    return form


def _entries(
    source: Source, form: Form, rows: list[tuple[int, Row]], family: Family, names: Sequence[str], asked: str | None
) -> Entries:
    name = source.name
    lines = [line for line, _ in rows]
    if form.kind == "lines":
        texts = [(line, row["text"]) for line, row in rows]
        return _from_lines(name, texts, family, names)
    if form.kind == "conll":
        return Entries(name, [row[form.columns[-1]] for _, row in rows], lines, column=f"column {form.columns[-1]}")
    if family.kind == "answers" and (found := _squad(name, rows)):
        return found
    first = rows[0][1]
    if len(rows) == 1 and form.kind == "json" and _is_by_id(first):
        by_id = list(first.values())
        return Entries(name, by_id, [1] * len(by_id), [str(key) for key in first], "values by id")
    if not isinstance(first, Mapping):
        return Entries(name, [_value(row, family, name, line, "") for line, row in rows], lines)
    column = _column(rows, names, asked, name, family)
    ids = _ids(rows)
    values = [_field(row, column, family, name, line) for line, row in rows]
    found = Entries(name, values, lines, ids, column)
    if all(isinstance(row.get(NO_ANSWER), int | float) for _, row in rows):
        found.extra[NO_ANSWER] = [float(row[NO_ANSWER]) for _, row in rows]
    return found


def _is_by_id(value: Any) -> bool:
    """Tells whether a value is one object, from name to prediction, as SQuAD's program takes it."""
    return (
        isinstance(value, Mapping)
        and len(value) > 1
        and all(isinstance(one, str | int | float | list) for one in value.values())
    )


def _ids(rows: list[tuple[int, Row]]) -> list[str] | None:
    for key in IDS:
        if all(isinstance(row, Mapping) and isinstance(row.get(key), str | int) for _, row in rows):
            return [str(row[key]) for _, row in rows]
    return None


def _column(rows: list[tuple[int, Row]], names: Sequence[str], asked: str | None, source: str, family: Family) -> str:
    line, first = rows[0]
    if asked is not None:
        if asked in first:
            return asked
        guess = nearest(asked, first)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise BadInput(f"no field {asked!r}", where=f"{source}:{line}", remedy=f"{hint}fields: {', '.join(first)}")
    lowered = {str(key).lower(): str(key) for key in first}
    for known in names:
        if known in lowered:
            return lowered[known]
    rest = [str(key) for key in first if key not in IDS]
    if family.kind == "losses" or len(rest) == 1:
        return rest[0]
    raise BadInput(
        f"no field has a usual name ({', '.join(names[:5])}, ...)",
        where=f"{source}:{line}",
        remedy=f"name it with --prediction or --reference; fields: {', '.join(first)}",
    )


def _field(row: Row, column: str, family: Family, source: str, line: int) -> Any:
    if not isinstance(row, Mapping) or column not in row:
        raise BadInput(f"no field {column!r}, which the first line has", where=f"{source}:{line}", remedy="add it")
    if family.kind == "confidences" and (confident := _confidence(row, column)):
        return confident
    if family.kind == "losses":
        try:
            return tuple(float(row[key]) for key in ("nats", "tokens", "bytes"))
        except (KeyError, TypeError, ValueError):
            raise BadInput(
                f"numbers named nats, tokens and bytes are expected, this is {short(dict(row))}",
                where=f"{source}:{line}",
            ) from None
    return _value(row[column], family, source, line, column)


def _confidence(row: Mapping[str, Any], column: str) -> tuple[Any, float] | None:
    by_label = row.get("probabilities")
    if isinstance(by_label, Mapping) and by_label:
        best = max(by_label, key=lambda label: float(by_label[label]))
        return best, float(by_label[best])
    for key in CONFIDENCES:
        if isinstance(row.get(key), int | float):
            return _label(row[column]), float(row[key])
        if isinstance(row.get(key), str) and re.fullmatch(r"[\d.eE+-]+", row[key]):
            return _label(row[column]), float(row[key])
    return None


def _label(value: Any) -> Any:
    return str(value) if isinstance(value, bool | int | float) else value.strip() if isinstance(value, str) else value


def _value(value: Any, family: Family, source: str, line: int, column: str) -> Any:
    """Returns a value as the measure takes it."""
    if family.kind in ("labels", "confidences"):
        return [_label(one) for one in value] if isinstance(value, list) else _label(value)
    if family.kind == "tags":
        return value.split() if isinstance(value, str) else value
    if (
        family.kind in ("texts", "answers", "generated")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    ):
        return str(value)
    if value is None:
        raise BadInput(f"{column!r} is null", where=f"{source}:{line}", remedy='write "" for an empty text')
    return value


def _squad(source: str, rows: list[tuple[int, Row]]) -> Entries | None:
    """Reads accepted answers in the form of SQuAD or CMRC; None when it is another form."""
    if not all(isinstance(row, Mapping) and ("paragraphs" in row or "qas" in row) for _, row in rows):
        return None
    found = Entries(source, ids=[], column="answers")
    for line, row in rows:
        for question in _questions(row):
            identity = question.get("id", question.get("query_id"))
            answers = question.get("answers")
            if identity is None or not isinstance(answers, list):
                raise BadInput(f"a question without id or answers: {short(question)}", where=f"{source}:{line}")
            texts = [answer.get("text") if isinstance(answer, Mapping) else answer for answer in answers]
            found.values.append([] if question.get("is_impossible") is True else texts)
            found.lines.append(line)
            assert found.ids is not None
            found.ids.append(str(identity))
    return found


def _questions(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for paragraph in row.get("paragraphs", [row]):
        yield from paragraph.get("qas", ())


def _from_lines(source: str, texts: list[tuple[int, str]], family: Family, names: Sequence[str]) -> Entries:
    lines = [line for line, _ in texts]
    if family.kind == "tags":
        return _tag_lines(source, texts)
    if family.kind == "rankings":
        return _trec(source, texts, names is REFERENCE)
    if family.kind == "labels":
        for line, text in texts:
            if not text.strip():
                raise BadInput("an empty line where a label is expected", where=f"{source}:{line}")
        return Entries(source, [text.strip() for _, text in texts], lines)
    if family.kind == "confidences" and names is PREDICTED:
        return Entries(source, [_label_and_probability(source, line, text) for line, text in texts], lines)
    if family.kind == "confidences":
        return Entries(source, [text.strip() for _, text in texts], lines)
    if family.kind == "losses":
        raise BadInput("JSON Lines with nats, tokens and bytes are expected", where=f"{source}:1")
    return Entries(source, [text for _, text in texts], lines)


def _label_and_probability(source: str, line: int, text: str) -> tuple[str, float]:
    label, _, number = text.strip().rpartition("\t" if "\t" in text else " ")
    try:
        return label.strip(), float(number)
    except ValueError:
        raise BadInput(
            f"a label and its probability are expected, this is {short(text)}",
            where=f"{source}:{line}",
            remedy="write them with a tab between, or as JSON Lines",
        ) from None


def _tag_lines(source: str, texts: list[tuple[int, str]]) -> Entries:
    """Reads a sentence of tags a line, or one token a line with blank lines between sentences."""
    found = Entries(source)
    blank = any(not text.strip() for _, text in texts)
    if not blank and any(len(text.split()) > 1 for _, text in texts):
        return Entries(source, [text.split() for _, text in texts], [line for line, _ in texts], column="lines of tags")
    tags: list[str] = []
    begin = 1
    for line, text in [*texts, (len(texts) + 1, "")]:
        cells = text.split()
        if cells and not tags:
            begin = line
        if cells and cells[0] != "-DOCSTART-":
            tags.append(cells[-1])
        elif tags:
            found.values.append(tags)
            found.lines.append(begin)
            tags = []
    found.column = "last column"
    return found


def _trec(source: str, texts: list[tuple[int, str]], relevance: bool) -> Entries:
    """Reads TREC's forms: a run (query Q0 item rank score name) or judgements (query 0 item grade)."""
    width = 4 if relevance else 6
    scored: dict[str, list[tuple[float, str]]] = {}
    first: dict[str, int] = {}
    for line, text in texts:
        cells = text.split()
        if not cells:
            continue
        try:
            if len(cells) != width:
                raise ValueError
            scored.setdefault(cells[0], []).append((float(cells[3 if relevance else 4]), cells[2]))
        except ValueError:
            form = "query 0 item grade" if relevance else "query Q0 item rank score name"
            raise BadInput(
                f"{short(text)} is not a line of {'judgements' if relevance else 'a run'} ({form})",
                where=f"{source}:{line}",
                remedy='write it so, or as JSON Lines: {"id": ..., '
                + ('"relevant": [...]}' if relevance else '"ranking": [...]}'),
            ) from None
        first.setdefault(cells[0], line)
    values: list[Any] = [{item: grade for grade, item in found} for found in scored.values()]
    if not relevance:
        # A run is ranked by its scores; of equal ones the later item comes first, as trec_eval has it.
        values = [[item for _, item in sorted(found, reverse=True)] for found in scored.values()]
    return Entries(source, values, [first[query] for query in scored], list(scored), "TREC")

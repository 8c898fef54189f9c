"""Finding the shape of a file by looking: which layout its rows have, which columns hold what, how sure that is and
why.

Names of columns decide, checked against their values; where there are no names, the values decide. Nothing is settled
in
silence: a detection says what it saw, and below `SURE` reading asks for an explicit mapping.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, nearest, unknown_name
from zhixing.data.problems import Problems
from zhixing.data.readers import fault_reason
from zhixing.data.shapes.build import PLACED, Context
from zhixing.data.shapes.captioned import Surroundings
from zhixing.data.shapes.forms import SAMPLE_ROWS, Form, find_form
from zhixing.data.shapes.layouts import KNOWN, LAYOUTS, Field, Layout
from zhixing.data.shapes.records import SHAPES, Misfit, Shape, brief
from zhixing.data.shapes.rows import Row, read_rows
from zhixing.data.shapes.schemes import find_scheme
from zhixing.data.shapes.values import Column, look_at
from zhixing.data.sources import Source, find_sources
from zhixing.data.streams import open_source, read_faults

SURE = 0.6
"""Below this confidence a shape is not taken without being told."""
APART = 0.08
"""Two shapes closer than this are both possible."""


@dataclass(frozen=True)
class Detection:
    """What a file was seen to be.

    Attributes:
        source: The file.
        shape: The shape of its records, None when none fits.
        layout: The way they are written.
        columns: From role to the column that holds it.
        confidence: From 0 to 1; names and values that fit give more than values alone.
        reason: What it was seen by, in words.
        form: How the rows are written.
        found: The columns of the file.
        alternatives: Other shapes that the rows would fit, with their confidence.
        notes: What else a reader should know, such as the scheme of tags.
        example: The first record that could be built, None when there is none.
        decisive: Whether the columns leave no doubt: nothing else has "chosen" and "rejected".
        context: What building needs beside the columns.
    """

    source: Source
    shape: Shape | None
    layout: str
    columns: Mapping[str, str]
    confidence: float
    reason: str
    form: Form
    found: tuple[str, ...] = ()
    alternatives: tuple[tuple[Shape, float], ...] = ()
    notes: tuple[str, ...] = ()
    example: Any = None
    decisive: bool = False
    context: Context = field(default_factory=Context)

    @property
    def sure(self) -> bool:
        """Whether reading may go ahead without an explicit mapping."""
        if self.shape is None or self.confidence < SURE:
            return False
        return not any(confidence > self.confidence - APART for _, confidence in self.alternatives)

    def to_json(self) -> dict[str, Any]:
        """Returns the detection as plain data."""
        return {
            "file": self.source.name,
            "shape": self.shape,
            "layout": self.layout,
            "columns": dict(self.columns),
            "confidence": round(self.confidence, 3),
            "sure": self.sure,
            "reason": self.reason,
            "form": self.form.kind,
            "found": list(self.found),
            "alternatives": {shape: round(confidence, 3) for shape, confidence in self.alternatives},
            "notes": list(self.notes),
        }

    def error(self) -> BadInput:
        """Builds the error for a file whose shape must be said, with the mapping that says it."""
        several = [self.shape, *(shape for shape, _ in self.alternatives)] if self.shape else []
        seen = f"columns: {', '.join(self.found[:12])}" if self.found else self.reason
        if several:
            options = " or ".join(dict.fromkeys(str(shape) for shape in several))
            return BadInput(
                f"its records may be {options} (confidence {self.confidence:.2f}: {self.reason})",
                where=self.source.name,
                remedy=f"say which with shape: {several[0]} and columns: {{{_example(several[0])}}}; {seen}",
            )
        return BadInput(
            f"no shape of records is known that fits: {self.reason}",
            where=self.source.name,
            remedy=f"say which columns hold what, as in columns: {{source: en, target: de}}; {seen}",
        )


def _example(shape: Shape | None) -> str:
    layout = next((layout for layout in LAYOUTS if layout.shape == shape), LAYOUTS[0])
    return ", ".join(f"{role}: COLUMN" for role in layout.required)


def detect(
    path: str | Path | Source,
    *,
    shape: Shape | None = None,
    columns: Mapping[str, str] | None = None,
    around: Surroundings | None = None,
) -> Detection:
    """Finds the shape of one file.

    Args:
        path: The file; a zip archive must hold one readable file.
        shape: Consider only this shape.
        columns: Which column holds which role; the shape then follows from the roles.
        around: Where paths in the file lead, when that is not where it lies.

    Raises:
        MissingResource: The file is not there.
        BadInput: It cannot be read, there are several files, or a column or role that is named does not exist.
    """
    if isinstance(path, Source):
        source = path
    else:
        sources = find_sources([path])
        if len(sources) > 1:
            raise BadInput(f"{len(sources)} files here; look at one at a time", where=str(path))
        source = sources[0]
    if shape is not None and shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES)
    form, rows = _sample(source, columns)
    context = Context(around or Surroundings.of(source))
    if columns:
        return _mapped(source, form, rows, columns, shape, context)
    candidates = [found for layout in LAYOUTS if (found := _try(layout, source, form, rows, context)) is not None]
    candidates += _by_form(source, form, rows, context)
    best = _best(candidates) if candidates else None
    names = tuple(_names(rows, form))
    if best is not None and best.decisive and shape not in (None, best.shape):
        reason = f"its records are {best.shape} ({', '.join(best.columns.values())}), not {shape}"
        return Detection(source, None, "", {}, 0.0, reason, form, names, context=context)
    if shape is not None:
        candidates = [found for found in candidates if found.shape == shape]
        best = _best(candidates) if candidates else None
    if best is None:
        wanted = f" of {shape}" if shape else ""
        reason = f"{form.why}; no layout{wanted} has these columns" if names else form.why
        return Detection(source, None, "", {}, 0.0, reason, form, names, context=context)
    return best


def _best(candidates: list[Detection]) -> Detection:
    """Returns the surest candidate, with the others of other shapes as alternatives."""
    ordered = sorted(candidates, key=lambda one: (-one.decisive, -one.confidence))
    best = ordered[0]
    others: dict[Shape, float] = {}
    for one in ordered[1:]:
        contends = one.decisive or not best.decisive
        if one.shape is not None and one.shape != best.shape and one.confidence >= 0.3 and contends:
            others[one.shape] = max(one.confidence, others.get(one.shape, 0.0))
    return replace(best, alternatives=tuple(others.items()))


def _sample(source: Source, mapping: Mapping[str, str] | None) -> tuple[Form, list[Row]]:
    """Returns the form of a source and its first rows.

    Raises:
        BadInput: It cannot be read.
    """
    problems = Problems()
    try:
        with open_source(source) as stream:
            form = find_form(source, stream, KNOWN, mapping)
        if form is None:
            form = Form("lines", why="no text")
        with open_source(source) as stream:
            rows = [row for _, row in itertools.islice(read_rows(source, stream, form, problems), SAMPLE_ROWS)]
    except read_faults() as error:
        raise BadInput(fault_reason(error), where=source.name, remedy="look at the file, or fetch it again") from error
    if not rows:
        first = problems.first()
        raise BadInput(
            f"no record can be read{f': {first.message}' if first else ''}",
            where=source.name if first is None or first.line is None else f"{source.name}:{first.line}",
            remedy="give a file with records",
        )
    return form, rows


def _names(rows: Sequence[Row], form: Form) -> list[str]:
    if form.kind in ("table", "conll", "conllu"):
        return list(form.columns)
    return list(dict.fromkeys(str(name) for row in rows if isinstance(row, Mapping) for name in row))


def _try(layout: Layout, source: Source, form: Form, rows: Sequence[Row], context: Context) -> Detection | None:
    """Matches a layout against rows: a column for each of its fields, with values that can be it."""
    if form.kind in ("conll", "conllu", "lines", "slashed"):
        return None
    names = _names(rows, form)
    lowered: dict[str, str] = {}
    for name in names:
        lowered.setdefault(name.strip().lower(), name)
    columns: dict[str, str] = {}
    penalty = 0.0
    for one in layout.fields:
        chosen = _column(one, lowered, rows, set(columns.values()))
        if chosen is None:
            if one.required:
                return None
            continue
        columns[one.role] = chosen
        if one.required:
            penalty += min(0.06, 0.005 * one.names.index(chosen.strip().lower()))
    confidence = layout.prior - penalty
    unused = [name for name in names if name not in columns.values()]
    if layout.name == "text" and layout.shape == "text" and not unused:
        confidence += 0.2
    if layout.whole and any(_is_prose(rows, name) for name in unused):
        confidence -= 0.3
    return _checked(layout, source, form, rows, columns, confidence, context, f"fields {', '.join(columns.values())}")


def _column(one: Field, lowered: Mapping[str, str], rows: Sequence[Row], taken: set[str]) -> str | None:
    for name in one.names:
        column = lowered.get(name)
        if column is None or column in taken:
            continue
        values = [row[column] for row in rows if isinstance(row, Mapping) and row.get(column) is not None]
        if values and sum(one.test(value) for value in values) >= 0.5 * len(values):
            return column
    return None


def _is_prose(rows: Sequence[Row], name: str) -> bool:
    values = [row.get(name) for row in rows if isinstance(row, Mapping)]
    return look_at(name, [value for value in values if isinstance(value, str)]).kind == "text"


def _checked(
    layout: Layout,
    source: Source,
    form: Form,
    rows: Sequence[Row],
    columns: Mapping[str, str],
    confidence: float,
    context: Context,
    reason: str,
) -> Detection | None:
    """Builds the first rows; every one that does not fit makes the layout less likely."""
    if layout.name == "translation by language" and context.direction is None:
        languages = _languages(rows, columns["translation"])
        if languages is None:
            return None
        # Which of both is the source cannot be seen.
        context, confidence = replace(context, direction=languages), SURE - 0.1
        reason += f"; texts in {' and '.join(languages)}: the direction must be said"
    built, example = 0, None
    fault = ""
    for row in rows:
        try:
            found = [one for one in layout.build(row, columns, context) if not isinstance(one, Misfit)]
            built += bool(found)
            example = example or (found[0] if found else None)
        except Misfit as misfit:
            fault = fault or str(misfit)
    share = built / len(rows)
    if not built:
        return None
    if fault:
        reason += f"; {len(rows) - built} of the first {len(rows)} do not fit ({fault})"
    return Detection(
        source,
        layout.shape,
        layout.name,
        columns,
        confidence * (0.7 + 0.3 * share),
        f"{form.why}; {reason}",
        form,
        tuple(_names(rows, form)),
        example=example,
        decisive=layout.decisive,
        context=context,
    )


def _languages(rows: Sequence[Row], column: str) -> tuple[str, str] | None:
    keys = [sorted(row[column]) for row in rows if isinstance(row, Mapping) and isinstance(row.get(column), Mapping)]
    if not keys or len(keys[0]) != 2 or any(key != keys[0] for key in keys):
        return None
    return keys[0][0], keys[0][1]


def _layout(name: str, shape: Shape) -> Layout:
    return next(layout for layout in LAYOUTS if layout.name == name and layout.shape == shape)


def _by_form(source: Source, form: Form, rows: Sequence[Row], context: Context) -> list[Detection]:
    """Returns candidates that the form itself suggests, or the values of columns without known names."""
    common = {"source": source, "form": form, "found": tuple(_names(rows, form))}
    if form.kind == "lines":
        return [Detection(shape="text", layout="plain text", columns={"text": "text"}, confidence=0.95,
                          reason=form.why, context=context, **common)]  # type: ignore[arg-type]  # fmt: skip
    if form.kind in ("conll", "conllu", "slashed"):
        found = _columns_of_tokens(source, form, rows, context)
        words = replace(
            found, shape="text", layout="words", columns={"tokens": found.columns["tokens"]}, confidence=0.7
        )
        return [found, words]
    if form.kind == "labels":
        return []
    if form.kind == "table":
        return _by_values(source, form, rows, context)
    if all(isinstance(row, str) for row in rows):
        return [Detection(shape="text", layout="list of texts", columns={"text": "text"}, confidence=0.9,
                          reason=f"{form.why}; bare texts", context=context, **common)]  # type: ignore[arg-type]  # fmt: skip
    return []


def _columns_of_tokens(source: Source, form: Form, rows: Sequence[Row], context: Context) -> Detection:
    """Takes the first column for the tokens and the last one for their tags."""
    tokens, tags = form.columns[0] if form.columns else "tokens", form.columns[-1] if form.columns else "tags"
    if form.kind == "conllu":
        tokens, tags = "form", "upos"
    words = [word for row in rows for word in row[tokens]]
    notes = [f"tags: {find_scheme([row[tags] for row in rows])}"]
    if words and sum(bool(PLACED.fullmatch(word)) for word in words) >= 0.98 * len(words):
        context = replace(context, strip_place=True)
        notes.append("each token is a character and its place in a word; the place is left out")
    columns = {"tokens": tokens, "tags": tags}
    layout = _layout("tokens and tags", "tagged")
    found = _checked(layout, source, form, rows, columns, 0.95, context, f"tokens {tokens}, tags {tags}")
    if found is None:
        raise BadInput(f"not one sentence fits ({form.why})", where=source.name, remedy="give every token one tag")
    return replace(found, layout=form.kind, notes=tuple(notes))


def _by_values(source: Source, form: Form, rows: Sequence[Row], context: Context) -> list[Detection]:
    """Tells what the columns of a table are by their values alone."""
    seen = [look_at(name, [row[name] for row in rows]) for name in form.columns]
    texts = [column for column in seen if column.kind == "text"]
    labels = [column for column in seen if column.kind == "label"]
    idle = [column for column in seen if column.kind in ("constant", "number", "empty")]
    why = "; ".join(column.described for column in seen)
    known = form.header
    found: list[Detection | None] = []
    if len(seen) == 1 and texts:
        layout = _layout("text", "text")
        found.append(_checked(layout, source, form, rows, {"text": texts[0].name}, 0.8, context, why))
    if len(texts) == 2:
        confidence = 0.8 - 0.05 * len(idle) - 0.15 * len(labels) - (0.1 if known and not _codes(texts) else 0)
        columns = {"source": texts[0].name, "target": texts[1].name}
        layout = _layout("source and target", "pair")
        found.append(_checked(layout, source, form, rows, columns, confidence, context, why))
    if len(texts) == 1 and len(labels) == 1:
        confidence = 0.85 - 0.05 * len(idle) - (0.15 if known else 0)
        columns = {"text": texts[0].name, "label": labels[0].name}
        layout = _layout("text and label", "labelled")
        found.append(_checked(layout, source, form, rows, columns, confidence, context, why))
    return [one for one in found if one is not None]


def _codes(columns: Sequence[Column]) -> bool:
    return all(re.fullmatch(r"[a-z]{2,3}", column.name) for column in columns)


def _mapped(
    source: Source,
    form: Form,
    rows: Sequence[Row],
    mapping: Mapping[str, str],
    shape: Shape | None,
    context: Context,
) -> Detection:
    """Takes the columns that the user named.

    Raises:
        BadInput: A role or column does not exist, or no row has what is expected there.
    """
    where = source.name
    mapping = _completed(mapping, shape, _names(rows, form), rows)
    roles = set(mapping)
    fitting = [one for one in LAYOUTS if set(one.required) <= roles <= set(one.roles) and shape in (None, one.shape)]
    if not fitting:
        raise _roles_fault(roles, shape, where)
    names = _names(rows, form)
    if form.kind == "lines" and shape != "text":
        raise BadInput("plain text has no columns", where=where, remedy="give a table, JSON, or two parallel files")
    if roles == {"source", "target"} and (held := _by_language(rows, names, mapping)):
        layout = _layout("translation by language", "pair")
        made = replace(context, direction=(str(mapping["source"]), str(mapping["target"])))
        found = _checked(layout, source, form, rows, {"translation": held}, 1.0, made, "as the mapping says")
        if found is not None:
            return replace(found, confidence=1.0)
    columns = {role: _existing(str(name), names, role, where) for role, name in mapping.items()}
    candidates = []
    fault = None
    for layout in fitting:
        made = replace(context, direction=None)
        found = _checked(layout, source, form, rows, columns, 1.0, made, "as the mapping says")
        if found is not None:
            candidates.append(found)
            continue
        try:
            for row in rows[:1]:
                list(layout.build(row, columns, context))
        except Misfit as misfit:
            fault = fault or misfit
    if not candidates:
        raise BadInput(
            f"no record fits columns {brief(dict(mapping))}" + (f": {fault.cause}" if fault else ""),
            where=where,
            remedy=(fault.remedy if fault else "") or f"columns: {', '.join(names)}",
        )
    return replace(candidates[0], confidence=1.0)


def _by_language(rows: Sequence[Row], names: Sequence[str], mapping: Mapping[str, str]) -> str | None:
    """Returns the column that holds texts by the languages of a mapping."""
    for name in names:
        values = [row.get(name) for row in rows if isinstance(row, Mapping)]
        if values and all(isinstance(value, Mapping) and set(mapping.values()) <= set(value) for value in values):
            return name
    return None


def _existing(name: str, names: Sequence[str], role: str, where: str) -> str:
    if name in names:
        return name
    same = [one for one in names if one.strip().lower() == name.strip().lower()]
    if same:
        return same[0]
    guess = nearest(name, names)
    raise BadInput(
        f"no column {name!r} for {role}",
        where=where,
        remedy=(f"did you mean {guess!r}? " if guess else "") + f"columns: {', '.join(names[:20])}",
    )


def _completed(
    mapping: Mapping[str, str], shape: Shape | None, names: Sequence[str], rows: Sequence[Row]
) -> Mapping[str, str]:
    """Adds the columns of a shape that the user did not name and that have usual names."""
    mine = [one for one in LAYOUTS if one.shape == shape and set(mapping) <= set(one.roles)]
    if any(set(one.required) <= set(mapping) for one in mine):
        return mapping
    lowered: dict[str, str] = {}
    for name in names:
        lowered.setdefault(name.strip().lower(), name)
    for layout in mine:
        found = dict(mapping)
        for one in layout.fields:
            if one.required and one.role not in found:
                column = _column(one, lowered, rows, set(map(str, found.values())))
                if column is not None:
                    found[one.role] = column
        if set(layout.required) <= set(found):
            return found
    return mapping


def _roles_fault(roles: set[str], shape: Shape | None, where: str) -> BadInput:
    known = {role for layout in LAYOUTS for role in layout.roles if shape in (None, layout.shape)}
    unknown = sorted(roles - known)
    if unknown:
        return unknown_name("role in columns", unknown[0], known, where=where)
    wanted = [
        "{" + ", ".join(layout.required) + "}"
        for layout in LAYOUTS
        if shape in (None, layout.shape) and roles & set(layout.roles)
    ]
    return BadInput(
        f"columns names {', '.join(sorted(roles))}, which no shape is made of",
        where=where,
        remedy=f"name one of these together: {' '.join(dict.fromkeys(wanted))}",
    )

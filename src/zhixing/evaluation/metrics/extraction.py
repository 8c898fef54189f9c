"""Key information as JSON: F1 over the values of all fields, the share of answers that are JSON, and equality.

A field is a path of keys; the items of a list are several values of one field, in any order. Fields without content
(null, an empty text, list or object) are the same as fields that are not there. F1 is micro-averaged over fields, as
for slots and entities (Chinchor 1992).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput, unknown_name
from zhixing.evaluation.metrics.base import (
    FloatArray,
    Score,
    Statistics,
    check_pairs,
    f1,
    figures,
    make_score,
    mean_of,
    short,
)

NAMES = ("field_f1", "json_exact", "json_valid")
DEEPEST = 100
"""Levels of objects and lists in each other that are read."""

_SIGNATURES = {
    "field_f1": "field F1|micro over values of fields|lists without order|texts equal but for white space at the ends",
    "json_exact": "share of answers with all fields right and no others",
    "json_valid": "share of answers that are JSON",
}


def extraction(
    predictions: Sequence[Any], references: Sequence[Any], names: Sequence[str] = ("field_f1", "json_valid")
) -> list[Score]:
    """Measures extracted JSON.

    Args:
        predictions: JSON as text, which may turn out to be none, or its value.
        references: Likewise; all of them JSON.
        names: Of `NAMES`.

    Raises:
        BadInput: The numbers differ, or a reference is no JSON.
    """
    check_pairs(predictions, references)
    for name in names:
        if name not in NAMES:
            raise unknown_name("measure", name, NAMES)
    rows = np.zeros((len(references), 3))  # values that are right, predicted, true
    exact, valid = np.zeros(len(references)), np.zeros(len(references))
    kinds: dict[str, Counter[str]] = {"right": Counter(), "predicted": Counter(), "true": Counter()}
    for number, (ours, theirs) in enumerate(zip(predictions, references, strict=True)):
        try:
            gold = _fields(_value(theirs))
        except ValueError as error:
            raise BadInput(
                f"example {number + 1}: the reference is no JSON: {short(theirs)}", remedy=f"mend it: {error}"
            ) from None
        try:
            mine = _fields(_value(ours))
            valid[number] = 1.0
        except ValueError:
            mine = Counter()
        both = mine & gold
        rows[number] = both.total(), mine.total(), gold.total()
        exact[number] = valid[number] and mine == gold
        for title, found in (("right", both), ("predicted", mine), ("true", gold)):
            for (path, _, _), count in found.items():
                kinds[title][path] += count
    scores = []
    for name in names:
        if name == "field_f1":
            each = np.where(rows[:, 1] + rows[:, 2] > 0, f1(rows), valid)
            details = _details(rows, kinds)
            scores.append(make_score(name, _SIGNATURES[name], Statistics.dense(rows, f1), each, details=details))
        else:
            values = exact if name == "json_exact" else valid
            scores.append(make_score(name, _SIGNATURES[name], mean_of(values), values))
    return scores


def _value(value: Any) -> Any:
    """Returns the value of JSON given as text, and any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _fields(value: Any) -> Counter[tuple[str, str, Any]]:
    """Returns the values of a JSON value as (path, type, value)."""
    return Counter(_leaves(value, "", 0))


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} levels deep")
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _leaves(one, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one, path, depth + 1)
    elif isinstance(value, str):
        if value.strip():
            yield path, "text", value.strip()
    elif isinstance(value, bool):
        yield path, "bool", value
    elif isinstance(value, int | float):
        yield path, "number", value
    elif value is not None:
        raise ValueError(f"{type(value).__name__} is no JSON")


def _details(rows: FloatArray, kinds: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """Returns precision, recall and F1, of all and of every field."""
    right, predicted, true = (int(value) for value in rows.sum(axis=0))
    fields = sorted(kinds["predicted"] | kinds["true"])
    return {
        **figures(right, predicted, true),
        "types": {one: figures(*(kinds[title][one] for title in ("right", "predicted", "true"))) for one in fields},
    }

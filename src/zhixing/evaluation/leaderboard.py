"""Runs in order of a figure: what they can be sorted by, which direction is better, and their ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zhixing.core.errors import BadInput, nearest

FIELDS: dict[str, tuple[str, bool]] = {
    "updated": ("updated", True),
    "bits_per_byte": ("bits_per_byte", False),
    "loss": ("validation_loss", False),
    "perplexity": ("perplexity", False),
    "tokens": ("tokens", True),
    "time": ("seconds", True),
    "steps": ("step", True),
    "parameters": ("parameters", True),
    "name": ("name", False),
}
"""Fields of every run's summary, and whether the largest comes first."""

QUALITIES = frozenset({"bits_per_byte", "loss", "perplexity"})
"""Those of them that say how good a run is: with these, and with measures, runs have ranks."""

LOWER = frozenset({"ter", "ece", "perplexity", "bits_per_byte", "loss", "mae", "mse", "rmse"})
"""Measures of which less is better."""


def measures_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the names of all measures that runs have, in alphabetical order."""
    return sorted({name for row in rows for name in row.get("measures") or {}})


def figure(row: dict[str, Any], by: str) -> Any:
    """Returns a run's value of a field or measure, None when it has none."""
    return row[FIELDS[by][0]] if by in FIELDS else (row.get("measures") or {}).get(by)


def largest_first(by: str) -> bool:
    """Tells whether the largest value comes first: the best one, of a measure."""
    return FIELDS[by][1] if by in FIELDS else by not in LOWER and not by.endswith(("_loss", "_error"))


def ordered(rows: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Returns runs by a field or measure, those without it last; where it says how good they are, with their `rank`.

    Runs with the same value share a rank.

    Raises:
        BadInput: No run has such a measure; the message names what there is.
    """
    if by not in FIELDS and by not in measures_of(rows):
        known = [*FIELDS, *measures_of(rows)]
        guess = nearest(by, known)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise BadInput(f"unknown order {by!r}", where="--by", remedy=f"{hint}these runs have: {', '.join(known)}")
    known_rows = [row for row in rows if figure(row, by) is not None]
    known_rows.sort(key=lambda row: figure(row, by), reverse=largest_first(by))
    found = []
    rank = 0
    for place, row in enumerate(known_rows):
        if place == 0 or figure(row, by) != figure(known_rows[place - 1], by):
            rank = place + 1
        found.append({**row, "rank": rank} if by in QUALITIES or by not in FIELDS else row)
    return found + [row for row in rows if figure(row, by) is None]

"""Scoring files, for the command `score`: predictions beside references. Reading a file is `entries`' concern."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.metrics.entries import NO_ANSWER, PREDICTED, REFERENCE, Entries, read_entries
from zhixing.evaluation.metrics.registry import compare, plan, score
from zhixing.evaluation.metrics.significance import Comparison

_EXAMPLE = re.compile(r"(?:example|query|sentence|document) (\d+): ")
_REFERENCES = re.compile(r"accepted answer|a reference is|relevan")
"""Words of the faults that lie in the references."""


def score_files(
    names: str,
    predictions: str | Path,
    references: Sequence[str | Path],
    *,
    against: str | Path | None = None,
    fields: tuple[str | None, str | None] = (None, None),
    resamples: int,
    confidence: float,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> tuple[list[Score], list[Comparison], Entries]:
    """Measures a file of predictions against one or several files of references.

    Args:
        names: Measures or families, with commas between them.
        predictions: The file of predictions.
        references: The files of references; none for measures that need none.
        against: The predictions of another system, to compare with.
        fields: The field of predictions and that of references; None finds them by their names.
        resamples: As in `registry.score`.
        confidence: As in `registry.score`.
        seed: As in `registry.score`.
        options: As in `registry.score`.

    Returns:
        The scores of the predictions, the comparisons (the other system is the first), and the predictions.

    Raises:
        MissingResource: A file or package is not there.
        BadInput: The files do not fit the measure or each other; the message names file and line.
    """
    planned = plan(names)
    kinds = {family.kind for family, _ in planned}
    if len(kinds) > 1:
        raise BadInput(f"these measures need different files: {names}", remedy="measure them one after the other")
    family = planned[0][0]
    if family.needs_references != bool(references):
        wanted = "needs a file of references" if family.needs_references else "takes no references"
        raise BadInput(
            f"{names} {wanted}", remedy=f"zhixing score {names} PREDICTIONS" + " REFERENCES" * (not references)
        )
    gold = [read_entries(path, family, REFERENCE, fields[1]) for path in references]
    mine = _aligned(read_entries(predictions, family, PREDICTED, fields[0]), gold)
    other = _aligned(read_entries(against, family, PREDICTED, fields[0]), gold) if against is not None else None
    if other is not None:
        _same_length(mine, other)
    right = _combined(gold) if gold else None
    given = dict(options or {})
    if NO_ANSWER in mine.extra and family.name == "squad2":
        given.setdefault(NO_ANSWER, mine.extra[NO_ANSWER])
    settings = {"resamples": resamples, "confidence": confidence, "seed": seed}
    try:
        scores = score(names, mine.values, right, options=given, **settings)  # type: ignore[arg-type]
    except BadInput as fault:
        raise _placed(fault, mine, gold) from None
    comparisons = []
    if other is not None:
        try:
            comparisons = compare(names, other.values, mine.values, right, options=options, **settings)  # type: ignore[arg-type]
        except BadInput as fault:
            raise _placed(fault, other, gold) from None
    return scores, comparisons, mine


def _placed(fault: BadInput, entries: Entries, gold: Sequence[Entries]) -> BadInput:
    """Names file and line of the example that a fault is about."""
    match = _EXAMPLE.match(fault.cause)
    if match is None or fault.where is not None:
        return fault
    if gold and _REFERENCES.search(fault.cause):
        entries = gold[0]
    return BadInput(fault.cause[match.end() :], where=entries.place(int(match[1])), remedy=fault.remedy)


def _combined(gold: Sequence[Entries]) -> list[Any]:
    """Puts the references of several files together, example by example."""
    if len(gold) == 1:
        return gold[0].values
    for entries in gold[1:]:
        _same_length(gold[0], entries)
    return [
        [text for value in several for text in (value if isinstance(value, list) else [value])]
        for several in zip(*(entries.values for entries in gold), strict=True)
    ]


def _same_length(one: Entries, other: Entries) -> None:
    if len(one.values) == len(other.values):
        return
    longer, shorter = (one, other) if len(one.values) > len(other.values) else (other, one)
    raise BadInput(
        f"{len(longer.values):,} example(s), but {shorter.source} has {len(shorter.values):,}: "
        "this one has no partner there",
        where=longer.place(len(shorter.values) + 1),
        remedy="example N of one file must belong to example N of the other; an empty text is an empty line",
    )


def _aligned(mine: Entries, gold: Sequence[Entries]) -> Entries:
    """Brings predictions that are named into the order of the references; others must be as many."""
    for entries in gold[:1]:
        if mine.ids is None or entries.ids is None:
            _same_length(mine, entries)
            continue
        place = {name: number for number, name in enumerate(mine.ids)}
        missing = [name for name in entries.ids if name not in place]
        if missing:
            raise BadInput(
                f"no prediction for {len(missing):,} of {len(entries.ids):,} example(s), first {missing[0]!r} "
                f"({entries.place(entries.ids.index(missing[0]) + 1)})",
                where=mine.source,
                remedy='give every example a prediction; "" stands for no answer',
            )
        known = set(entries.ids)
        if strange := [name for name in mine.ids if name not in known]:
            raise BadInput(
                f"the id {strange[0]!r} is not among the references",
                where=mine.place(mine.ids.index(strange[0]) + 1),
                remedy=f"leave it out, or correct it; {len(strange):,} of {len(mine.ids):,} are unknown",
            )
        order = [place[name] for name in entries.ids]
        mine = Entries(
            mine.source,
            [mine.values[k] for k in order],
            [mine.lines[k] for k in order],
            list(entries.ids),
            mine.column,
            {name: [column[k] for k in order] for name, column in mine.extra.items()},
        )
    return mine

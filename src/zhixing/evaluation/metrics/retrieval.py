"""Recall@k, hit@k, precision@k, MRR and nDCG of rankings, with graded relevance (Järvelin and Kekäläinen 2002); top-k
accuracy of guesses, of which one is right."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from zhixing.core.errors import BadInput, unknown_name
from zhixing.evaluation.metrics.base import Score, check_pairs, make_score, mean_of, short

NAMES = (
    "recall@1",
    "recall@5",
    "recall@10",
    "hit@1",
    "hit@5",
    "precision@5",
    "top@1",
    "top@5",
    "mrr",
    "mrr@10",
    "ndcg",
    "ndcg@10",
)
"""Those that are listed; any other number may stand behind the @."""
PATTERN = re.compile(r"(mrr|ndcg)(?:@([1-9][0-9]{0,6}))?$|(recall|hit|precision|top)@([1-9][0-9]{0,6})$")
TITLES = {
    "recall": "share of the relevant items among the first {k}",
    "hit": "share of queries with a relevant item among the first {k}",
    "top": "top-{k} accuracy: share of examples whose right item is among the first {k}",
    "precision": "share of relevant items among the first {k}",
    "mrr": "mean of 1 / rank of the first relevant item{cut}",
    "ndcg": "nDCG{cut}, gain:{gain}, discount:log2(rank + 1)",
}

Item = Hashable
Relevance = Mapping[Item, float] | Iterable[Item]


def retrieval(
    predictions: Sequence[Sequence[Item]],
    references: Sequence[Relevance],
    names: Sequence[str] = ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10"),
    *,
    exponential_gain: bool = False,
) -> list[Score]:
    """Measures rankings.

    Args:
        predictions: The items found for each query, best first, each once.
        references: The relevant items of each query, or a grade of relevance (0 or more) for each item; those that are
            not named have grade 0. For recall, precision, hit and MRR every grade above 0 is relevant.
        names: `recall@k`, `hit@k`, `precision@k`, `top@k`, `mrr`, `mrr@k`, `ndcg`, `ndcg@k`.
        exponential_gain: Gain of nDCG is 2^grade - 1 instead of the grade (the same for grades of 0 and 1).

    Raises:
        BadInput: The numbers differ, an item is ranked twice, a grade is negative, or a query has no relevant item.
    """
    check_pairs(predictions, references)
    measures = [_parse(name) for name in names]
    grades = [_grades(entry, number) for number, entry in enumerate(references, start=1)]
    rankings = [_ranking(entry, number) for number, entry in enumerate(predictions, start=1)]
    scores = []
    gain = "2^grade - 1" if exponential_gain else "grade"
    for name, (kind, k) in zip(names, measures, strict=True):
        values = np.array(
            [_value(kind, k, found, grade, exponential_gain) for found, grade in zip(rankings, grades, strict=True)]
        )
        signature = TITLES[kind].format(k=k, cut=f" within the first {k}" if k else "", gain=gain)
        scores.append(make_score(name, signature, mean_of(values), values))
    return scores


def _parse(name: str) -> tuple[str, int | None]:
    match = PATTERN.match(name)
    if not match:
        raise unknown_name("measure", name, NAMES)
    kind, _, k = name.partition("@")
    return kind, int(k) if k else None


def _grades(entry: Relevance, number: int) -> dict[Item, float]:
    if isinstance(entry, str):
        raise BadInput(f"query {number}: the relevant items are a list or a mapping, not {short(entry)}")
    grades = dict(entry) if isinstance(entry, Mapping) else dict.fromkeys(entry, 1.0)
    for item, grade in grades.items():
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not 0 <= grade < 1e6:
            raise BadInput(f"query {number}: the relevance of {short(item)} is {short(grade)}, not a number from 0")
    if not any(grades.values()):
        raise BadInput(
            f"query {number}: no item is relevant, so nothing can be found", remedy="leave the query out of both files"
        )
    return grades


def _ranking(entry: Sequence[Item], number: int) -> list[Item]:
    if isinstance(entry, str) or not isinstance(entry, Iterable):
        raise BadInput(f"query {number}: a ranking is a list of items, not {short(entry)}")
    ranking = list(entry)
    if len(set(ranking)) != len(ranking):
        twice = next(item for place, item in enumerate(ranking) if item in ranking[:place])
        raise BadInput(f"query {number}: {short(twice)} is ranked twice")
    return ranking


def _value(kind: str, k: int | None, ranking: list[Item], grades: dict[Item, float], exponential: bool) -> float:
    first = [grades.get(item, 0.0) for item in ranking[:k]]
    relevant = sum(grade > 0 for grade in first)
    if kind == "recall":
        return relevant / sum(grade > 0 for grade in grades.values())
    if kind in ("hit", "top"):
        return float(relevant > 0)
    if kind == "precision":
        return relevant / (k or 1)
    if kind == "mrr":
        return next((1 / rank for rank, grade in enumerate(first, start=1) if grade > 0), 0.0)
    best = sorted(grades.values(), reverse=True)[:k]
    return _gain(first, exponential) / _gain(best, exponential)


def _gain(grades: Sequence[float], exponential: bool) -> float:
    """Returns the discounted gain of grades in ranked order."""
    values = np.asarray(grades, dtype=np.float64)
    gains = 2**values - 1 if exponential else values
    return float((gains / np.log2(np.arange(2, len(values) + 2))).sum())

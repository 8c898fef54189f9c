"""Whether one system is better than another on the same examples: paired bootstrap and approximate randomisation.

Both are two-sided, and one is added to numerator and denominator so that p is never zero (Phipson and Smyth 2010). The
paired bootstrap resamples examples and asks how often the difference strays as far from its mean as it lies from zero
(Koehn 2004); approximate randomisation swaps the two outputs of each example with probability 1/2 and asks how often
the difference comes out as large (Noreen 1989, Riezler and Maxwell 2005), as sacrebleu does. For its bootstrap test
sacrebleu centres the sizes of the differences instead, after Moses' program: where one system leads clearly, its p is
half of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.base import FloatArray, IntArray, Interval, Score
from zhixing.evaluation.metrics.resampling import (
    CHUNK,
    CONFIDENCE,
    RESAMPLES,
    SEED,
    check_resampling,
    interval,
    resample_counts,
)

TRIALS = 10_000
"""Shuffles of the randomisation test."""
ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two systems by one measure on the same examples.

    Attributes:
        name: The measure.
        first: Value of the first system.
        second: Value of the second.
        difference: second - first.
        interval: Bootstrap interval of the difference.
        p_bootstrap: Two-sided p of the paired bootstrap test.
        p_randomisation: Two-sided p of approximate randomisation.
        n: Number of examples.
        wins: Examples on which the second is better; so are `losses` and `ties`.
        trials: Shuffles of the randomisation test.
        better: Which values are better.
        signature: Of the measure.
    """

    name: str
    first: float
    second: float
    difference: float
    interval: Interval | None
    p_bootstrap: float
    p_randomisation: float
    n: int
    wins: int
    losses: int
    ties: int
    trials: int
    better: str
    signature: str

    @property
    def verdict(self) -> str:
        """What the tests allow to be said, at a level of 0.05."""
        if max(self.p_bootstrap, self.p_randomisation) >= ALPHA:
            return f"the data do not tell the two apart (p = {_p(self)})"
        if self.better == "neither":
            return f"the two differ (p = {_p(self)})"
        second = (self.difference > 0) == (self.better == "higher")
        return f"the {'second' if second else 'first'} is better (p = {_p(self)})"

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison as plain data."""
        return {**vars(self), "interval": self.interval.to_json() if self.interval else None, "verdict": self.verdict}


def _p(comparison: Comparison) -> str:
    return f"{max(comparison.p_bootstrap, comparison.p_randomisation):.2g}"


def compare_scores(
    first: Score,
    second: Score,
    *,
    resamples: int = RESAMPLES,
    trials: int = TRIALS,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> Comparison:
    """Compares two systems by their scores on the same examples, in the same order.

    Raises:
        BadInput: The scores are of different measures, settings or numbers of examples.
    """
    check_resampling(resamples, confidence)
    check_resampling(trials)
    if (first.name, first.signature) != (second.name, second.signature):
        raise BadInput(
            f"these scores cannot be compared: {first.name} ({first.signature}) and {second.name} ({second.signature})",
            remedy="measure both systems in the same way",
        )
    if first.n != second.n:
        raise BadInput(f"the first system has {first.n:,} example(s), the second {second.n:,}")
    observed = second.statistics.value - first.statistics.value
    generator = np.random.default_rng(seed)
    differences = bootstrap_differences(first, second, resamples, generator)
    strays = np.abs(differences - differences.mean())
    shuffled = np.abs(_shuffle(first, second, trials, generator))
    # A hair below, so that rounding does not decide when a shuffle gives exactly the difference that was observed.
    size = abs(observed) * (1 - 1e-9)
    change = second.per_example - first.per_example
    gain = -change if first.better == "lower" else change
    return Comparison(
        name=first.name,
        first=first.value,
        second=second.value,
        difference=second.value - first.value,
        interval=interval(differences, confidence, seed) if first.n > 1 else None,
        p_bootstrap=_p_value(strays, size),
        p_randomisation=_p_value(shuffled, size),
        n=first.n,
        wins=int((gain > 0).sum()),
        losses=int((gain < 0).sum()),
        ties=int((gain == 0).sum()),
        trials=trials,
        better=first.better,
        signature=first.signature,
    )


def _p_value(values: FloatArray, size: float) -> float:
    return float((np.sum(values >= size) + 1) / (len(values) + 1))


def _pairs(first: Score, second: Score) -> tuple[IntArray, IntArray]:
    """Returns the different pairs of rows, (pairs, 2), and how often each occurs."""
    one, two = first.statistics, second.statistics
    joint = one.index.astype(np.int64) * len(two.rows) + two.index
    found, counts = np.unique(joint, return_counts=True)
    return np.stack(np.divmod(found, len(two.rows)), axis=1).astype(np.intp), counts.astype(np.intp)


def bootstrap_differences(first: Score, second: Score, resamples: int, generator: np.random.Generator) -> FloatArray:
    """Returns second - first on each of many resamples of the examples, (resamples,)."""
    pairs, counts = _pairs(first, second)
    one, two = first.statistics, second.statistics
    rows_one, rows_two = one.rows.take(pairs[:, 0]), two.rows.take(pairs[:, 1])
    return np.concatenate(
        [
            two.formula(rows_two.weigh(drawn)) - one.formula(rows_one.weigh(drawn))
            for drawn in resample_counts(counts, resamples, generator, one.rows.width)
        ]
    )


def _shuffle(first: Score, second: Score, trials: int, generator: np.random.Generator) -> FloatArray:
    pairs, counts = _pairs(first, second)
    one, two = first.statistics, second.statistics
    rows_one, rows_two = one.rows.take(pairs[:, 0]), two.rows.take(pairs[:, 1])
    if rows_one.width != rows_two.width:
        raise BadInput("the two systems were measured over different sets of classes")
    step = max(1, CHUNK // max(len(counts), one.rows.width))
    values = []
    single = bool((counts == 1).all())
    for start in range(0, trials, step):
        size = (min(step, trials - start), len(counts))
        if single:
            swapped = generator.integers(0, 2, size=size, dtype=np.int8).astype(np.float64)
        else:
            swapped = generator.binomial(counts, 0.5, size=size).astype(np.float64)
        kept = counts - swapped
        sums_one = rows_one.weigh(kept) + rows_two.weigh(swapped)
        sums_two = rows_one.weigh(swapped) + rows_two.weigh(kept)
        values.append(two.formula(sums_two) - one.formula(sums_one))
    return np.concatenate(values)

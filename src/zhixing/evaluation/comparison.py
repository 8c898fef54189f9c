"""Several systems, each trained with several seeds and measured on the same examples: what may be said of their order.

Two things could have come out otherwise: the seed, and the examples that the systems are measured on. The standard
error of a mean joins both: the spread of the seeds (each system's own), and the spread of the mean under resampled
examples, which are drawn alike for all systems. Its degrees of freedom are Welch's and Satterthwaite's, in
which the examples count as many; the probabilities of all pairs are corrected for their number (Holm 1979).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.base import DenseRows, FloatArray, Score, SparseRows
from zhixing.evaluation.metrics.resampling import CONFIDENCE, RESAMPLES, SEED, check_resampling, resample_counts
from zhixing.evaluation.student import quantile, tail

ALPHA = 0.05
"""Level of the claims."""


@dataclass(frozen=True)
class Standing:
    """How one system fares.

    Attributes:
        name: The system.
        values: Its value with each seed.
        mean: Their mean.
        interval: 95 % interval of the mean, over other seeds and other examples; None where nothing can be resampled.
        seed_deviation: Standard deviation over seeds; None with a single seed.
        example_error: Standard error of the mean from the examples alone.
        fixed: Whether the system does not depend on a seed, so that one run is all there is.
    """

    name: str
    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    seed_deviation: float | None
    example_error: float
    fixed: bool = False


@dataclass(frozen=True)
class Pair:
    """Two systems.

    Attributes:
        better: The one with the better mean.
        worse: The other.
        difference: Mean of the better less that of the worse.
        interval: 95 % interval of the difference, over seeds and examples.
        p: Two-sided probability of a difference as large without there being one.
        p_holm: The same, corrected for the number of pairs.
    """

    better: str
    worse: str
    difference: float
    interval: tuple[float, float] | None
    p: float
    p_holm: float

    @property
    def told_apart(self) -> bool:
        """Whether the data allow to say that the one is better."""
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class Standings:
    """The result of a comparison.

    Attributes:
        measure: Name of the measure.
        signature: Its signature.
        lower_is_better: Which values are better.
        standings: The systems, best mean first.
        pairs: All pairs, in that order.
        examples: Number of examples.
        seeds: Most seeds of a system.
    """

    measure: str
    signature: str
    lower_is_better: bool
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    examples: int
    seeds: int

    def pair(self, one: str, other: str) -> Pair:
        """Returns the pair of two systems."""
        return next(pair for pair in self.pairs if {pair.better, pair.worse} == {one, other})

    def to_json(self) -> dict[str, Any]:
        """Returns everything as plain data."""
        return {
            "measure": self.measure,
            "signature": self.signature,
            "lower_is_better": self.lower_is_better,
            "examples": self.examples,
            "standings": [vars(one) for one in self.standings],
            "pairs": [{**vars(pair), "told_apart": pair.told_apart} for pair in self.pairs],
        }


def compare_systems(
    scores: Mapping[str, Sequence[Score]],
    *,
    fixed: Sequence[str] = (),
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> Standings:
    """Compares systems by one measure.

    Args:
        scores: The scores of each system, one for each of its seeds; all on the same examples, in the same order.
        fixed: Systems that do not depend on a seed.
        resamples: Of the examples.
        confidence: Of the intervals.
        seed: Of the resampling.

    Raises:
        BadInput: There is no system, or the scores are of different measures or numbers of examples.
    """
    check_resampling(resamples, confidence)
    first = _check(scores)
    lower = first.better == "lower"
    parts = {
        name: _Part(name, several, _resampled(several, resamples, seed), name in fixed)
        for name, several in scores.items()
    }
    ordered = sorted(parts.values(), key=lambda part: part.mean if lower else -part.mean)
    pairs = [_pair(one, other, confidence) for one, other in itertools.combinations(ordered, 2)]
    return Standings(
        measure=first.name,
        signature=first.signature,
        lower_is_better=lower,
        standings=tuple(part.standing(confidence) for part in ordered),
        pairs=tuple(_holm(pairs)),
        examples=first.n,
        seeds=max(len(several) for several in scores.values()),
    )


def _check(scores: Mapping[str, Sequence[Score]]) -> Score:
    everything = [score for several in scores.values() for score in several]
    if not everything or not all(scores.values()):
        raise BadInput("there is nothing to compare: a system without a score")
    first = everything[0]
    for score in everything:
        if (score.name, score.n) != (first.name, first.n):
            raise BadInput(
                f"these scores cannot be compared: {first.name} on {first.n:,} example(s), {score.name} on {score.n:,}",
                remedy="measure all systems by the same measure on the same examples",
            )
    return first


class _Part:
    """What the comparison needs of one system: its values, and its mean on each resample."""

    def __init__(self, name: str, scores: Sequence[Score], resampled: FloatArray, fixed: bool) -> None:
        self.name, self.fixed = name, fixed
        self.values = tuple(score.value for score in scores)
        self.mean = float(np.mean(self.values))
        self.resampled = resampled
        count = len(self.values)
        self.deviation = float(np.std(self.values, ddof=1)) if count > 1 else None
        self.seed_variance = (self.deviation or 0.0) ** 2 / count
        self.freedom = max(count - 1, 1)

    def standing(self, confidence: float) -> Standing:
        error = float(np.std(self.resampled, ddof=1)) if len(self.resampled) else 0.0
        interval = _around(self.mean, [self], error, confidence)
        return Standing(self.name, self.values, self.mean, interval, self.deviation, error, self.fixed)


def _error(parts: Sequence[_Part], example_error: float) -> tuple[float, float]:
    """Returns the joint standard error and its degrees of freedom (Welch 1947, Satterthwaite 1946)."""
    total = example_error**2 + sum(part.seed_variance for part in parts)
    below = sum(part.seed_variance**2 / part.freedom for part in parts)
    return math.sqrt(total), total**2 / below if below else math.inf


def _around(
    centre: float, parts: Sequence[_Part], example_error: float, confidence: float
) -> tuple[float, float] | None:
    error, freedom = _error(parts, example_error)
    if not error or not math.isfinite(error):
        return None
    reach = quantile(confidence, freedom) * error
    return centre - reach, centre + reach


def _pair(one: _Part, other: _Part, confidence: float) -> Pair:
    difference = one.mean - other.mean
    changes = one.resampled - other.resampled
    example_error = float(np.std(changes, ddof=1)) if len(changes) else 0.0
    error, freedom = _error([one, other], example_error)
    # Where nothing varies, or something is not a number, nothing may be said.
    p = tail(difference / error, freedom) if error and math.isfinite(error) else 1.0
    interval = _around(difference, [one, other], example_error, confidence)
    return Pair(one.name, other.name, difference, interval, p, p)


def _holm(pairs: Sequence[Pair]) -> list[Pair]:
    corrected: dict[int, float] = {}
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(pairs)), key=lambda k: pairs[k].p)):
        highest = max(highest, min(1.0, (len(pairs) - rank) * pairs[place].p))
        corrected[place] = highest
    return [replace(pair, p_holm=corrected[place]) for place, pair in enumerate(pairs)]


def _resampled(scores: Sequence[Score], resamples: int, seed: int) -> FloatArray:
    """Returns the mean over seeds on each resample of the examples, (resamples,); the same draws for every system."""
    examples = scores[0].n
    if examples < 2:
        return np.empty(0)
    rows = [_every_row(score) for score in scores]
    draws = resample_counts(np.ones(examples, dtype=np.intp), resamples, np.random.default_rng(seed))
    means = [
        np.mean([score.statistics.formula(one.weigh(drawn)) for score, one in zip(scores, rows, strict=True)], axis=0)
        for drawn in draws
    ]
    return np.concatenate(means)


def _every_row(score: Score) -> DenseRows | SparseRows:
    """Returns one row for each example."""
    return score.statistics.rows.take(score.statistics.index)


def in_words(result: Standings, unit: str = "") -> list[str]:
    """Says in sentences what the intervals allow to be said, the most important first.

    Args:
        result: The comparison.
        unit: What follows a figure.
    """
    if len(result.standings) == 1:
        only = result.standings[0]
        return [f"{only.name} has {_figure(only.mean, only.interval, result.measure, unit)}; there is no other."]
    best = result.standings[0]
    tied = [other.name for other in result.standings if other.mean == best.mean]
    sentences = [
        f"{_listed(tied)} {'has' if len(tied) == 1 else 'share'} the "
        f"{'lowest' if result.lower_is_better else 'highest'} mean: "
        f"{_figure(best.mean, best.interval, result.measure, unit)}."
    ]
    level = [other.name for other in result.standings[1:] if not result.pair(best.name, other.name).told_apart]
    beaten = [other.name for other in result.standings[1:] if other.name not in level]
    if beaten:
        highest = max(result.pair(best.name, name).p_holm for name in beaten)
        sentences.append(
            f"It is better than {_listed(beaten)}: with other seeds and other examples of this kind this would "
            f"stay (p {_p(highest)} at most, corrected for {len(result.pairs)} pairs)."
        )
    if level:
        sentences.append(f"From {_listed(level)} these runs do not tell it apart.")
    others = [pair for pair in result.pairs if best.name not in (pair.better, pair.worse)]
    if told := [f"{pair.better} is better than {pair.worse}" for pair in others if pair.told_apart]:
        sentences.append(f"Of the others, {_listed(told)}.")
    if open_pairs := [f"{pair.better} and {pair.worse}" for pair in others if not pair.told_apart]:
        sentences.append(f"Not told apart: {'; '.join(open_pairs)}.")
    return sentences


def _figure(mean: float, interval: tuple[float, float] | None, measure: str, unit: str) -> str:
    name = unit or measure.replace("_", " ")
    between = f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else ""
    return f"{mean:.4g}{between} {name}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""Bootstrap intervals: resampling examples with replacement, all at once in numpy.

Corpus measures are resampled by their sufficient statistics, as sacrebleu does (Koehn 2004): the sums of the resampled
examples go through the measure's formula. Comparing two systems is `significance`' concern.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.base import FloatArray, IntArray, Interval, Score, Statistics

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0
CHUNK = 1 << 22
"""Numbers held at a time in the arrays of resampling."""


def check_resampling(resamples: int, confidence: float = CONFIDENCE) -> None:
    """Makes sure that settings of resampling can be.

    Raises:
        BadInput: One cannot.
    """
    if resamples < 10:
        raise BadInput(f"{resamples} resamples are too few for an interval", remedy="--resamples 1000")
    if not 0 < confidence < 1:
        raise BadInput(f"a confidence of {confidence} is not between 0 and 1", remedy="--confidence 0.95")


def resample_counts(
    counts: IntArray, resamples: int, generator: np.random.Generator, width: int = 1
) -> Iterator[FloatArray]:
    """Draws resamples with replacement of as many examples as there are.

    Args:
        counts: How often each different example occurs, (rows,).
        resamples: How many to draw.
        generator: The source of randomness.
        width: Columns that the caller holds for each resample, to bound its memory.

    Yields:
        How often each row was drawn, (some resamples, rows), until there are `resamples` in all.
    """
    total, rows = int(counts.sum()), len(counts)
    few = rows <= total // 8  # a multinomial draw costs about as much as eight single draws a row
    owner = None if few or rows == total else np.repeat(np.arange(rows, dtype=np.intp), counts)
    step = max(1, CHUNK // max(rows, width, 1 if few else total))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if few:
            yield generator.multinomial(total, counts / total, size=size).astype(np.float64)
            continue
        drawn = generator.integers(0, total, size=(size, total), dtype=np.int64)
        if owner is not None:
            drawn = owner[drawn]
        drawn += np.arange(size, dtype=np.int64)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def resampled_values(statistics: Statistics, resamples: int = RESAMPLES, seed: int = SEED) -> FloatArray:
    """Returns the value of a measure on each of many resamples, (resamples,)."""
    counts = np.bincount(statistics.index, minlength=len(statistics.rows)).astype(np.intp)
    generator = np.random.default_rng(seed)
    draws = resample_counts(counts, resamples, generator, statistics.rows.width)
    return np.concatenate([statistics.formula(statistics.rows.weigh(drawn)) for drawn in draws])


def interval(values: FloatArray, confidence: float = CONFIDENCE, seed: int = SEED) -> Interval | None:
    """Returns the percentile interval of resampled values, None when one of them is not a number."""
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), confidence, len(values), seed)


def with_interval(
    score: Score, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = SEED
) -> Score:
    """Returns a score with its percentile bootstrap interval; one example alone has none, and the score says so.

    Raises:
        BadInput: A setting cannot be.
    """
    check_resampling(resamples, confidence)
    if score.n < 2:
        return score.with_notes("one example has no interval")
    found = interval(resampled_values(score.statistics, resamples, seed), confidence, seed)
    if found is None:
        return score.with_notes("no interval: the value is not a number on some resamples")
    return replace(score, interval=found)

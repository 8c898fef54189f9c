"""Expected calibration error: how far a classifier's confidence is from how often it is right. Guo et al. 2017."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.base import (
    FloatArray,
    Score,
    SparseRows,
    Statistics,
    check_pairs,
    make_score,
    ratio,
)

NAMES = ("ece",)
BINS = 15


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence.

    Attributes:
        low: Confidences are above this...
        high: ...and at most this.
        count: Predictions.
        confidence: Their mean confidence.
        accuracy: The share of them that is right.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration(
    confidences: Sequence[float] | FloatArray, correct: Sequence[bool] | npt.NDArray[np.bool_], *, bins: int = BINS
) -> Score:
    """Measures the expected calibration error.

    The confidence is the probability of the label that was predicted. Predictions are put into `bins` bins of equal
    width, (0, 1/bins], (1/bins, 2/bins], ...; the error is the mean over bins of |accuracy - mean confidence|, weighted
    by the predictions in each.

    Args:
        confidences: From 0 to 1, one for each example.
        correct: Whether the predicted label is right.
        bins: Number of bins.

    Raises:
        BadInput: The numbers differ, a confidence lies outside 0 to 1, or there are no bins.
    """
    check_pairs(confidences, correct)
    if bins < 1:
        raise BadInput(f"{bins} bins cannot be", remedy=f"bins={BINS}")
    sure = np.asarray(confidences, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    outside = ~((sure >= 0) & (sure <= 1))
    if outside.any():
        number = int(np.argmax(outside))
        raise BadInput(f"example {number + 1}: a confidence of {sure[number]:g} is not a probability from 0 to 1")
    place = np.clip(np.ceil(sure * bins).astype(np.intp) - 1, 0, bins - 1)
    columns = np.stack([place, bins + place, 2 * bins + place], axis=1)
    rows = SparseRows(columns, np.stack([np.ones_like(sure), right, sure], axis=1), 3 * bins)
    statistics = Statistics(rows, np.arange(len(sure), dtype=np.intp), partial(_error, bins=bins))
    found = _bins(rows.weigh(np.ones((1, len(sure))))[0], bins)
    return make_score(
        "ece",
        f"expected calibration error|bins:{bins} of equal width, (low, high]|confidence:that of the predicted label",
        statistics,
        np.abs(right - sure),
        better="lower",
        top=None,
        details={
            "bins": [vars(one) for one in found],
            "accuracy": float(right.mean()),
            "confidence": float(sure.mean()),
        },
        notes=["resampling adds noise to every bin, so the interval of a calibration error lies high"],
    )


def _error(sums: FloatArray, bins: int) -> FloatArray:
    count, right, sure = sums[..., :bins], sums[..., bins : 2 * bins], sums[..., 2 * bins :]
    return ratio(np.abs(right - sure).sum(axis=-1), count.sum(axis=-1))


def _bins(sums: FloatArray, bins: int) -> list[Bin]:
    count, right, sure = sums[:bins], sums[bins : 2 * bins], sums[2 * bins :]
    confidence, accuracy = ratio(sure, count), ratio(right, count)
    return [Bin(k / bins, (k + 1) / bins, int(count[k]), float(confidence[k]), float(accuracy[k])) for k in range(bins)]

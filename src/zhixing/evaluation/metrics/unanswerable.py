"""SQuAD 2.0's threshold: above which probability of "no answer" a question is best taken for unanswerable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zhixing.evaluation.metrics.base import FloatArray

BoolArray = npt.NDArray[np.bool_]


def apply_threshold(values: FloatArray, chance: FloatArray, answerable: BoolArray, threshold: float) -> FloatArray:
    """Returns the values of examples when every one above the threshold is answered with "no answer"."""
    return np.where(chance > threshold, (~answerable).astype(np.float64), values)


def best_threshold(
    values: FloatArray, chance: FloatArray, answerable: BoolArray, answered: Sequence[bool]
) -> tuple[float, float]:
    """Finds the threshold with the best mean, as SQuAD 2.0's program does.

    It begins with "no answer" everywhere, and gives the answers back in the order of their probability.

    Args:
        values: Exact match or F1 of each answer as it was given, (examples,).
        chance: How likely each question is unanswerable.
        answerable: Whether it has an answer.
        answered: Whether the system gave one.

    Returns:
        The best mean, from 0 to 1, and the threshold that gives it: the first one where several do.
    """
    order = np.argsort(chance, kind="stable")
    lost = np.where(np.asarray(answered, dtype=bool), -1.0, 0.0)
    change = np.where(answerable, values, lost)[order]
    totals = np.concatenate([[0.0], np.cumsum(change)]) + float((~answerable).sum())
    best = int(np.argmax(totals))
    threshold = 0.0 if best == 0 else float(chance[order][best - 1])
    return float(totals[best] / len(values)), threshold


def threshold_details(
    values: FloatArray, chance: FloatArray, answerable: BoolArray, answered: Sequence[bool]
) -> dict[str, float]:
    """Returns the best value, in percent, and its threshold."""
    best, threshold = best_threshold(values, chance, answerable, answered)
    return {"best": 100 * best, "best_threshold": threshold}

"""Accuracy, macro, micro and weighted F1, Matthews' correlation and the confusion matrix; one label each, or several.

Classes are those that occur in the references or the predictions, as in scikit-learn; one that occurs in neither (in a
resample) has no F1 and does not count. Matthews 1975; for many classes Gorodkin 2004.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from zhixing.core.errors import BadInput, unknown_name
from zhixing.evaluation.metrics.base import (
    FloatArray,
    Formula,
    Score,
    SparseRows,
    Statistics,
    check_pairs,
    make_score,
    ratio,
    short,
)

NAMES = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc")
TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "F1, mean over classes",
    "micro_f1": "F1 over all decisions",
    "weighted_f1": "F1, mean over classes weighted by their frequency",
    "mcc": "Matthews correlation",
}

Label = Hashable
Labels = Label | Sequence[Label]


@dataclass(frozen=True)
class ClassFigures:
    """How one class fared.

    Attributes:
        label: The class.
        precision: Right ones among those predicted.
        recall: Right ones among those that are.
        f1: Their harmonic mean.
        support: How many there are.
        predicted: How many were predicted.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


def classification(
    predictions: Sequence[Labels],
    references: Sequence[Labels],
    names: Sequence[str] = ("accuracy", "macro_f1", "micro_f1", "mcc"),
    *,
    labels: Iterable[Label] = (),
) -> list[Score]:
    """Measures labels.

    Args:
        predictions: A label for each example, or a list of labels (several may hold at once).
        references: Likewise.
        names: Of `NAMES`; accuracy of several labels wants all of them right.
        labels: More classes to keep a place for, so that the scores of two systems can be compared.

    Raises:
        BadInput: The numbers differ, one label is compared with a list, or mcc is asked for lists.
    """
    check_pairs(predictions, references)
    for name in names:
        if name not in NAMES:
            raise unknown_name("measure", name, NAMES)
    several = isinstance(references[0], list | tuple | set | frozenset)
    ours, theirs = (_label_sets(entries, several) for entries in (predictions, references))
    if several and "mcc" in names:
        raise BadInput("mcc is for one label each; several labels are given", remedy="leave mcc out")
    classes = list(dict.fromkeys([*sorted_labels({x for s in (*ours, *theirs) for x in s} | set(labels))]))
    rows, index = _rows(ours, theirs, classes)
    right = np.array([float(one == other) for one, other in zip(ours, theirs, strict=True)])
    figures = _class_figures(rows, index, classes)
    present = [vars(one) for one in figures if one.support or one.predicted]
    kind = "several labels each" if several else "one label each"
    scores = []
    for name in names:
        formula: Formula = partial(_FORMULAS[name], width=len(classes))
        statistics = Statistics(rows, index, formula)
        # Which classes a system happens to predict is a fact about it, not a setting: details, not signature.
        details = {"classes": present} if name != "accuracy" else {}
        signature = f"{TITLES[name]}|{kind}|no division by zero:0"
        scores.append(make_score(name, signature, statistics, right, details=details))
    return scores


def _label_sets(entries: Sequence[Any], several: bool) -> list[frozenset[Label]]:
    sets = []
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, list | tuple | set | frozenset) != several:
            raise BadInput(
                f"example {number}: {short(entry)} where {'a list of labels' if several else 'one label'} is expected",
                remedy="give one label everywhere, or a list of labels everywhere",
            )
        sets.append(frozenset(entry) if several else frozenset((entry,)))
    return sets


def sorted_labels(labels: Iterable[Label]) -> list[Label]:
    """Returns labels in a fixed order, whatever their types."""
    return sorted(labels, key=_order)


def _order(label: Label) -> tuple[bool, float, str]:
    number = isinstance(label, int | float)
    return not number, float(label) if isinstance(label, int | float) else 0.0, str(label)


def _rows(
    ours: list[frozenset[Label]], theirs: list[frozenset[Label]], classes: list[Label]
) -> tuple[SparseRows, npt.NDArray[np.intp]]:
    """Returns rows of [right | predicted | true, of each class, examples, wholly right], one for each pair."""
    place = {label: number for number, label in enumerate(classes)}
    width = len(classes)
    pairs: dict[tuple[frozenset[Label], frozenset[Label]], int] = {}
    index = np.array([pairs.setdefault(pair, len(pairs)) for pair in zip(ours, theirs, strict=True)], dtype=np.intp)
    lists = []
    for one, other in pairs:
        columns = [place[label] for label in one & other]
        columns += [width + place[label] for label in one]
        columns += [2 * width + place[label] for label in other]
        columns.append(3 * width)
        columns += [3 * width + 1] if one == other else []
        lists.append(columns)
    most = max(map(len, lists))
    filled = np.zeros((len(lists), most), dtype=np.intp)
    values = np.zeros((len(lists), most))
    for number, columns in enumerate(lists):
        filled[number, : len(columns)] = columns
        values[number, : len(columns)] = 1
    return SparseRows(filled, values, 3 * width + 2), index


def _split(sums: FloatArray, width: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    return sums[..., :width], sums[..., width : 2 * width], sums[..., 2 * width : 3 * width]


def _accuracy(sums: FloatArray, width: int) -> FloatArray:
    return ratio(sums[..., 3 * width + 1], sums[..., 3 * width])


def _class_f1(sums: FloatArray, width: int) -> tuple[FloatArray, FloatArray]:
    """Returns F1 of each class, and its size: predicted and true ones together."""
    right, predicted, true = _split(sums, width)
    return ratio(2 * right, predicted + true), predicted + true


def _macro_f1(sums: FloatArray, width: int) -> FloatArray:
    f1, size = _class_f1(sums, width)
    return ratio(f1.sum(axis=-1), (size > 0).sum(axis=-1))


def _micro_f1(sums: FloatArray, width: int) -> FloatArray:
    right, predicted, true = (part.sum(axis=-1) for part in _split(sums, width))
    return ratio(2 * right, predicted + true)


def _weighted_f1(sums: FloatArray, width: int) -> FloatArray:
    f1, _ = _class_f1(sums, width)
    true = _split(sums, width)[2]
    return ratio((f1 * true).sum(axis=-1), true.sum(axis=-1))


def _mcc(sums: FloatArray, width: int) -> FloatArray:
    right, predicted, true = _split(sums, width)
    n = sums[..., 3 * width]
    above = right.sum(axis=-1) * n - (predicted * true).sum(axis=-1)
    below = (n**2 - (predicted**2).sum(axis=-1)) * (n**2 - (true**2).sum(axis=-1))
    return ratio(above, np.sqrt(np.maximum(below, 0)))


_FORMULAS = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "weighted_f1": _weighted_f1,
    "mcc": _mcc,
}


def _class_figures(rows: SparseRows, index: npt.NDArray[np.intp], classes: list[Label]) -> list[ClassFigures]:
    counts = np.bincount(index, minlength=len(rows)).astype(np.float64)
    right, predicted, true = _split(rows.weigh(counts[None])[0], len(classes))
    precision, recall, f1 = ratio(right, predicted), ratio(right, true), ratio(2 * right, predicted + true)
    return [
        ClassFigures(str(label), float(precision[k]), float(recall[k]), float(f1[k]), int(true[k]), int(predicted[k]))
        for k, label in enumerate(classes)
    ]


def confusion_matrix(
    predictions: Sequence[Label], references: Sequence[Label]
) -> tuple[npt.NDArray[np.int64], list[Label]]:
    """Counts the examples of each class, (true, predicted), and returns the classes in the order of its rows.

    Raises:
        BadInput: The numbers differ.
    """
    check_pairs(predictions, references)
    classes = sorted_labels({*predictions, *references})
    place = {label: number for number, label in enumerate(classes)}
    cells = [place[true] * len(classes) + place[ours] for ours, true in zip(predictions, references, strict=True)]
    counts = np.bincount(cells, minlength=len(classes) ** 2).astype(np.int64)
    return counts.reshape(len(classes), len(classes)), classes

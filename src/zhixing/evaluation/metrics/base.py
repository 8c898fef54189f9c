"""What every measure returns, and the sufficient statistics that let it be resampled. No formula of a measure is here.

A measure over a corpus is as a rule not the mean of its examples: BLEU divides sums of counts, F1 likewise. So each
example has a row of statistics; rows are added up, and a formula turns the sums into the value. A resample is then
another way to weigh the rows, and thousands of them are one product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zhixing.core.errors import BadInput

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
Formula = Callable[[FloatArray], FloatArray]
"""Turns summed statistics (..., columns) into values (...); defined for every sum, also of nothing but zeros."""
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class SparseRows:
    """Rows of statistics of which each holds few entries, such as the counts of two among many classes.

    Attributes:
        columns: The column of each entry, (rows, entries).
        values: Its value, (rows, entries); 0 where a row has fewer entries.
        width: Number of columns.
    """

    columns: IntArray
    values: FloatArray
    width: int

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, rows: IntArray) -> SparseRows:
        """Returns the rows of these numbers, in this order."""
        return SparseRows(self.columns[rows], self.values[rows], self.width)

    def weigh(self, weights: FloatArray) -> FloatArray:
        """Adds the rows up, (sets, rows) weights -> (sets, columns) sums."""
        places = self.columns.ravel()
        return np.stack(
            [np.bincount(places, (row[:, None] * self.values).ravel(), self.width) for row in weights]
        )  # fmt: skip


@dataclass(frozen=True)
class DenseRows:
    """Rows of statistics as one matrix, (rows, columns)."""

    values: FloatArray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    def take(self, rows: IntArray) -> DenseRows:
        """Returns the rows of these numbers, in this order."""
        return DenseRows(self.values[rows])

    def weigh(self, weights: FloatArray) -> FloatArray:
        """Adds the rows up, (sets, rows) weights -> (sets, columns) sums."""
        sums: FloatArray = weights @ self.values
        return sums


@dataclass(frozen=True)
class Statistics:
    """The sufficient statistics of a measure.

    Attributes:
        rows: The different rows that occur.
        index: The row of each example, (examples,).
        formula: From summed rows to the value.
    """

    rows: DenseRows | SparseRows
    index: IntArray
    formula: Formula

    @classmethod
    def dense(cls, rows: npt.ArrayLike, formula: Formula) -> Statistics:
        """Makes statistics from one row for each example, (examples, columns)."""
        values = np.asarray(rows, dtype=np.float64)
        index = np.arange(len(values), dtype=np.intp)
        if values.shape[1] <= 3 and len(values) > 1:  # measures of yes and no: few different rows, fast to resample
            values, index = np.unique(values, axis=0, return_inverse=True)
            index = index.reshape(-1).astype(np.intp)
        return cls(DenseRows(values), index, formula)

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.index)

    @property
    def value(self) -> float:
        """The value over all examples."""
        counts = np.bincount(self.index, minlength=len(self.rows)).astype(np.float64)
        return float(self.formula(self.rows.weigh(counts[None]))[0])


def mean_of(values: npt.ArrayLike, scale: float = 1.0) -> Statistics:
    """Returns the statistics of a plain mean over examples."""
    column = np.asarray(values, dtype=np.float64)
    rows = np.stack([column, np.ones_like(column)], axis=1)
    return Statistics.dense(rows, lambda sums: scale * ratio(sums[..., 0], sums[..., 1]))


def ratio(above: npt.ArrayLike, below: npt.ArrayLike, otherwise: float = 0.0) -> FloatArray:
    """Divides, with a stated value where the denominator is zero."""
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    result: FloatArray = np.divide(above, below, out=np.full(above.shape, otherwise), where=below != 0)
    return result


def f1(sums: FloatArray) -> FloatArray:
    """Returns F1 of sums (..., 3 or more) of what is right, predicted and true, in this order."""
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def figures(right: int, predicted: int, true: int) -> dict[str, Any]:
    """Returns precision, recall and F1 with the counts that they come from; what is divided by zero is 0."""
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (predicted + true) if predicted + true else 0.0,
        "right": right,
        "predicted": predicted,
        "true": true,
    }


@dataclass(frozen=True)
class Interval:
    """A confidence interval from resampling.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        confidence: The share of resamples within.
        resamples: Their number.
        seed: Of the random generator.
    """

    low: float
    high: float
    confidence: float
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Returns the interval as plain data."""
        return {"method": "percentile bootstrap", **vars(self)}


@dataclass(frozen=True)
class Score:
    """The value of one measure on one set of outputs.

    Attributes:
        name: The measure, as in the registry.
        value: The figure.
        signature: Everything that has to be known to get the same figure again.
        n: Number of examples.
        per_example: A value for each example, (n,), to find the worst ones; its mean is the value only where the
            measure is a mean.
        statistics: What resampling needs.
        better: Which values are better.
        top: The best possible value that the scale has (1 or 100), None when it is open.
        interval: Set by `resampling.with_interval`.
        details: More figures that belong to it, as plain data.
        notes: What a reader has to know about the value, in sentences.
    """

    name: str
    value: float
    signature: str
    n: int
    per_example: FloatArray
    statistics: Statistics
    better: Better = "higher"
    top: float | None = 1.0
    interval: Interval | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def with_notes(self, *notes: str) -> Score:
        """Returns the same score with more to say about it."""
        return replace(self, notes=self.notes + notes)

    def to_json(self) -> dict[str, Any]:
        """Returns the score as plain data, without the examples; what is not a number becomes null."""
        return {
            "measure": self.name,
            "value": self.value if math.isfinite(self.value) else None,
            "interval": self.interval.to_json() if self.interval else None,
            "n": self.n,
            "better": self.better,
            "signature": self.signature,
            "details": dict(self.details),
            "notes": list(self.notes),
        }


def make_score(
    name: str,
    signature: str,
    statistics: Statistics,
    per_example: npt.ArrayLike,
    *,
    value: float | None = None,
    better: Better = "higher",
    top: float | None = 1.0,
    details: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Score:
    """Builds a score; the value is that of the statistics unless a reference implementation gave it."""
    return Score(
        name=name,
        value=statistics.value if value is None else value,
        signature=signature,
        n=statistics.n,
        per_example=np.asarray(per_example, dtype=np.float64),
        statistics=statistics,
        better=better,
        top=top,
        details=details or {},
        notes=tuple(notes),
    )


def check_pairs(predictions: Sized, references: Sized) -> None:
    """Makes sure that there is one reference entry for each prediction, and something to score.

    Raises:
        BadInput: The numbers differ, or are zero.
    """
    if len(predictions) != len(references):
        raise BadInput(
            f"{len(predictions):,} prediction(s) but {len(references):,} reference(s)",
            remedy="give one reference (or one list of references) for each prediction, in the same order",
        )
    if not len(predictions):
        raise BadInput("there is nothing to score: no prediction and no reference")


def as_lists(references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """Returns the references of each example as a list: a single one may be given bare.

    Raises:
        BadInput: An example has none, or one that is no text.
    """
    lists = []
    for number, entry in enumerate(references, start=1):
        several = [entry] if isinstance(entry, str) else list(entry)
        if not several or not all(isinstance(text, str) for text in several):
            raise BadInput(f"example {number}: a reference is a text or a list of texts, not {short(entry)}")
        lists.append(several)
    return lists


def check_texts(predictions: Sequence[Any]) -> None:
    """Makes sure that predictions are texts.

    Raises:
        BadInput: One is not.
    """
    for number, text in enumerate(predictions, start=1):
        if not isinstance(text, str):
            raise BadInput(f"example {number}: the prediction is {short(text)}, not a text")


def short(value: Any, length: int = 60) -> str:
    """Returns a value for a message, cut when it is long."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."

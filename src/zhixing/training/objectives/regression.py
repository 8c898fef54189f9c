"""Regression: a number for a text or a pair of texts (stars, similarity), by least squares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Labelled, Shape
from zhixing.data.shapes.records import Misfit, brief
from zhixing.models.heads import ClassificationHead, EncoderModel, HeadConfig
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective
from zhixing.training.objectives.texts import TOKENS, TextBatch, TextFramer, arrays, ragged_of


class Regression(RecordObjective):
    """Minimises the squared error, in units of the numbers' variance: 1 is what always giving the mean costs."""

    name: ClassVar[str] = "regression"
    summary: ClassVar[str] = "give a text (or a pair of texts) a number"
    shapes: ClassVar[tuple[Shape, ...]] = ("labelled",)
    network: ClassVar[NetworkKind] = "encoder"
    options: ClassVar[frozenset[str]] = frozenset({"summary"})
    measures: ClassVar[tuple[str, ...]] = ("spearman", "pearson", "mean_absolute_error")
    own: ClassVar[frozenset[str]] = frozenset(measures)
    lower: ClassVar[frozenset[str]] = frozenset({"mean_absolute_error"})
    sample: ClassVar[Mapping[str, Any]] = {"text": "Two dogs run.", "second": "两只狗在跑。", "label": 4.8}
    fields: ClassVar[Mapping[str, str]] = {**TOKENS, "number": "float32"}

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer."""
        super().attach(tokenizer, longest)
        self.framer = TextFramer(tokenizer, longest)

    def observe(self, record: Labelled, held_out: bool) -> None:
        """Checks the number; those of the training records give the mean and the variance (Welford 1962)."""
        value = _number(record)
        if not held_out:
            self._count += 1
            step = value - self._mean
            self._mean += step / self._count
            self._squares += step * (value - self._mean)

    def settle(self) -> None:
        """Refuses numbers that are all the same."""
        if self.deviation == 0:
            raise BadInput(
                f"all training records have the same number ({self._mean:g}): there is nothing to learn",
                where="data.paths",
                remedy="name the column that holds the number: --set data.columns={label: NAME}",
            )

    @property
    def deviation(self) -> float:
        """The standard deviation of the training records' numbers."""
        return math.sqrt(self._squares / self._count) if self._count else 0.0

    def facts(self) -> dict[str, Any]:
        """Returns mean and deviation."""
        return {"count": self._count, "mean": self._mean, "squares": self._squares}

    def load_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes mean and deviation from an earlier pass."""
        self._count, self._mean, self._squares = int(facts["count"]), float(facts["mean"]), float(facts["squares"])

    def encode(self, record: Labelled) -> Encoded:
        """Makes one example of a record."""
        framed = self.framer.frame_text(record.text, record.second)
        return Encoded(({**arrays(framed), "number": np.array([_number(record)], np.float32)},), framed.cut)

    def head(self) -> HeadConfig:
        """Returns a head with one score."""
        return HeadConfig(
            kind="classify", labels=("LABEL_0",), problem="regression", summary=self.task.summary or "first"
        )

    def wrap(self, model: nn.Module, new_head: bool) -> nn.Module:
        """Lets a new head begin at the mean, and with the scale, of the numbers."""
        assert isinstance(model, EncoderModel)
        assert isinstance(model.head, ClassificationHead)
        if new_head:
            with torch.no_grad():
                model.head.out.bias.fill_(self._mean)
                model.head.out.weight.mul_(self.deviation)
        return model

    def to_device(self, raw: RawBatch, device: torch.device) -> TextBatch:
        """Lays the texts end to end."""
        wanted = torch.tensor([float(example["number"][0]) for example in raw.examples])
        return TextBatch(ragged_of(raw.examples, device), wanted.to(device))

    def loss_sum(self, model: EncoderModel, batch: TextBatch) -> Tensor:
        """Returns the squared errors over the variance, summed."""
        errors: Tensor = (model(batch.texts)[:, 0].float() - batch.wanted) / self.deviation
        return errors.square().sum()

    def predict(self, model: EncoderModel, batch: TextBatch) -> Sequence[Any]:
        """Returns a number for each text."""
        return model(batch.texts)[:, 0].float().tolist()  # type: ignore[no-any-return]

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns the right numbers."""
        return [float(example["number"][0]) for example in examples]

    def show(self, prediction: Any, reference: Any) -> tuple[str, str]:
        """Returns both numbers, rounded."""
        return f"{prediction:.3f}", f"{reference:.3f}"

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns both correlations and the mean absolute error."""
        ours, right = np.array(predictions, np.float64), np.array(references, np.float64)
        return {
            "spearman": correlation(ranks(ours), ranks(right)),
            "pearson": correlation(ours, right),
            "mean_absolute_error": float(np.abs(ours - right).mean()),
        }


def _number(record: Labelled) -> float:
    label = record.label if isinstance(record.label, str) else record.label[0]
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (isinstance(record.label, tuple) and len(record.label) != 1):
        raise Misfit(
            f"the label {brief(record.label)} is no number",
            "write a finite number such as 4.5, or train.objective: classification for names",
        )
    return value


def ranks(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns the rank of each value, equal ones sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: np.ndarray[Any, np.dtype[np.float64]] = (2 * ends - counts + 1) / 2
    found: np.ndarray[Any, np.dtype[np.float64]] = middles[inverse.reshape(-1)]
    return found


def correlation(one: np.ndarray[Any, np.dtype[np.float64]], other: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Returns Pearson's correlation; 0 where either does not vary."""
    a, b = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else 0.0

"""Classification of a text, or of two that belong together: one label each, or any number of labels.

Losses: cross-entropy over the labels, or one yes-or-no question for each label; with weights for rare labels, the focal
loss (Lin et al. 2017), label smoothing (Szegedy et al. 2016), and R-Drop (Wu et al. 2021).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Labelled, Shape
from zhixing.data.shapes.records import Misfit, brief
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.models.ragged import Ragged
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective
from zhixing.training.objectives.labels import Labels
from zhixing.training.objectives.texts import TOKENS, TextFramer, arrays, ragged_of


@dataclass(frozen=True)
class LabelBatch:
    """Texts with their labels.

    Attributes:
        texts: The sequences.
        wanted: One label: its number, (sequences). Several: 1 for each that holds, (sequences, labels).
        target_count: The sequences.
    """

    texts: Ragged
    wanted: Tensor
    target_count: int

    @property
    def token_count(self) -> int:
        """The tokens of all texts."""
        return len(self.texts.tokens)


class Classification(RecordObjective):
    """Minimises -log p(label | text), or the sum of -log p(yes or no) over all labels where several may hold."""

    name: ClassVar[str] = "classification"
    summary: ClassVar[str] = "give a text (or a pair of texts) its label, or its labels"
    shapes: ClassVar[tuple[Shape, ...]] = ("labelled",)
    network: ClassVar[NetworkKind] = "encoder"
    options: ClassVar[frozenset[str]] = frozenset(
        {"problem", "labels", "class_weights", "focal", "label_smoothing", "r_drop", "summary"}
    )
    measures: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    sample: ClassVar[Mapping[str, Any]] = {"text": "房间干净，早餐很好。", "label": "positive"}
    fields: ClassVar[Mapping[str, str]] = {**TOKENS, "label": "int32"}

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.labels = Labels(self.task.labels)
        self._several: bool | None = None if self.task.problem is None else self.task.problem == "multi"
        self._seen = 0
        self._weights: Tensor | None = None

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Refuses options that contradict each other."""
        task = recipe.task
        if task.focal and task.label_smoothing:
            raise BadInput(
                "the focal loss turns away from sure answers, label smoothing from being sure: use one of them",
                where="task.focal",
                remedy="leave out task.focal or task.label_smoothing",
            )
        if task.labels is not None and len(task.labels) < 2:
            raise BadInput("there must be at least two labels", where="task.labels", remedy="name all of them")

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer."""
        super().attach(tokenizer, longest)
        self.framer = TextFramer(tokenizer, longest)

    @property
    def several(self) -> bool:
        """Whether any number of labels may hold at once."""
        return bool(self._several)

    def observe(self, record: Labelled, held_out: bool) -> None:
        """Checks the label and collects it."""
        is_several = isinstance(record.label, tuple)
        if self._several is None:
            self._several = is_several
        if is_several and not self._several:
            raise Misfit(
                f"the label is a list ({brief(list(record.label))}), and others are single labels",
                "give every record one label, or every record a list; or set task.problem: multi",
            )
        for name in _names(record):
            if not name.strip():
                raise Misfit('the label is ""', "write a label, or leave the record out")
            self.labels.observe(name, held_out)
        self._seen += not held_out

    def settle(self) -> None:
        """Fixes the labels."""
        self.labels.settle()
        found = len(self.labels)
        if found < 2 and not (self.several and found):
            raise BadInput(
                f"all training records have the same label ({', '.join(self.labels.names) or 'none'}):"
                " there is nothing to tell apart",
                where="data.paths",
                remedy="name the column that holds the label: --set data.columns={label: NAME}",
            )
        self._weights = self._class_weights()

    def _class_weights(self) -> Tensor | None:
        given, names, counts = self.task.class_weights, self.labels.names, self.labels.counts
        if given is None:
            return None
        if given == "balanced":
            # As scikit-learn's: the mean of the weights over the records is one.
            weights = [self._seen / (len(names) * counts[name]) if counts[name] else 0.0 for name in names]
            return torch.tensor(weights)
        unknown = [name for name in given if name not in names]
        if unknown or any(value < 0 for value in given.values()):
            raise BadInput(
                f"weights are for labels ({', '.join(names)}) and not below 0, got {brief(dict(given))}",
                where="task.class_weights",
                remedy="name labels of the records; those not named weigh 1",
            )
        return torch.tensor([given.get(name, 1.0) for name in names])

    def facts(self) -> dict[str, Any]:
        """Returns the labels and how often each occurs."""
        counts = {name: self.labels.counts[name] for name in self.labels.names}
        return {"labels": counts, "several": self.several, "records": self._seen}

    def load_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes the labels from an earlier pass."""
        self.labels.counts = Counter(facts["labels"])
        self._several, self._seen = bool(facts["several"]), int(facts["records"])
        self.labels.settle(facts["labels"])
        self._weights = self._class_weights()

    def encode(self, record: Labelled) -> Encoded:
        """Makes one example of a record."""
        framed = self.framer.frame_text(record.text, record.second)
        numbers = np.array([self.labels.number(name) for name in _names(record)], np.int32)
        return Encoded(({**arrays(framed), "label": numbers},), framed.cut)

    def head(self) -> HeadConfig:
        """Returns a head that scores the labels of a sequence."""
        return HeadConfig(
            kind="classify", labels=self.labels.names, problem="multi" if self.several else "single",
            summary=self.task.summary or "first",
        )  # fmt: skip

    def to_device(self, raw: RawBatch, device: torch.device) -> LabelBatch:
        """Lays the texts end to end."""
        count = len(raw.examples)
        if self.several:
            wanted = torch.zeros(count, len(self.labels))
            for row, example in enumerate(raw.examples):
                wanted[row, torch.from_numpy(example["label"].astype(np.int64))] = 1.0
        else:
            wanted = torch.tensor([int(example["label"][0]) for example in raw.examples])
        return LabelBatch(ragged_of(raw.examples, device), wanted.to(device), count)

    def loss_sum(self, model: EncoderModel, batch: LabelBatch) -> Tensor:
        """Returns the loss summed over the texts; in training with R-Drop that of two passes, and their distance."""
        scores = model(batch.texts).float()  # (sequences, labels)
        loss = self._loss(scores, batch.wanted, model.training)
        if not self.task.r_drop or not model.training:
            return loss
        other = model(batch.texts).float()
        loss = (loss + self._loss(other, batch.wanted, True)) / 2
        return loss + self.task.r_drop * disagreement(scores, other, self.several)

    def _loss(self, scores: Tensor, wanted: Tensor, training: bool) -> Tensor:
        weights = self._weights.to(scores.device) if self._weights is not None and training else None
        smoothing = self.task.label_smoothing if training else 0.0
        focal = self.task.focal if training else 0.0
        if self.several:
            if smoothing:
                wanted = wanted * (1 - smoothing) + smoothing / 2
            losses = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")  # (sequences, labels)
            if focal:
                losses = losses * (-torch.expm1(-losses)) ** focal
            return (losses if weights is None else losses * weights).sum()
        if focal:
            losses = F.cross_entropy(scores, wanted, reduction="none")  # (sequences)
            losses = losses * (-torch.expm1(-losses)) ** focal  # exp(-loss) is the probability of the right label
            return (losses if weights is None else losses * weights[wanted]).sum()
        return F.cross_entropy(scores, wanted, weight=weights, label_smoothing=smoothing, reduction="sum")

    def predict(self, model: EncoderModel, batch: LabelBatch) -> Sequence[Any]:
        """Returns the likeliest label of each text, or all labels that are likelier than not."""
        scores, names = model(batch.texts), self.labels.names
        if self.several:
            return [[names[index] for index in row.nonzero()[:, 0].tolist()] for row in scores > 0]
        return [names[index] for index in scores.argmax(dim=1).tolist()]

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns the label, or the labels, of each example."""
        names = self.labels.names
        if self.several:
            return [[names[int(index)] for index in example["label"]] for example in examples]
        return [names[int(example["label"][0])] for example in examples]


def _names(record: Labelled) -> tuple[str, ...]:
    return record.label if isinstance(record.label, tuple) else (record.label,)


def disagreement(one: Tensor, other: Tensor, several: bool = False) -> Tensor:
    """Returns half the sum of both Kullback-Leibler divergences between two passes, summed over rows (R-Drop, eq. 2).

    Args:
        one: Scores, (rows, classes).
        other: Likewise.
        several: Each class is a yes-or-no question of its own.
    """
    if several:
        p, q = torch.sigmoid(one), torch.sigmoid(other)
        # For Bernoulli variables KL(p|q) + KL(q|p) = (p - q)(logit p - logit q).
        return ((p - q) * (one - other)).sum() / 2
    p, q = F.log_softmax(one, dim=-1), F.log_softmax(other, dim=-1)
    return ((p.exp() - q.exp()) * (p - q)).sum() / 2

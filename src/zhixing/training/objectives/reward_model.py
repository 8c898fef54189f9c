"""The reward model: learns from pairs what people prefer, as one figure for each answer (Bradley and Terry 1952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zhixing.data.examples import Example
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Preference, Shape
from zhixing.data.shapes.records import Misfit
from zhixing.models.scorer import side_by_side
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.answers import AnswerEncoder, judged
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective
from zhixing.training.preference import ranking_loss


@dataclass(frozen=True)
class JudgedBatch:
    """Pairs of conversations: all better ones, then all worse ones.

    Attributes:
        tokens: (2 * pairs, time), filled up behind the ends.
        ends: Where each ends, (2 * pairs).
        target_count: The pairs.
        token_count: The tokens of all.
        outcomes: Of held-out pairs: both figures.
    """

    tokens: Tensor
    ends: Tensor
    target_count: int
    token_count: int
    outcomes: list[tuple[float, float]]


class RewardModel(RecordObjective):
    """Minimises -log sigma(r(chosen) - r(rejected))."""

    name: ClassVar[str] = "reward_model"
    summary: ClassVar[str] = "judge answers by one figure, learned from pairs of which one is better"
    shapes: ClassVar[tuple[Shape, ...]] = ("preference",)
    network: ClassVar[NetworkKind] = "scorer"
    measures: ClassVar[tuple[str, ...]] = ("pair_accuracy", "margin")
    own: ClassVar[frozenset[str]] = frozenset(measures)
    sample: ClassVar[Mapping[str, Any]] = {"prompt": "1 + 1?", "chosen": "2.", "rejected": "3."}
    fields: ClassVar[Mapping[str, str]] = {"chosen": "int32", "rejected": "int32"}

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer."""
        super().attach(tokenizer, longest)
        self._encoder = AnswerEncoder(tokenizer)

    def observe(self, record: Preference, held_out: bool) -> None:
        """Refuses pairs without a difference."""
        if record.chosen == record.rejected:
            raise Misfit("the chosen answer is the rejected one", "leave the record out")

    def length(self, example: Example) -> int:
        """Counts both sequences."""
        return len(example["chosen"]) + len(example["rejected"])

    def encode(self, record: Preference) -> Encoded:
        """Makes one example of a pair. What does not fit is cut from the beginning: the answer stands at the end."""
        rows = [judged(self._encoder, record.prompt, answer) for answer in (record.chosen, record.rejected)]
        cut = sum(max(0, len(row) - self.longest) for row in rows)
        chosen, rejected = (np.array(row[-self.longest :], np.int32) for row in rows)
        return Encoded(({"chosen": chosen, "rejected": rejected},), cut)

    def to_device(self, raw: RawBatch, device: torch.device) -> JudgedBatch:
        """Lays all better answers side by side, then all worse ones."""
        rows = [example[name].tolist() for name in ("chosen", "rejected") for example in raw.examples]
        tokens, ends = side_by_side(rows, device)
        return JudgedBatch(tokens, ends, len(raw.examples), sum(map(len, rows)), [])

    def loss_sum(self, model: Any, batch: JudgedBatch) -> Tensor:
        """Returns the loss summed over the pairs."""
        chosen, rejected = model(batch.tokens, batch.ends).split(batch.target_count)
        if not model.training:
            batch.outcomes.extend(zip(chosen.tolist(), rejected.tolist(), strict=True))
        return ranking_loss(chosen, rejected).sum()

    def predict(self, model: Any, batch: JudgedBatch) -> Sequence[Any]:
        """Returns both figures of each pair."""
        return batch.outcomes

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns the better answer's text."""
        return [self.tokenizer.decode(example["chosen"].tolist(), skip_special=True) for example in examples]

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns how often the better answer has the higher figure, and by how much on average."""
        margins = np.array([chosen - rejected for chosen, rejected in predictions])
        return {"pair_accuracy": float((margins > 0).mean()), "margin": float(margins.mean())}

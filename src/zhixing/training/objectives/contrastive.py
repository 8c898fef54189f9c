"""Contrastive sentence embedding: texts that belong together get near vectors, the others in the batch far ones.

InfoNCE over in-batch negatives (van den Oord et al. 2018; Henderson et al. 2017) and hard ones where records name them,
in both directions; with Matryoshka sizes the leading numbers of a vector are useful alone (Kusupati et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Pair, Preference, Shape
from zhixing.data.shapes.records import Misfit
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.models.ragged import Ragged
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective
from zhixing.training.objectives.texts import TextFramer

COMPARED = 2000
"""Held-out pairs among which a text must find its own."""


@dataclass(frozen=True)
class PairBatch:
    """Pairs of texts, and hard negatives.

    Attributes:
        texts: All first texts, then all second ones, then the hard negatives.
        pairs: The number of pairs.
    """

    texts: Ragged
    pairs: int

    @property
    def target_count(self) -> int:
        """The pairs."""
        return self.pairs

    @property
    def token_count(self) -> int:
        """All tokens."""
        return len(self.texts.tokens)


class Contrastive(RecordObjective):
    """Minimises -log p(the text that belongs to this one | all texts of the batch), by cosine over the temperature."""

    name: ClassVar[str] = "contrastive"
    summary: ClassVar[str] = "give texts that belong together near vectors (search, similarity)"
    shapes: ClassVar[tuple[Shape, ...]] = ("pair", "preference")
    network: ClassVar[NetworkKind] = "encoder"
    options: ClassVar[frozenset[str]] = frozenset({"similarity_temperature", "matryoshka"})
    measures: ClassVar[tuple[str, ...]] = ("mrr", "recall@1")
    own: ClassVar[frozenset[str]] = frozenset(measures)
    sample: ClassVar[Mapping[str, Any]] = {"source": "How do I reset my password?", "target": "如何重置密码？"}
    fields: ClassVar[Mapping[str, str]] = {"tokens": "int32", "lengths": "int32"}

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer."""
        super().attach(tokenizer, longest)
        self.framer = TextFramer(tokenizer, longest)

    def observe(self, record: Pair | Preference, held_out: bool) -> None:
        """Refuses empty texts."""
        if not all(text.strip() for text in _texts(record)):
            raise Misfit("a text is empty", "write it, or leave the record out")

    def encode(self, record: Pair | Preference) -> Encoded:
        """Makes one example of a record: two texts, or three."""
        framed = [self.framer.frame_text(text) for text in _texts(record)]
        tokens = np.array([token for one in framed for token in one.tokens], np.int32)
        lengths = np.array([len(one.tokens) for one in framed], np.int32)
        return Encoded(({"tokens": tokens, "lengths": lengths},), sum(one.cut for one in framed))

    def head(self) -> HeadConfig:
        """Returns a head that pools, and scales to length one."""
        return HeadConfig(kind="pool", pooling="mean", normalise=True)

    def wrap(self, model: nn.Module, new_head: bool) -> nn.Module:
        """Refuses sizes that the vectors do not have."""
        assert isinstance(model, EncoderModel)
        width = model.config.width
        for size in self.task.matryoshka:
            if not 1 <= size <= width:
                raise BadInput(
                    f"a vector has {width} numbers, no leading {size}",
                    where="task.matryoshka",
                    remedy=f"give sizes from 1 to {width}",
                )
        return model

    def to_device(self, raw: RawBatch, device: torch.device) -> PairBatch:
        """Lays the texts end to end: firsts, seconds, hard negatives."""
        roles: list[list[np.ndarray[Any, np.dtype[np.int32]]]] = [[], [], []]
        for example in raw.examples:
            for role, part in zip(roles, np.split(example["tokens"], np.cumsum(example["lengths"])[:-1]), strict=False):
                role.append(part)
        parts = [part for role in roles for part in role]
        flat = torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)
        return PairBatch(Ragged(flat, tuple(map(len, parts))), len(raw.examples))

    def loss_sum(self, model: EncoderModel, batch: PairBatch) -> Tensor:
        """Returns the loss summed over pairs, the mean of both directions and of all sizes."""
        vectors = model(batch.texts).float()
        sizes = sorted({*self.task.matryoshka, vectors.shape[1]})
        losses = [info_nce(vectors[:, :size], batch.pairs, self.task.similarity_temperature) for size in sizes]
        return torch.stack(losses).mean()

    def predict(self, model: EncoderModel, batch: PairBatch) -> Sequence[Any]:
        """Returns both vectors of each pair."""
        vectors = model(batch.texts).float().cpu().numpy()
        return list(zip(vectors[: batch.pairs], vectors[batch.pairs : 2 * batch.pairs], strict=True))

    def show(self, prediction: Any, reference: Any) -> None:
        """Vectors are nothing to read."""

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns how high the right text stands among all held-out ones: mean reciprocal rank, and how often first."""
        found = predictions[:COMPARED]
        first, second = (np.stack([pair[side] for pair in found]) for side in (0, 1))
        scores = first @ second.T
        ranks = 1 + (scores > np.diag(scores)[:, None]).sum(axis=1)
        return {"mrr": float((1 / ranks).mean()), "recall@1": float((ranks == 1).mean())}


def info_nce(vectors: Tensor, pairs: int, temperature: float) -> Tensor:
    """Returns InfoNCE summed over pairs, the mean of both directions.

    Args:
        vectors: First texts, second texts, hard negatives, (2 * pairs + negatives, size).
        pairs: Their number.
        temperature: What cosines are divided by.
    """
    vectors = F.normalize(vectors, dim=1)
    first, others = vectors[:pairs], vectors[pairs:]  # hard negatives are others to every first text
    right = torch.arange(pairs, device=vectors.device)
    forwards = F.cross_entropy(first @ others.T / temperature, right, reduction="sum")
    back = F.cross_entropy(others[:pairs] @ first.T / temperature, right, reduction="sum")
    return (forwards + back) / 2


def _texts(record: Pair | Preference) -> tuple[str, ...]:
    if isinstance(record, Pair):
        return record.source, record.target
    last = [turns[-1].content for turns in (record.prompt, record.chosen, record.rejected) if turns]
    if len(last) != 3:
        raise Misfit("a text, one that belongs to it and one that does not are needed", "name all three")
    return tuple(last)

"""Validation during training: the same fixed part of what is held out each time, so that figures compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from zhixing.core.errors import BadInput
from zhixing.data.batches import gather
from zhixing.data.examples import ExampleStore
from zhixing.data.length_batches import RawBatch
from zhixing.data.shards import TokenStore
from zhixing.models.loss import IGNORED
from zhixing.models.network import CausalNetwork
from zhixing.models.ragged import batches_by_length
from zhixing.training.objectives import RecordObjective

TOKENS_AT_ONCE = 2048
"""Few enough that measuring takes no more memory than training, many enough that products are not slower for it."""


Measure = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]
"""From predictions and right answers to figures by name."""


@dataclass(frozen=True)
class ValidationScore:
    """What was measured.

    Attributes:
        loss: Mean loss in nats per target.
        tokens: Targets.
        perplexity: Of language models; else None.
        bits_per_byte: Of language models on running text; else None.
        measures: Figures of the objective by name.
    """

    loss: float
    tokens: int
    perplexity: float | None = None
    bits_per_byte: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Returns all figures that there are, by name."""
        own = {"loss": self.loss, "bits_per_byte": self.bits_per_byte, "perplexity": self.perplexity}
        return {**{name: value for name, value in own.items() if value is not None}, **self.measures}


class HeldOut(Protocol):
    """What a run is measured on."""

    def measure(self, model: Any, device: torch.device) -> ValidationScore:
        """Measures a model, which is put into evaluation mode for the time."""


class Validation:
    """Non-overlapping blocks of the held-out tokens, spread evenly when there are more than may be measured.

    Args:
        store: The held-out tokens.
        block: Tokens per block.
        most: Most tokens to measure.
        within_documents: Whether attention stays within documents.
    """

    def __init__(self, store: TokenStore, block: int, most: int, within_documents: bool = False) -> None:
        if len(store) < 2:
            raise BadInput(
                f"the held-out part has {len(store)} tokens; there is nothing to measure",
                where="data.validation_fraction",
                remedy="raise data.validation_fraction, or add more text",
            )
        self.store, self.within_documents = store, within_documents
        self.block = min(block, len(store) - 1)
        available = (len(store) - 1) // self.block
        count = max(1, min(available, most // self.block))
        self.starts = (np.arange(count) * available // count * self.block).astype(np.int64)
        self.bytes_per_token = store.byte_count / len(store)

    def measure(self, model: CausalNetwork, device: torch.device) -> ValidationScore:
        """Measures a model (put into evaluation mode for the time)."""
        was_training = model.training
        model.eval()
        total, tokens = 0.0, 0
        rows = max(1, TOKENS_AT_ONCE // self.block)
        for begin in range(0, len(self.starts), rows):
            batch = gather(self.store, self.starts[begin : begin + rows], self.block, self.within_documents)
            targets = torch.from_numpy(batch.targets).to(device)
            segments = None if batch.segments is None else torch.from_numpy(batch.segments).to(device)
            losses = model.losses(torch.from_numpy(batch.tokens).to(device), targets, segments)
            total += float(losses.double().sum())
            tokens += int((targets != IGNORED).sum())
        model.train(was_training)
        loss = total / tokens
        return ValidationScore(
            loss=loss,
            tokens=tokens,
            perplexity=math.exp(min(loss, 700.0)),
            bits_per_byte=loss / math.log(2) / self.bytes_per_token if self.bytes_per_token else math.nan,
        )


class ExampleValidation:
    """Held-out examples of an objective on records.

    Args:
        store: The held-out examples.
        objective: Says how they are predicted.
        measure: Turns predictions into the objective's measures.
        most: Most tokens to measure; of more, records are taken evenly.
    """

    def __init__(self, store: ExampleStore, objective: RecordObjective, measure: Measure, most: int) -> None:
        if not len(store):
            raise BadInput(
                "no record is held out; there is nothing to measure",
                where="data.validation_fraction",
                remedy="raise data.validation_fraction, add records, or name data.validation_paths",
            )
        self.store, self.objective, self._measure = store, objective, measure
        records = np.unique(store.records)
        tokens = int(store.lengths.sum(dtype=np.int64))
        kept = records
        if tokens > most:
            count = max(1, int(len(records) * most / tokens))
            kept = records[np.arange(count) * len(records) // count]
        self.records, self.all_records = len(kept), len(records)
        self.indices = np.flatnonzero(np.isin(store.records, kept))

    def measure(self, model: nn.Module, device: torch.device) -> ValidationScore:
        """Measures a model (put into evaluation mode for the time)."""
        loss, targets, predictions, references, records = self.outcomes(model, device)
        mean = loss / max(1, targets)
        found, right = self.objective.gather(predictions, references, records)
        measures = {**self._measure(found, right), **self.objective.own_measures(mean, found, right)}
        return ValidationScore(loss=mean, tokens=targets, measures=measures)

    @torch.no_grad()
    def outcomes(self, model: nn.Module, device: torch.device) -> tuple[float, int, list[Any], list[Any], list[int]]:
        """Returns the summed loss, the number of targets, and for each example prediction, right answer and record."""
        was_training = model.training
        model.eval()
        loss, targets = 0.0, 0
        found: list[Any] = [None] * len(self.indices)
        right: list[Any] = [None] * len(self.indices)
        lengths = self.store.lengths[self.indices].tolist()
        for group in batches_by_length(lengths, TOKENS_AT_ONCE):
            places = self.indices[group]
            raw = RawBatch(self.store.take(places), int(places[0]))
            batch = self.objective.to_device(raw, device)
            loss += float(self.objective.loss_sum(model, batch).double())
            targets += batch.target_count
            for values, kept in (
                (self.objective.predict(model, batch), found),
                (self.objective.references(raw.examples), right),
            ):
                for place, value in zip(group, values, strict=False):
                    kept[place] = value
        model.train(was_training)
        return loss, targets, found, right, self.store.records[self.indices].tolist()

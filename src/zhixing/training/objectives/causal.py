"""Causal language modelling: predict each token from those before it (Bengio et al. 2003; Radford et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from zhixing.data.batches import Batch
from zhixing.data.shapes import Shape
from zhixing.models.network import CausalNetwork
from zhixing.training.objectives.base import NetworkKind, TensorBatch


class Causal:
    """Minimises -sum_t log p(x_t | x_<t) over the target tokens."""

    name: ClassVar[str] = "causal"
    summary: ClassVar[str] = "predict each token of running text from those before it"
    shapes: ClassVar[tuple[Shape, ...]] = ("text",)
    network: ClassVar[NetworkKind] = "causal"
    options: ClassVar[frozenset[str]] = frozenset()
    measures: ClassVar[tuple[str, ...]] = ("bits_per_byte",)
    sample: ClassVar[Mapping[str, Any]] = {"text": "To know is the beginning of doing. 知是行之始。"}

    def to_device(self, raw: Batch, device: torch.device) -> TensorBatch:
        """Copies a batch of blocks to the device."""
        return TensorBatch.of(raw, device)

    def loss_sum(self, model: Any, batch: TensorBatch) -> Tensor:
        """Returns the summed cross-entropy of the batch."""
        network: CausalNetwork = model
        return network.loss_sum(batch.tokens, batch.targets, batch.segments)

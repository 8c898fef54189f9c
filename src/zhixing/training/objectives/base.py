"""What every objective shares: the batch on its device, and the interface that the loop calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zhixing.data.batches import Batch
from zhixing.models.network import CausalNetwork


@dataclass(frozen=True)
class TensorBatch:
    """A batch of token blocks on the device that trains.

    Attributes:
        tokens: (batch, block).
        targets: The wanted next tokens, (batch, block).
        segments: The document of each token, (batch, block), or None.
        target_count: How many targets carry loss.
    """

    tokens: Tensor
    targets: Tensor
    segments: Tensor | None
    target_count: int

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> TensorBatch:
        """Copies a batch to the device."""
        segments = None if batch.segments is None else torch.from_numpy(batch.segments).to(device)
        tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
        return cls(tokens.to(device), targets.to(device), segments, batch.target_count)


class Objective(Protocol):
    """A way of training: turns a batch into a summed loss. The loop divides by the targets of the whole step."""

    name: str
    shape: str

    def loss_sum(self, model: CausalNetwork, batch: TensorBatch) -> Tensor:
        """Returns the loss summed over the batch's targets, in nats."""

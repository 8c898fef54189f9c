"""Causal language modelling: predict each token from those before it (Bengio et al. 2003; Radford et al. 2018)."""

from __future__ import annotations

from torch import Tensor

from zhixing.models.network import CausalNetwork
from zhixing.training.objectives.base import TensorBatch


class Causal:
    """Minimises -sum_t log p(x_t | x_<t) over the target tokens."""

    name = "causal"
    shape = "text"

    def loss_sum(self, model: CausalNetwork, batch: TensorBatch) -> Tensor:
        """Returns the summed cross-entropy of the batch."""
        return model.loss_sum(batch.tokens, batch.targets, batch.segments)

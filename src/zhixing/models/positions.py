"""Positions that are added: sinusoids to embeddings, learned biases of relative distances to attention scores.

Rotary positions are in `models.rotary`; tables of learned positions belong to the networks themselves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zhixing.models.config import TransformerConfig
from zhixing.models.layers import Embedding


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Returns sines in the first and cosines in the second half of the columns.

    These are the functions of Vaswani et al. (2017), section 3.5, in the order of their own code and of Marian; the
    formula in the paper alternates both, which is the same network with its columns renumbered.

    Args:
        positions: (n).
        width: An even number.

    Returns:
        (n, width), float32.
    """
    exponents = torch.arange(0, width, 2, device=positions.device).float() / width
    angles = positions[:, None].float() * torch.pow(10_000.0, -exponents)  # (n, width / 2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class RelativeBias(nn.Module):
    """One number for each head and bucket of distances, added to the scores of every layer (Raffel et al. 2020, T5).

    Half of the buckets are single distances; the others grow logarithmically up to `relative_distance`, beyond which
    all share the last one. Where both directions are seen, each has half of the buckets.

    Args:
        config: The network.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.both, self.farthest = not config.causal, config.relative_distance
        self.table = Embedding(config.relative_buckets, config.heads)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Returns what is added to the scores: positions (queries) and (keys) -> (1, heads, queries, keys)."""
        biases: Tensor = self.table(self.buckets(keys[None, :] - queries[:, None]))  # (queries, keys, heads)
        return biases.permute(2, 0, 1)[None]

    def buckets(self, distances: Tensor) -> Tensor:
        """Maps distances from query to key to the numbers of their buckets."""
        count = self.table.num_embeddings
        first = torch.zeros_like(distances)
        if self.both:
            count //= 2
            first = (distances > 0) * count
            distances = distances.abs()
        else:
            distances = (-distances).clamp_min(0)
        exact = count // 2
        share = torch.log(distances.clamp_min(1).float() / exact) / math.log(self.farthest / exact)
        far = (exact + (share * (count - exact)).long()).clamp_max(count - 1)
        return first + torch.where(distances < exact, distances, far)

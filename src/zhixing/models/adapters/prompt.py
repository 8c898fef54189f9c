"""Prompt tuning (Lester et al. 2021): a few learned vectors in front of every text, and nothing else.

The vectors are rows behind the vocabulary's own: token ids from `vocab_size` on. Whoever lays out tokens puts
`prompt_ids` in front of each document; the output head does not know them, so none is ever predicted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models.adapters.frozen import freeze
from zhixing.models.layers import Embedding


class PromptedEmbedding(nn.Module):
    """An embedding table with learned vectors behind its rows.

    Args:
        base: The table.
        vectors: What the learned ones start from, (count, width).
    """

    def __init__(self, base: Embedding, vectors: Tensor) -> None:
        super().__init__()
        self.base = base
        self.vectors = nn.Parameter(vectors)

    @property
    def weight(self) -> Tensor:
        """The vocabulary's own rows."""
        return self.base.weight

    @property
    def prompt_ids(self) -> list[int]:
        """The token ids of the learned vectors, in order."""
        first = self.base.weight.shape[0]
        return list(range(first, first + len(self.vectors)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Looks up (batch, time) token ids: (batch, time, width)."""
        first = self.base.weight.shape[0]
        learned = tokens >= first
        x: Tensor = self.base(tokens.clamp_max(first - 1))
        vectors = F.embedding((tokens - first).clamp_min(0), self.vectors)
        return torch.where(learned[..., None], vectors.to(x.dtype), x)


def attach_prompt(model: nn.Module, vectors: Tensor) -> PromptedEmbedding:
    """Freezes a network and puts learned vectors in front of its texts.

    Args:
        model: The network.
        vectors: Their start, (count, width); the embeddings of a text that describes the task start well.

    Raises:
        BadInput: They have another width, or there are learned vectors already.
    """
    table = model.get_submodule("embedding")
    if not isinstance(table, Embedding):
        raise BadInput("there are learned prompt vectors on this network already")
    if vectors.shape[1] != table.weight.shape[1]:
        raise BadInput(f"the prompt's vectors are {vectors.shape[1]} wide, the model's {table.weight.shape[1]}")
    freeze(model)
    made = PromptedEmbedding(table, vectors.clone())
    model.embedding = made
    return made


def prompted(model: nn.Module) -> PromptedEmbedding | None:
    """Returns a network's embedding where it has learned prompt vectors, else None."""
    table = model.get_submodule("embedding")
    return table if isinstance(table, PromptedEmbedding) else None

"""Cross-attention: a decoder's look at the states of another network (Vaswani et al. 2017, section 3.2.3).

The states may be an encoder's vectors of a text or of the patches of an image. Their keys and values are computed once
per source, for all layers in one product, and are all that is kept of it (`Source`). Self-attention is in
`models.attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.models import ops
from zhixing.models.config import TransformerConfig
from zhixing.models.layers import Linear
from zhixing.models.ragged import Ragged


@dataclass(frozen=True)
class Source:
    """What the layers of a decoder read besides their own text, one row per text that is written.

    Attributes:
        keys: Of each layer, (rows, kv_heads, longest, head_dim).
        values: Likewise.
        mask: True where there is something to read, (rows, 1, 1, longest); None: everywhere.
        owners: Which source each row reads, (rows).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None
    owners: Tensor

    def rows(self, rows: Tensor) -> Source:
        """Returns some rows, (n) of indices, in this order, several times where asked."""
        return Source(
            tuple(keys[rows] for keys in self.keys),
            tuple(values[rows] for values in self.values),
            None if self.mask is None else self.mask[rows],
            self.owners[rows],
        )


class CrossAttention(nn.Module):
    """Attention whose queries come from the decoder, and whose keys and values come from a source.

    Args:
        config: The decoder; `cross_width` is the width of the states.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.cross_width is not None
        self.head_dim, self.grouped = config.head_dim, config.heads != config.kv_heads
        self.scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.dropout = config.attention_dropout
        narrow, wide = config.kv_heads * config.head_dim, config.heads * config.head_dim
        self.query = Linear(config.width, wide, bias=config.attention_bias)
        self.key = Linear(config.cross_width, narrow, bias=config.attention_bias)
        self.value = Linear(config.cross_width, narrow, bias=config.attention_bias)
        self.output = Linear(wide, config.width, bias=config.attention_output_bias)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, layout: Ragged | None = None
    ) -> Tensor:
        """Reads the source.

        Args:
            x: (batch, time, width).
            keys: This layer's, (batch, kv_heads, longest, head_dim).
            values: Likewise.
            mask: (batch, 1, 1, longest), True where attention is allowed.
            layout: Where given, x is (1, total, width): these sequences end to end.

        Returns:
            (batch, time, width), or (1, total, width).
        """
        q = self.query(x).view(*x.shape[:2], -1, self.head_dim)
        if layout is not None:
            q = layout.rows(q[0])
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, attn_mask=mask, scale=self.scale,
            dropout_p=self.dropout if self.training else 0.0, enable_gqa=self.grouped,
        ).transpose(1, 2).flatten(2)  # fmt: skip
        y: Tensor = self.output(mixed if layout is None else layout.flat(mixed)[None])
        return y


def read_source(layers: Sequence[CrossAttention], states: Tensor, present: Tensor | None = None) -> Source:
    """Prepares states for the layers that will read them.

    Args:
        layers: The cross-attention of each layer.
        states: (sources, longest, cross_width).
        present: True where there is a state, (sources, longest); None: everywhere. Every source has at least one.

    Returns:
        The keys and values of all layers, one row for each source.
    """
    maps = [part for layer in layers for part in (layer.key, layer.value)]
    joined = ops.joined_linear(states, [part.weight for part in maps])  # (sources, longest, sum of outs)
    if maps[0].bias is not None:
        joined = joined + torch.cat([part.bias for part in maps])
    parts = [
        part.view(*states.shape[:2], -1, layers[0].head_dim).transpose(1, 2)
        for part in torch.split(joined, [len(part.weight) for part in maps], dim=-1)
    ]
    mask = None if present is None else present[:, None, None]
    owners = torch.arange(len(states), device=states.device)
    return Source(tuple(parts[::2]), tuple(parts[1::2]), mask, owners)

"""The Transformer encoder: every position sees the whole sequence (Vaswani et al. 2017; Devlin et al. 2019).

It reads ragged batches (`models.ragged`): nothing is ever computed for padding. Norms stand before the parts or behind
each addition, positions are learned, sinusoidal, relative or none. Heads are in `models.heads`; decoders in
`models.transformer`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models import ops
from zhixing.models.config import TransformerConfig
from zhixing.models.dropout import Dropout
from zhixing.models.layers import Embedding, FeedForward, Linear, Norm
from zhixing.models.positions import RelativeBias, sinusoids
from zhixing.models.ragged import Ragged


class EncoderAttention(nn.Module):
    """Self-attention in both directions, within each sequence of a ragged batch."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.dropout = config.attention_dropout
        wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.query = Linear(config.width, wide, bias=config.attention_bias)
        self.key = Linear(config.width, narrow, bias=config.attention_bias)
        self.value = Linear(config.width, narrow, bias=config.attention_bias)
        self.output = Linear(wide, config.width, bias=config.attention_output_bias)

    def forward(self, x: Tensor, batch: Ragged, bias: Tensor | None = None) -> Tensor:
        """Maps (total, width) to the same shape; `bias`, (1, heads, longest, longest), is added to the scores."""
        q, k, v = self._project(x)  # (total, heads or kv_heads, head_dim)
        dropout = self.dropout if self.training else 0.0
        mixed: list[Tensor] = []
        for start, count, length in batch.runs:
            parts = (part[start : start + count * length].view(count, length, -1, self.head_dim) for part in (q, k, v))
            query, key, value = (part.transpose(1, 2) for part in parts)  # (count, heads, length, head_dim)
            out = F.scaled_dot_product_attention(
                query, key, value, attn_mask=None if bias is None else bias[:, :, :length, :length], scale=self.scale,
                dropout_p=dropout, enable_gqa=self.heads != self.kv_heads,
            )  # fmt: skip
            mixed.append(out.transpose(1, 2).reshape(count * length, -1))
        y: Tensor = self.output(mixed[0] if len(mixed) == 1 else torch.cat(mixed))
        return y

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = (self.query, self.key, self.value)
        joined = ops.joined_linear(x, [part.weight for part in parts])
        if self.query.bias is not None:
            joined = joined + torch.cat([part.bias for part in parts])
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        q, k, v = torch.split(joined.view(len(x), -1, self.head_dim), sizes, dim=1)
        return q, k, v


class EncoderBlock(nn.Module):
    """One layer: attention and feed-forward, each added to the stream, norms placed as configured."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.before = config.norm_placement == "pre"
        self.attention = EncoderAttention(config)
        self.attention_norm = Norm(config)
        self.mlp = FeedForward(config)
        self.mlp_norm = Norm(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, batch: Ragged, bias: Tensor | None = None) -> Tensor:
        """Maps (total, width) to the same shape; see `EncoderAttention.forward`."""
        if self.before:
            x = x + self.dropout(self.attention(self.attention_norm(x), batch, bias))
            y: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
            return y
        x = self.attention_norm(x + self.dropout(self.attention(x, batch, bias)))
        out: Tensor = self.mlp_norm(x + self.dropout(self.mlp(x)))
        return out


class Encoder(nn.Module):
    """Turns token sequences into one vector per token.

    Args:
        config: What to build; `causal` must be false.

    Raises:
        BadInput: The configuration asks for what only decoders have.
    """

    positions: nn.Embedding | None
    relative: RelativeBias | None
    types: nn.Embedding | None
    embedding_norm: Norm | None
    projection: Linear | None
    final_norm: Norm | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.causal or config.norm_placement not in ("pre", "residual"):
            raise BadInput(f"an encoder sees all positions, with norms pre or residual, not {config.norm_placement!r}")
        if config.position not in ("learned", "sinusoidal", "relative", "none"):
            raise BadInput(f"an encoder has learned, sinusoidal, relative or no positions, not {config.position!r}")
        self.config = config
        size = config.embedding_width or config.width
        self.embedding = Embedding(config.vocab_size, size)
        rows = config.context + config.position_offset
        self.positions = Embedding(rows, size) if config.position == "learned" else None
        self.relative = RelativeBias(config) if config.position == "relative" else None
        self.types = Embedding(config.token_types, size) if config.token_types else None
        self.embedding_norm = Norm(config, size) if config.embedding_norm else None
        self.projection = Linear(size, config.width) if size != config.width else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.final_norm = Norm(config) if config.norm_placement == "pre" else None

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights: normal with the configured deviation (0.02 as BERT's), biases zero, norms one."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.constant_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                std = self.config.init_std or parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=std, generator=generator)

    def forward(self, batch: Ragged) -> Tensor:
        """Returns one vector per token, (total, width).

        Raises:
            BadInput: A sequence is longer than the context.
        """
        config = self.config
        if max(batch.lengths) > config.context:
            raise BadInput(f"a sequence has {max(batch.lengths)} tokens; the encoder reads at most {config.context}")
        x: Tensor = self.embedding(batch.tokens)  # (total, embedding width)
        if config.scale_embeddings:
            x = x * math.sqrt(config.width)
        if self.types is not None:
            x = x + (self.types.weight[0] if batch.types is None else self.types(batch.types))
        if self.positions is not None:
            x = x + self.positions(batch.positions + config.position_offset)
        elif config.position == "sinusoidal":
            x = x + sinusoids(batch.positions, x.shape[1]).to(x.dtype)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = self.dropout(x)
        if self.projection is not None:
            x = self.projection(x)
        bias = None
        if self.relative is not None:
            index = torch.arange(max(batch.lengths), device=x.device)
            bias = self.relative(index, index).to(x.dtype)
        for block in self.blocks:
            x = block(x, batch, bias)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x

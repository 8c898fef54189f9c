"""The Transformer, built from the parts that its configuration names.

Features: root-mean-square or layer norms, rotary or learned positions, grouped-query attention, normalised queries and
keys, plain or gated feed-forward, tied or separate head, soft-capped logits, key-value cache, attention limited to
documents, activation checkpointing. Parallelism, compilation and quantisation are applied to it from outside.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zhixing.models import ops
from zhixing.models.attention import Attention
from zhixing.models.cache import KVCache, LayerCache
from zhixing.models.config import TransformerConfig
from zhixing.models.layers import FeedForward, Linear, Norm, RotaryTable
from zhixing.models.loss import IGNORED, cross_entropy_sum, soft_cap, token_losses
from zhixing.models.network import Cache, CausalNetwork


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config)
        self.attention = Attention(config)
        self.mlp_norm = Norm(config)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        start: int = 0,
    ) -> Tensor:
        """Maps (batch, time, width) to the same shape; see `Attention.forward` for the rest."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, mask, cache, start))
        y: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return y


class Transformer(CausalNetwork):
    """A decoder-only language model.

    Args:
        config: What to build.
    """

    positions: nn.Embedding | None
    rotary: RotaryTable | None
    embedding_norm: Norm | None
    head: Linear | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self._config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width) if config.position == "learned" else None
        self.rotary = RotaryTable(config) if config.position == "rotary" else None
        self.embedding_norm = Norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = Norm(config)
        self.head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)
        self.checkpoint_activations = False

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights: normal with the configured deviation, biases zero, norms one.

        Output projections and a separate head start at zero when the configuration says so (Zhang et al. 2019, Fixup),
        else the projections at the deviation divided by sqrt(2 * layers) (Radford et al. 2019).
        """
        config = self.config
        for name, parameter in self.named_parameters():
            is_output = name.endswith(("attention.output.weight", "mlp.down.weight")) or name == "head.weight"
            if parameter.dim() < 2:
                nn.init.constant_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
            elif is_output and config.zero_init_outputs:
                nn.init.zeros_(parameter)
            elif name in ("embedding.weight", "positions.weight"):
                nn.init.normal_(parameter, std=config.init_std or 1.0, generator=generator)
            else:
                std = config.init_std or parameter.shape[1] ** -0.5
                if is_output and name != "head.weight":
                    std /= math.sqrt(2 * config.layers)
                nn.init.normal_(parameter, std=std, generator=generator)

    @property
    def config(self) -> TransformerConfig:
        """What it was built from."""
        return self._config

    @property
    def output_matrix(self) -> Tensor:
        """The matrix that maps hidden states to logits, (vocab, width)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> KVCache:
        """Makes an empty cache for `batch` sequences of up to `capacity` tokens."""
        c, weight = self.config, self.embedding.weight
        return KVCache(c.layers, batch, c.kv_heads, capacity, c.head_dim, weight.dtype, weight.device, padding)

    def hidden_states(self, tokens: Tensor, segments: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Runs all blocks and the final norm.

        Args:
            tokens: (batch, time).
            segments: (batch, time), the number of the document that each token belongs to; attention stays within it.
            cache: Earlier keys and values; these tokens come after them.

        Returns:
            (batch, time, width).
        """
        start = 0 if cache is None else cache.length
        positions, mask = self._place(tokens, segments, cache)
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = self.dropout(x)
        rotation = self.rotary(positions, start + tokens.shape[1]) if self.rotary is not None else None
        for index, block in enumerate(self.blocks):
            if self.checkpoint_activations and self.training:
                x = cast(Tensor, checkpoint(block, x, rotation, mask, use_reentrant=False))
            else:
                x = block(x, rotation, mask, cache.layers[index] if cache is not None else None, start)
        if cache is not None:
            cache.length = start + tokens.shape[1]
        y: Tensor = self.final_norm(x)
        return y

    def forward(self, tokens: Tensor, segments: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Returns the logits, (batch, time, vocab)."""
        return self.logits(self.hidden_states(tokens, segments, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """Maps hidden states, (..., width), to logits, (..., vocab)."""
        return soft_cap(ops.linear(hidden, self.output_matrix), self.config.logit_softcap)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens, (batch, time), behind those in the cache; returns the logits of the next, (batch, vocab)."""
        assert isinstance(cache, KVCache)
        return self.logits(self.hidden_states(tokens, cache=cache)[:, -1])

    def loss_sum(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the summed cross-entropy of the targets in nats; divide by their number yourself."""
        hidden = self.hidden_states(tokens, segments)
        return cross_entropy_sum(hidden, self.output_matrix, targets, self.config.logit_softcap)

    def losses(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the cross-entropy of every position, (batch, time), 0 where IGNORED, without gradient."""
        with torch.no_grad():
            hidden = self.hidden_states(tokens, segments)
            kept = targets != IGNORED
            # Only the wanted positions go through the head, which is most of the work for a large vocabulary.
            wanted = token_losses(
                hidden[kept][None], self.output_matrix, targets[kept][None], self.config.logit_softcap
            )
            return torch.zeros(targets.shape, dtype=wanted.dtype, device=wanted.device).masked_scatter_(kept, wanted)

    def _place(self, tokens: Tensor, segments: Tensor | None, cache: KVCache | None) -> tuple[Tensor, Tensor | None]:
        """Returns each token's position, (time) or (batch, time), and the mask where plain causality is not enough."""
        time, device = tokens.shape[1], tokens.device
        start = 0 if cache is None else cache.length
        index = torch.arange(start, start + time, device=device)  # (time)
        if segments is not None:
            same = segments[:, :, None] == segments[:, None, :]  # (batch, time, time)
            causal = index[:, None] >= index[None, :]
            first = same.to(torch.int8).argmax(dim=2)  # (batch, time): where the token's document begins
            return index[None, :] - first, (same & causal)[:, None]
        if cache is None:
            return index, None
        keys = torch.arange(start + time, device=device)
        if cache.padding is not None:
            allowed = (keys[None, None, :] >= cache.padding[:, None, None]) & (keys[None, None] <= index[None, :, None])
            # A padding position sees itself, so that its softmax is defined; nothing reads the result.
            allowed = allowed | (keys[None, None] == index[None, :, None])
            return (index[None, :] - cache.padding[:, None]).clamp_min(0), allowed[:, None]
        if time == 1 or start == 0:
            return index, None
        return index, (keys[None, :] <= index[:, None])[None, None]

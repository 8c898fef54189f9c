"""Scaled dot-product attention: the module with its projections, and the product itself.

On a CPU, short causal sequences in training go by blocks (`models.causal_blocks`), which skip the masked half and keep
the weights for the gradient; prompts go by the core's blocks where it is there. Layers with a window shorter than the
text or with soft-capped scores take `attend_in_blocks`, which never holds all scores at once; everything else takes
PyTorch's fused kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.models import ops
from zhixing.models.cache import LayerCache
from zhixing.models.causal_blocks import BLOCK, LONGEST_BLOCKED, causal_blocks
from zhixing.models.config import TransformerConfig
from zhixing.models.dropout import dropout as drop
from zhixing.models.head_places import Group, Heads, placed_heads, taken_heads
from zhixing.models.layers import Linear, Norm, read_side_by_side, side_by_side
from zhixing.models.packing import Packing
from zhixing.models.ragged import Ragged
from zhixing.models.row_kernels import row_kernels

SHORTEST_READ, LONGEST_READ = 96, 768
"""Numbers of positions between which `fused_causal` goes by PyTorch's products, where the core does not read."""

LONGEST_READ_BY_CORE = 4096
"""Positions up to which the core reads instead of PyTorch's fused kernel (at 2,048 in two thirds of its time)."""

ROWS = 128
"""Rows of queries that `attend_in_blocks` handles at a time: scores that stay in the cache, and few calls."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """Attends from every position to itself and what is before it (Vaswani et al. 2017, equation 1).

    Args:
        q: Queries, (batch, time, heads, head_dim).
        k: Keys, (batch, time, kv_heads, head_dim).
        v: Values, like the keys.
        scale: Factor on the scores.
        dropout: Share of the attention weights that is zeroed.

    Returns:
        (batch, time, heads, head_dim).
    """
    time = q.shape[1]
    plain = q.device.type == "cpu" and q.dtype == k.dtype == v.dtype == torch.float32
    plain = plain and not torch.is_autocast_enabled("cpu")
    blocked = plain and time <= LONGEST_BLOCKED and not dropout
    if blocked and torch.is_grad_enabled() and q.requires_grad and not torch.compiler.is_compiling():
        q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
        return causal_blocks(q, k, v, scale).transpose(1, 2)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return fused_causal(q, k, v, scale, dropout).transpose(1, 2)


def fused_causal(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """Attends causally without keeping the weights: q (batch, heads, time, head_dim), k, v with at most as many heads.

    The core reads where it can. Of the rest, PyTorch's fused kernel leaves half of a CPU's rate unused where a few
    hundred positions are read; there, blocks of queries, whose scores stay in the cache, are faster.
    """
    batch, heads, time, head_dim = q.shape
    kv_heads = k.shape[1]
    group, pairs = heads // kv_heads, batch * kv_heads
    plain = q.device.type == "cpu" and q.dtype == k.dtype == v.dtype == torch.float32 and not dropout
    plain = plain and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    kernels = row_kernels(q) if plain else None
    if kernels is not None and time <= LONGEST_READ_BY_CORE:
        grouped = (q if scale == 1 else q * scale).reshape(pairs, group, time, head_dim)
        keys, values = k.reshape(pairs, time, head_dim), v.reshape(pairs, time, head_dim)
        read = kernels.causal(grouped, keys, values, keep=False)
        if read is not None:
            return read[0].view(batch, heads, time, head_dim)
    if not plain or not SHORTEST_READ <= time <= LONGEST_READ:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=kv_heads != heads
        )
    # The heads of a group are rows of one product: they share keys and values without a copy of them.
    q = q.reshape(pairs, group, time, head_dim)
    k, v = k.reshape(pairs, time, head_dim), v.reshape(pairs, time, head_dim)
    out = torch.empty_like(q)
    hidden = torch.full((BLOCK, BLOCK), float("-inf"), dtype=q.dtype).triu_(1)  # masks the block's own future
    for start in range(0, time, BLOCK):
        end = min(start + BLOCK, time)
        rows = q[:, :, start:end].reshape(pairs, group * (end - start), head_dim)  # (pairs, group * rows, head_dim)
        rows = rows if scale == 1 else rows * scale
        scores = torch.bmm(rows, k[:, :end].transpose(1, 2)).view(pairs * group, end - start, end)
        if kernels is not None:
            kernels.causal_weights(scores, start)
        else:
            scores[..., start:].add_(hidden[: end - start, : end - start])
            scores = torch.softmax(scores, dim=-1)
        weights = scores.view(pairs, -1, end)
        out[:, :, start:end] = torch.bmm(weights, v[:, :end]).view(pairs, group, end - start, head_dim)
    return out.view(batch, heads, time, head_dim)


def attend_in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    start: int = 0,
    mask: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attends causally, by blocks of queries, each to the keys that it may see: work grows with time * window.

    Args:
        q: Queries of the positions from `start` on, (batch, heads, time, head_dim).
        k: Keys of all positions, (batch, kv_heads, start + time, head_dim).
        v: Values, like the keys.
        scale: Factor on the scores.
        start: Positions before the first query.
        mask: (batch or 1, 1, time, start + time), True where attention is allowed besides being causal.
        window: Tokens that each query sees, itself included; None means all before it.
        softcap: Cap of the scaled scores, c * tanh(scores / c) (Gemma 2, Riviere et al. 2024).
        dropout: Share of the attention weights that is zeroed.

    Returns:
        (batch, heads, time, head_dim).
    """
    time = q.shape[2]
    outs: list[Tensor] = []
    for first in range(0, time, ROWS):
        last = min(first + ROWS, time)
        low, high = 0 if window is None else max(0, start + first - window + 1), start + last
        allowed = None
        if last - first > 1:
            distance = torch.arange(start + first, high, device=q.device)[:, None]
            distance = distance - torch.arange(low, high, device=q.device)  # (rows, keys)
            allowed = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        if mask is not None:
            piece = mask[:, :, first:last, low:high]
            allowed = piece if allowed is None else piece & allowed
        block, keys, values = q[:, :, first:last], k[:, :, low:high], v[:, :, low:high]
        if softcap is None:
            out = F.scaled_dot_product_attention(
                block, keys, values, attn_mask=allowed, scale=scale, dropout_p=dropout,
                enable_gqa=k.shape[1] != q.shape[1],
            )  # fmt: skip
        else:
            out = _capped_attention(block, keys, values, scale, softcap, allowed, dropout)
        outs.append(out)
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)


def _capped_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float, allowed: Tensor | None, dropout: float
) -> Tensor:
    """Attention with soft-capped scores, which no fused kernel knows; shapes as in `attend_in_blocks`."""
    batch, heads, time, head_dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    # The heads of a group are rows of one product: they share keys and values without a copy of them.
    rows = q.reshape(batch, kv_heads, -1, head_dim)
    scores = torch.tanh((rows @ k.transpose(2, 3)) * (scale / softcap)) * softcap
    scores = scores.view(batch, heads, time, keys)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    weights = drop(weights, dropout) if dropout else weights
    return (weights.view(batch, kv_heads, -1, keys) @ v).view(batch, heads, time, head_dim)


class Attention(nn.Module):
    """Causal self-attention with grouped heads, rotary positions and normalised queries and keys, as configured.

    Args:
        config: The network.
        layer: Which of its layers this is in.
    """

    query_norm: Norm | None
    key_norm: Norm | None

    def __init__(self, config: TransformerConfig, layer: int = 0) -> None:
        super().__init__()
        self.config = config
        self.scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.window, self.softcap = config.layer_window(layer), config.attention_softcap
        self.partly_rotated = config.rotary_dim not in (None, config.head_dim)
        self.norm_together = config.qk_norm_scope == "projection"
        narrow, wide = config.kv_heads * config.head_dim, config.heads * config.head_dim
        self.query = Linear(config.width, wide, bias=config.attention_bias)
        self.key = Linear(config.width, narrow, bias=config.attention_bias)
        self.value = Linear(config.width, narrow, bias=config.attention_bias)
        self.output = Linear(wide, config.width, bias=config.attention_output_bias)
        normed, together = config.qk_norm != "none", self.norm_together
        self.query_norm = Norm(config, wide if together else config.head_dim) if normed else None
        self.key_norm = Norm(config, narrow if together else config.head_dim) if normed else None

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor | Packing | None = None,
        cache: LayerCache | None = None,
        start: int = 0,
        layout: Ragged | None = None,
    ) -> Tensor:
        """Mixes positions.

        Args:
            x: (batch, time, width).
            rotation: Cosines and sines for these positions, or None where nothing is rotated.
            mask: (batch, 1, time, keys), True where attention is allowed; or (1, heads, time, keys), what is added to
                the scores; or the documents that attention stays within; None means causal.
            cache: Where earlier keys and values are, and these are put.
            start: Number of tokens already in the cache.
            layout: Where given, x is (1, total, width): these sequences end to end, each of which sees itself only.

        Returns:
            (batch, time, width), or (1, total, width).
        """
        packing = mask if isinstance(mask, Packing) else None
        if mask is packing and cache is None and layout is None and self._goes_by_blocks(x, rotation, packing):
            return cast(Tensor, self.output(self._mix_by_blocks(x, rotation, packing)))
        if (
            mask is None
            and cache is not None
            and start == 0
            and layout is None
            and self._reads_in_one_pass(x, rotation)
        ):
            return cast(Tensor, self.output(self._read_in_one_pass(x, rotation, cache)))
        q, k, v = self._project(x, rotation)
        if layout is not None:
            q, k, v = (layout.rows(part[0]) for part in (q, k, v))
        if packing is not None:
            mixed = packing.attend(q, k, v, lambda q, k, v: self._mix(q, k, v, None, None, 0))
        else:
            mixed = self._mix(q, k, v, cast(Tensor | None, mask), cache, start)
        mixed = mixed.reshape(*mixed.shape[:2], -1)
        y: Tensor = self.output(mixed if layout is None else layout.flat(mixed)[None])
        return y

    def _mix(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cache: LayerCache | None, start: int
    ) -> Tensor:
        """Attends by what suits the layer: (batch, time, heads, head_dim) three times -> the first one's shape."""
        time = q.shape[1]
        dropout = self.config.attention_dropout if self.training else 0.0
        windowed = self.window is not None and start + time > self.window
        if windowed or self.softcap is not None:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            if cache is not None:
                k, v = cache.update(k, v, start)
            window = self.window if windowed else None
            return attend_in_blocks(
                q, k, v, self.scale, start=start, mask=mask, window=window, softcap=self.softcap, dropout=dropout
            ).transpose(1, 2)
        if cache is None and mask is None:
            return causal_attention(q, k, v, self.scale, dropout)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if cache is not None:
            k, v = cache.update(k, v, start)
        causal = mask is None and time > 1 and start == 0
        if causal and k.shape[2] == time:
            return fused_causal(q, k, v, self.scale, dropout).transpose(1, 2)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale, dropout_p=dropout,
            enable_gqa=k.shape[1] != q.shape[1],
        ).transpose(1, 2)  # fmt: skip

    def _goes_by_blocks(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, packing: Packing | None) -> bool:
        """Whether plain causal attention in training goes by blocks, with heads placed by one pass of the core."""
        if not self.training or not torch.is_grad_enabled() or self.config.attention_dropout:
            return False
        if packing is not None:
            return self._placed_in_one_pass(x, rotation, packed=True)
        time = x.shape[1]
        short = time <= LONGEST_BLOCKED and (self.window is None or time <= self.window)
        return short and self._placed_in_one_pass(x, rotation)

    def _reads_in_one_pass(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> bool:
        """Whether the first tokens are read with heads placed by one pass of the core."""
        time = x.shape[1]
        if self.training or torch.is_grad_enabled() or not SHORTEST_READ <= time <= LONGEST_READ:
            return False
        return (self.window is None or time <= self.window) and self._placed_in_one_pass(x, rotation)

    def _placed_in_one_pass(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, packed: bool = False) -> bool:
        """Whether the core can place the heads of causal attention."""
        norm, config = self.query_norm, self.config
        if self.softcap is not None:
            return False
        if not packed and rotation is not None and rotation[0].dim() != 3:  # sequences at positions of their own
            return False
        scalings = (config.rope_scaling, config.local_rope_scaling)
        stretched = any(scaling is not None and scaling.attention_factor != 1 for scaling in scalings)
        if norm is not None and (norm.kind != "rms" or norm.weight is not None or self.norm_together or stretched):
            return False
        return row_kernels(x) is not None

    def _place_in_one_pass(
        self, joined: Tensor, rotation: tuple[Tensor, Tensor] | None, groups: Sequence[Group]
    ) -> list[Heads]:
        """Lays out what one product gave, (batch, time, all heads * head_dim); queries are scaled."""
        heads, kv_heads = self.config.heads, self.config.kv_heads
        eps = None if self.query_norm is None else self.query_norm.eps
        turns = None if rotation is None else (rotation[0].flatten(0, -2), rotation[1].flatten(0, -2))
        rows = joined.view(-1, heads + 2 * kv_heads, self.config.head_dim)
        return placed_heads(rows, heads, kv_heads, turns, eps, self.scale, groups)

    def _mix_by_blocks(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, packing: Packing | None = None
    ) -> Tensor:
        """Mixes positions, (batch, time, width), causally; returns what the output map reads."""
        batch, time, _ = x.shape
        groups = [Group(batch, time)] if packing is None else packing.groups
        placed = self._place_in_one_pass(side_by_side(x, (self.query, self.key, self.value)), rotation, groups)
        mixed = [self._mix_placed(q, k, v) for q, k, v in placed]
        return taken_heads(mixed, groups, batch * time).view(batch, time, -1)

    def _mix_placed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends with scaled queries: (batch, heads, time, head_dim), keys and values with at most as many heads."""
        time = q.shape[2]
        if self.window is not None and time > self.window:
            return attend_in_blocks(q, k, v, 1.0, window=self.window)
        return causal_blocks(q, k, v, 1.0) if time <= LONGEST_BLOCKED else fused_causal(q, k, v, 1.0)

    def _read_in_one_pass(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, cache: LayerCache) -> Tensor:
        """Reads the first tokens, (batch, time, width), into the cache; returns what the output map reads."""
        batch, time, _ = x.shape
        groups = [Group(batch, time)]
        joined = read_side_by_side(x, (self.query, self.key, self.value))
        [(q, k, v)] = self._place_in_one_pass(joined, rotation, groups)
        k, v = cache.update(k, v, 0)  # as the cache keeps them
        return taken_heads([fused_causal(q, k, v, 1.0)], groups, batch * time).view(batch, time, -1)

    def _project(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, (batch, time, heads or kv_heads, head_dim), normalised and rotated."""
        batch, time, _ = x.shape
        heads, kv_heads, head_dim = self.config.heads, self.config.kv_heads, self.config.head_dim
        if self.training:
            # One product for all three, and queries and keys placed together: fewer and larger operations.
            joined = side_by_side(x, (self.query, self.key, self.value)).view(batch, time, -1, head_dim)
            both, v = torch.split(joined, [heads + kv_heads, kv_heads], dim=2)
            if self.query_norm is None or (self.query_norm.weight is None and not self.norm_together):
                placed = self._place(both, self.query_norm, rotation)
                q, k = torch.split(placed, [heads, kv_heads], dim=2)
                return q, k, v
            q, k = torch.split(both, [heads, kv_heads], dim=2)
        else:
            q = self.query(x).view(batch, time, heads, head_dim)
            k = self.key(x).view(batch, time, kv_heads, head_dim)
            v = self.value(x).view(batch, time, kv_heads, head_dim)
        return self._place(q, self.query_norm, rotation), self._place(k, self.key_norm, rotation), v

    def _place(self, heads: Tensor, norm: Norm | None, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Normalises and rotates queries or keys, (batch, time, heads, head_dim), in the configured order."""
        if norm is not None and self.config.qk_norm == "before_rotary":
            heads = self._normalise(heads, norm)
        if rotation is not None:
            if self.partly_rotated:
                dim = 2 * rotation[0].shape[-1]
                heads = torch.cat((ops.rotary(heads[..., :dim], *rotation), heads[..., dim:]), dim=-1)
            else:
                heads = ops.rotary(heads, *rotation)
        if norm is not None and self.config.qk_norm == "after_rotary":
            heads = self._normalise(heads, norm)
        return heads

    def _normalise(self, heads: Tensor, norm: Norm) -> Tensor:
        """Normalises (batch, time, heads, head_dim), each head or all together."""
        if self.norm_together:
            return cast(Tensor, norm(heads.flatten(2))).view(heads.shape)
        return cast(Tensor, norm(heads))

"""From one product for all heads of all tokens to heads side by side, as attention reads them, and back: by the core.

One pass normalises, rotates and moves; documents that share a row of tokens (`models.packing`) are laid out as small
batches at the same time. What is not here: the attention between both ways (`models.causal_blocks`), and the same in
PyTorch's own operations (`models.attention`), for where there is no core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zhixing.models import ops
from zhixing.models.row_kernels import row_kernels

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, (documents, heads, length, head_dim), keys and values, (documents, kv_heads, length, head_dim)."""


@dataclass(frozen=True)
class Group:
    """Documents that are computed side by side.

    Attributes:
        documents: How many.
        length: Tokens of the longest.
        tokens: Which token is where, (documents, length), -1 where there is none; None: all tokens in their order.
    """

    documents: int
    length: int
    tokens: Tensor | None = None


class _PlacedHeads(torch.autograd.Function):
    """Queries, keys and values of each group; keeps queries and keys. Every token is in one of the groups."""

    @staticmethod
    def forward(
        ctx: Any,
        joined: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        groups: Sequence[Group],
        heads: int,
        kv_heads: int,
        eps: float | None,
        factor: float,
    ) -> tuple[Tensor, ...]:
        kernels = row_kernels(joined)
        assert kernels is not None
        rotation = None if cos is None or sin is None else (cos, sin)
        joined, scales = joined.contiguous(), joined.new_empty(len(joined), heads + kv_heads)
        placed: list[Tensor] = []
        for group in groups:
            placed += kernels.place_heads(joined, group, heads, kv_heads, rotation, eps, factor, scales)
        ctx.save_for_backward(scales, cos, sin, *(part for at, part in enumerate(placed) if at % 3 < 2))
        ctx.kernels, ctx.groups, ctx.shape = kernels, groups, joined.shape
        ctx.normed, ctx.factor = eps is not None, factor
        return tuple(placed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scales, cos, sin, *placed = ctx.saved_tensors
        rotation = None if cos is None else (cos, sin)
        joined = scales.new_empty(ctx.shape)
        for index, group in enumerate(ctx.groups):
            dq, dk, dv = (grad.contiguous() for grad in grads[3 * index : 3 * index + 3])
            q, k = placed[2 * index : 2 * index + 2]
            ctx.kernels.place_heads_gradient(
                (dq, dk, dv), (q, k), group, scales, rotation, ctx.normed, ctx.factor, joined
            )
        return joined, None, None, None, None, None, None, None


class _TakenHeads(torch.autograd.Function):
    """What was computed for each group, back to the tokens, (tokens, heads, head_dim)."""

    @staticmethod
    def forward(ctx: Any, groups: Sequence[Group], tokens: int, *parts: Tensor) -> Tensor:
        kernels = row_kernels(parts[0])
        assert kernels is not None
        ctx.kernels, ctx.groups = kernels, groups
        taken = parts[0].new_empty(tokens, parts[0].shape[1], parts[0].shape[3])
        for group, part in zip(groups, parts, strict=True):
            kernels.take_heads(part.contiguous(), group, taken)
        return taken

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()
        return None, None, *(ctx.kernels.take_heads_gradient(grad, group) for group in ctx.groups)


def placed_heads(
    joined: Tensor,
    heads: int,
    kv_heads: int,
    rotation: tuple[Tensor, Tensor] | None,
    eps: float | None,
    factor: float,
    groups: Sequence[Group],
) -> list[Heads]:
    """Turns one product for all heads into what `causal_blocks` reads.

    Args:
        joined: (tokens, heads + 2 * kv_heads, head_dim): queries, keys, values.
        heads: Number of heads of the queries.
        kv_heads: Number of heads of the keys and of the values.
        rotation: Cosines and sines, (tokens, dim / 2) each where the groups say which token is where, else (length,
            dim / 2); their squares sum to one where there is an eps.
        eps: Of the root mean square that queries and keys are divided by, or None where they are not.
        factor: On the queries, at last.
        groups: Where the tokens go; each token to one place.

    Returns:
        For each group its heads; zeros where there is no token.
    """
    cos, sin = (None, None) if rotation is None else (part.contiguous() for part in rotation)
    placed = _PlacedHeads.apply(joined, cos, sin, groups, heads, kv_heads, eps, factor)  # type: ignore[no-untyped-call]
    parts = cast(tuple[Tensor, ...], placed)
    return [(parts[at], parts[at + 1], parts[at + 2]) for at in range(0, len(parts), 3)]


def taken_heads(parts: Sequence[Tensor], groups: Sequence[Group], tokens: int) -> Tensor:
    """Brings what was computed for each group, (documents, heads, length, head_dim), back to the tokens.

    What stands where there is no token is left out, and has no gradient.

    Returns:
        (tokens, heads, head_dim).
    """
    return ops.apply(_TakenHeads, groups, tokens, *parts)

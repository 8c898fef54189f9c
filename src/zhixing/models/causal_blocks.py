"""Causal attention in training on a CPU: by blocks of queries, and from one product for all heads to what those read.

What is not here: the module with its projections, and attention of other kinds (`models.attention`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zhixing.models import ops
from zhixing.models.row_kernels import row_kernels

BLOCK = 64
"""Rows of queries that are handled at a time."""

LONGEST_BLOCKED = 512
"""Beyond this many tokens the stored attention weights cost more than they save."""


class _CausalBlocks(torch.autograd.Function):
    """Causal attention by blocks of queries, each against the keys up to its end: about 5/8 of the full work at 256.

    q, k, v: (n, time, head_dim) with n = batch * heads; the weights are kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        time, kernels = q.shape[1], row_kernels(q)
        q = q * scale if scale != 1 else q
        hidden = torch.full((BLOCK, BLOCK), float("-inf"), dtype=q.dtype).triu_(1)  # masks the block's own future
        kept: list[Tensor] = []
        outs: list[Tensor] = []
        for start in range(0, time, BLOCK):
            end = min(start + BLOCK, time)
            scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))  # (n, rows, end)
            if kernels is not None:
                kernels.causal_weights(scores, start)
                weights = scores
            else:
                scores[:, :, start:].add_(hidden[: end - start, : end - start])
                weights = torch.softmax(scores, dim=-1)
            outs.append(torch.bmm(weights, v[:, :end]))
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.scale = scale
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        grad, kernels = grad.contiguous(), row_kernels(grad)
        grad_k = grad_v = torch.empty(0)
        grads_q: list[Tensor] = []
        # The last block attends to all keys, so its products are the sums that the earlier blocks add to.
        for index in reversed(range(len(kept))):
            weights = kept[index]
            start, end = index * BLOCK, weights.shape[2]
            piece = grad[:, start:end]
            grad_weights = torch.bmm(piece, v[:, :end].transpose(1, 2))  # (n, rows, end)
            if kernels is not None:
                kernels.causal_weights_gradient(grad_weights, weights, start)
                grad_scores = grad_weights
            else:
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, q.dtype)
            grads_q.append(torch.bmm(grad_scores, k[:, :end]))
            part_v = torch.bmm(weights.transpose(1, 2), piece)
            part_k = torch.bmm(grad_scores.transpose(1, 2), q[:, start:end])
            if index == len(kept) - 1:
                grad_v, grad_k = part_v, part_k
            else:
                grad_v[:, :end].add_(part_v)
                grad_k[:, :end].add_(part_k)
        grad_q = grads_q[0] if len(grads_q) == 1 else torch.cat(grads_q[::-1], dim=1)
        return grad_q.mul_(ctx.scale) if ctx.scale != 1 else grad_q, grad_k, grad_v, None


def causal_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attends from every position to itself and what is before it: (n, time, head_dim) three times -> the same."""
    return ops.apply(_CausalBlocks, q, k, v, scale)


class _PlacedHeads(torch.autograd.Function):
    """Queries, keys and values from one product, normalised, rotated and laid out by head; keeps queries and keys."""

    @staticmethod
    def forward(
        ctx: Any,
        joined: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        heads: int,
        kv_heads: int,
        eps: float | None,
        factor: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernels = row_kernels(joined)
        assert kernels is not None
        rotation = None if cos is None or sin is None else (cos, sin)
        q, k, v, scales = kernels.place_heads(joined.contiguous(), heads, kv_heads, rotation, eps, factor)
        ctx.save_for_backward(q, k, scales, cos, sin)
        ctx.kernels, ctx.normed, ctx.factor = kernels, eps is not None, factor
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        q, k, scales, cos, sin = ctx.saved_tensors
        dq, dk, dv = (grad.contiguous() for grad in grads)
        rotation = None if cos is None else (cos, sin)
        joined = ctx.kernels.place_heads_gradient((dq, dk, dv), (q, k), scales, rotation, ctx.normed, ctx.factor)
        return joined, None, None, None, None, None, None


def placed_heads(
    joined: Tensor, heads: int, kv_heads: int, rotation: tuple[Tensor, Tensor] | None, eps: float | None, factor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Turns one product for all heads into what `causal_blocks` reads, in one pass of the core.

    Args:
        joined: (batch, time, heads + 2 * kv_heads, head_dim): queries, keys, values.
        heads: Number of heads of the queries.
        kv_heads: Number of heads of the keys and of the values.
        rotation: Cosines and sines of the positions, (time, 1, dim / 2) each; their squares sum to one where there is
            an eps.
        eps: Of the root mean square that queries and keys are divided by, or None where they are not.
        factor: On the queries, at last.

    Returns:
        Queries, (batch * heads, time, head_dim), keys and values, (batch * kv_heads, time, head_dim).
    """
    cos, sin = (None, None) if rotation is None else (part.squeeze(-2).contiguous() for part in rotation)
    placed = _PlacedHeads.apply(joined, cos, sin, heads, kv_heads, eps, factor)  # type: ignore[no-untyped-call]
    return cast(tuple[Tensor, Tensor, Tensor], placed)

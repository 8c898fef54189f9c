"""Causal attention in training on a CPU, by blocks of queries.

What is not here: the module with its projections, attention of other kinds (`models.attention`), and the way from one
product for all heads to what this reads (`models.head_places`).
"""

from __future__ import annotations

from typing import Any

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

    q: (pairs, group, time, head_dim), k, v: (pairs, time, head_dim), with pairs = batch * kv_heads. The heads of one
    group are rows of one product, which share keys and values without a copy. The weights are kept for the gradient.
    The core does the same, both ways, where it has the heads' size and equal parts for the threads.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        pairs, group, time, head_dim = q.shape
        kernels = row_kernels(q)
        q = q * scale if scale != 1 else q
        ctx.scale, ctx.kernels = scale, kernels
        whole = None if kernels is None else kernels.causal(q, k, v, keep=True)
        ctx.whole = whole is not None
        if whole is not None:
            ctx.save_for_backward(q, k, v, whole[1])
            return whole[0]
        hidden = torch.full((BLOCK, BLOCK), float("-inf"), dtype=q.dtype).triu_(1)  # masks the block's own future
        kept: list[Tensor] = []
        outs: list[Tensor] = []
        for start in range(0, time, BLOCK):
            end = min(start + BLOCK, time)
            scores = torch.bmm(_rows(q, start, end), k[:, :end].transpose(1, 2))  # (pairs, group * rows, end)
            by_head = scores.view(pairs * group, end - start, end)
            if kernels is not None:
                kernels.causal_weights(by_head, start)
                weights = scores
            else:
                by_head[:, :, start:].add_(hidden[: end - start, : end - start])
                weights = torch.softmax(scores, dim=-1)
            outs.append(torch.bmm(weights, v[:, :end]).view(pairs, group, end - start, head_dim))
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        pairs, group, _, head_dim = q.shape
        grad, kernels = grad.contiguous(), ctx.kernels
        if ctx.whole:
            grad_q, grad_k, grad_v = kernels.causal_gradient(grad, q, k, v, kept[0])
            return grad_q.mul_(ctx.scale) if ctx.scale != 1 else grad_q, grad_k, grad_v, None
        grad_k = grad_v = torch.empty(0)
        grads_q: list[Tensor] = []
        # The last block attends to all keys, so its products are the sums that the earlier blocks add to.
        for index in reversed(range(len(kept))):
            weights = kept[index]  # (pairs, group * rows, end)
            start, end = index * BLOCK, weights.shape[2]
            piece = _rows(grad, start, end)
            grad_weights = torch.bmm(piece, v[:, :end].transpose(1, 2))
            if kernels is not None:
                by_head = (pairs * group, end - start, end)
                kernels.causal_weights_gradient(grad_weights.view(by_head), weights.view(by_head), start)
                grad_scores = grad_weights
            else:
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, q.dtype)
            grads_q.append(torch.bmm(grad_scores, k[:, :end]).view(pairs, group, end - start, head_dim))
            part_v = torch.bmm(weights.transpose(1, 2), piece)
            part_k = torch.bmm(grad_scores.transpose(1, 2), _rows(q, start, end))
            if index == len(kept) - 1:
                grad_v, grad_k = part_v, part_k
            else:
                grad_v[:, :end].add_(part_v)
                grad_k[:, :end].add_(part_k)
        grad_q = grads_q[0] if len(grads_q) == 1 else torch.cat(grads_q[::-1], dim=2)
        return grad_q.mul_(ctx.scale) if ctx.scale != 1 else grad_q, grad_k, grad_v, None


def _rows(heads: Tensor, start: int, end: int) -> Tensor:
    """Takes a block of all heads of a group: (pairs, group, time, head_dim) -> (pairs, group * rows, head_dim)."""
    pairs, group, _, head_dim = heads.shape
    return heads[:, :, start:end].reshape(pairs, group * (end - start), head_dim)


def causal_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attends from every position to itself and what is before it.

    Args:
        q: Queries, (batch, heads, time, head_dim), contiguous.
        k: Keys, (batch, kv_heads, time, head_dim), contiguous.
        v: Values, like the keys.
        scale: Factor on the scores.

    Returns:
        (batch, heads, time, head_dim).
    """
    batch, heads, time, head_dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.view(batch * kv_heads, heads // kv_heads, time, head_dim)
    k, v = k.view(batch * kv_heads, time, head_dim), v.view(batch * kv_heads, time, head_dim)
    return ops.apply(_CausalBlocks, grouped, k, v, scale).view(batch, heads, time, head_dim)

"""The product of an adapted map, with a hand-written gradient that computes nothing for the frozen part.

y = x W^T + sum_i s_i (x A_i^T) B_i^T (Hu et al. 2021, equation 3), for several maps of one input at once. Backward:

    z = x A^T,   dz_i = s_i dy B_i,   dB_i = s_i dy^T z_i,   dA = dz^T x,   dx = dy W + dz A

so that W costs one product each way, and no gradient of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zhixing.models import ops
from zhixing.models.row_kernels import row_kernels

MOST_RANKS = 64
"""Columns of a narrow matrix up to which the core is as fast as the libraries, which pack the wide one only once."""


class Term(NamedTuple):
    """One low-rank addition to one of the maps.

    Attributes:
        down: A, (rank, in).
        up: B, (out of its map, rank).
        scale: Factor on the product.
        start: The first column of its map in the joined output.
    """

    down: Tensor
    up: Tensor
    scale: float
    start: int


class _Adapted(torch.autograd.Function):
    """The formula above. Keeps the input and z; the frozen weight is kept by reference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, places: tuple[tuple[float, int], ...], *factors: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()  # (tokens, in)
        downs, ups = factors[: len(places)], factors[len(places) :]
        ranks = [len(down) for down in downs]
        down = downs[0] if len(downs) == 1 else torch.cat(downs)  # (sum of ranks, in)
        z = rows.new_empty(len(rows), len(down))  # (tokens, sum of ranks)
        low_rank_sums(rows, 1.0, into=(down.t(), z))
        y = ops.product(rows, weight)  # (tokens, out)
        for (scale, start), up, part in zip(places, ups, torch.split(z, ranks, dim=1), strict=True):
            y[:, start : start + len(up)].addmm_(part, up.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, down, z, *ups)
        ctx.places, ctx.ranks, ctx.shape = places, ranks, x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, z, *ups = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1]).contiguous()  # (tokens, out)
        grad_z, grad_down, grad_ups = torch.empty_like(z), torch.empty_like(down), [torch.empty_like(up) for up in ups]
        parts = zip(torch.split(z, ctx.ranks, dim=1), torch.split(grad_z, ctx.ranks, dim=1), strict=True)
        for (scale, start), up, grad_up, (part, grad_part) in zip(ctx.places, ups, grad_ups, parts, strict=True):
            piece = grad_rows[:, start : start + len(up)]
            low_rank_sums(piece, scale, into=(up, grad_part), back=(part, grad_up))
        low_rank_sums(rows, 1.0, back=(grad_z, grad_down.t()))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ops.product(grad_rows, weight.t())
            grad_x.addmm_(grad_z, down)
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, *torch.split(grad_down, ctx.ranks), *grad_ups


def low_rank_sums(
    x: Tensor, factor: float, into: tuple[Tensor, Tensor] | None = None, back: tuple[Tensor, Tensor] | None = None
) -> None:
    """Writes factor * x p and factor * x^T q; `into` is p and `back` is q, each with its place: see `RowKernels`."""
    rank = (into or back or (x,))[0].shape[1]
    kernels = row_kernels(x) if rank <= MOST_RANKS else None
    if kernels is not None:
        kernels.low_rank_sums(x, factor, into, back)
        return
    if into is not None:
        torch.mm(x, into[0] * factor, out=into[1])
    if back is not None:
        back[1].copy_(torch.mm(x.t(), back[0]).mul_(factor))


def adapted_linear(x: Tensor, weights: Sequence[Tensor], terms: Sequence[Term]) -> Tensor:
    """Computes several maps of one input with their low-rank additions, side by side.

    Args:
        x: (..., in).
        weights: The frozen maps, (out_i, in) each.
        terms: The additions; at least one.

    Returns:
        (..., sum of outs).
    """
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    plain = plain and all(part.dtype == x.dtype for term in terms for part in (term.down, term.up))
    frozen = not any(weight.requires_grad for weight in weights)
    if plain and frozen and not torch.compiler.is_compiling():
        places = tuple((term.scale, term.start) for term in terms)
        downs, ups = [term.down for term in terms], [term.up for term in terms]
        return ops.apply(_Adapted, x, ops.joined_rows(weights), places, *downs, *ups)
    y = ops.joined_linear(x, weights)
    added = torch.zeros_like(y)
    for term in terms:
        part = (x @ term.down.to(x.dtype).t()) @ term.up.to(x.dtype).t() * term.scale
        added = added + torch.nn.functional.pad(part, (term.start, y.shape[-1] - term.start - len(term.up)))
    return y + added

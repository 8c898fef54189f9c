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
        rows = x.reshape(-1, x.shape[-1])  # (tokens, in)
        downs, ups = factors[: len(places)], factors[len(places) :]
        ranks = [len(down) for down in downs]
        down = downs[0] if len(downs) == 1 else torch.cat(downs)  # (sum of ranks, in)
        z = ops.product(rows, down)  # (tokens, sum of ranks)
        y = ops.product(rows, weight)  # (tokens, out)
        for (scale, start), up, part in zip(places, ups, torch.split(z, ranks, dim=1), strict=True):
            y[:, start : start + len(up)].addmm_(part, up.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, down, z, *ups)
        ctx.places, ctx.ranks, ctx.shape = places, ranks, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, z, *ups = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])  # (tokens, out)
        grad_z = torch.empty_like(z)
        grad_ups: list[Tensor] = []
        first = 0
        for (scale, start), up, rank in zip(ctx.places, ups, ctx.ranks, strict=True):
            piece = grad_rows[:, start : start + len(up)]
            torch.mm(piece, up * scale, out=grad_z[:, first : first + rank])
            grad_ups.append(torch.mm(piece.t(), z[:, first : first + rank]).mul_(scale))
            first += rank
        grad_downs = torch.split(torch.mm(grad_z.t(), rows), ctx.ranks)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ops.product(grad_rows, weight.t())
            grad_x.addmm_(grad_z, down)
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, *grad_downs, *grad_ups


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

"""Dropout (Srivastava et al. 2014) whose random numbers are cheap on a CPU.

PyTorch draws one number for each value, on one thread, which takes a tenth of a training step of a small network. The
C++ core, where it is there, makes each from a seed and its place, again for the gradient instead of keeping a mask.
Without it one draw of 64 bits serves four values. Either way, what stays is scaled by the probability that was really
used, so that the expectation is exact. Elsewhere than on a CPU, PyTorch's own.

Dropout of attention weights inside fused kernels is not here: see `attention.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zhixing.models.ops import apply
from zhixing.models.row_kernels import RowKernels, row_kernels

LEVELS = 1 << 16
"""How finely the share of dropped values is set without the core: a draw of 16 bits is compared with it."""
CORE_LEVELS = 1 << 31
"""The same with the core."""
MOST_NUMBERS = 1 << 32
"""Larger tensors than the core numbers the places of go without it."""


def _dropped(x: Tensor, levels: int) -> Tensor:
    """Draws which values of `x` (any shape) are dropped, each with probability levels / 65536: a boolean tensor."""
    count = x.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return (words.view(torch.int16)[:count] < levels - LEVELS // 2).view(x.shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        dropped = _dropped(x, levels)
        ctx.scale = LEVELS / (LEVELS - levels)
        ctx.save_for_backward(dropped)
        scaled: Tensor = x * ctx.scale
        return scaled.masked_fill_(dropped, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (dropped,) = ctx.saved_tensors
        return (grads[0] * ctx.scale).masked_fill_(dropped, 0.0), None


class _CoreDropout(torch.autograd.Function):
    """Keeps the seed alone: the gradient drops by it what the values did."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, kernels: RowKernels) -> Tensor:
        # From PyTorch's generator, whose state is saved with a run.
        ctx.seed = int(torch.empty((), dtype=torch.int64).random_())
        ctx.levels, ctx.kernels = round(p * CORE_LEVELS), kernels
        return kernels.drop(x.contiguous(), ctx.seed, ctx.levels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.kernels.drop(grad.contiguous(), ctx.seed, ctx.levels), None, None


def dropout(x: Tensor, p: float) -> Tensor:
    """Drops values with probability `p` and scales the others by 1 / (1 - p): x of any shape, in training."""
    levels = round(p * LEVELS)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < levels < LEVELS:
        return F.dropout(x, p)
    kernels = row_kernels(x) if x.numel() <= MOST_NUMBERS else None
    return apply(_Dropout, x, levels) if kernels is None else apply(_CoreDropout, x, p, kernels)


class Dropout(nn.Dropout):
    """Drops values with probability `p` while training; otherwise, and with p = 0, passes them on."""

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape -> the same shape."""
        return dropout(x, self.p) if self.training and self.p else x

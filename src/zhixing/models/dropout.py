"""Dropout (Srivastava et al. 2014) whose random numbers are cheap on a CPU.

PyTorch draws one number for each value, on one thread, which takes a tenth of a training step of a small network. Here
one draw of 64 bits serves four values: the probability is what was asked to within 1/65536, and what stays is scaled by
the probability that was really used, so that the expectation is exact. Elsewhere than on a CPU, PyTorch's own.

Dropout of attention weights inside fused kernels is not here: see `attention.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.models.ops import apply

LEVELS = 1 << 16
"""How finely the share of dropped values is set: a draw of 16 bits is compared with it."""


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


def dropout(x: Tensor, p: float) -> Tensor:
    """Drops values with probability `p` and scales the others by 1 / (1 - p): x of any shape, in training."""
    levels = round(p * LEVELS)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < levels < LEVELS:
        return F.dropout(x, p)
    return apply(_Dropout, x, levels)


class Dropout(nn.Dropout):
    """Drops values with probability `p` while training; otherwise, and with p = 0, passes them on."""

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape -> the same shape."""
        return dropout(x, self.p) if self.training and self.p else x

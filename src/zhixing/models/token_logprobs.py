"""The log-probability of each wanted token, with gradient, without ever holding the logits of all of them at once.

`loss.cross_entropy_sum` adds the losses up; whoever weighs tokens or sequences against one another (preferences,
policies) needs them one by one. The logits are computed a second time for the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zhixing.models import ops
from zhixing.models.loss import IGNORED, rows_at_once, soft_cap


class _Logprobs(torch.autograd.Function):
    """Log-probabilities of the targets, and the entropies, which carry no gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        entropies = torch.empty_like(logprobs)
        rows = rows_at_once(head)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logs = (soft_cap(ops.product(hidden[part], head).float(), cap) / temperature).log_softmax(-1)
            logprobs[part] = logs.gather(1, targets[part, None])[:, 0]
            entropies[part] = -(logs.exp() * logs).sum(-1)
        ctx.save_for_backward(hidden, head, targets)
        ctx.cap, ctx.temperature = cap, temperature
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets = ctx.saved_tensors
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_head = torch.zeros_like(head) if needs_head else None
        rows = rows_at_once(head)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            capped = soft_cap(ops.product(hidden[part], head).float(), ctx.cap)
            # d log p_y / d logit_v = [v = y] - p_v
            slope = (capped / ctx.temperature).softmax(-1).mul_(-grad[part, None])
            slope.scatter_add_(1, targets[part, None], grad[part, None])
            slope /= ctx.temperature
            if ctx.cap is not None:
                slope *= 1 - (capped / ctx.cap).square()  # d tanh = 1 - tanh^2
            slope = slope.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = ops.product(slope, head.t())
            if grad_head is not None:
                grad_head += ops.product(slope.t(), hidden[part].t())
        return grad_hidden, grad_head, None, None, None


def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None = None, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Returns the log-probability of each target and the entropy of each prediction, 0 where IGNORED.

    Args:
        hidden: Final hidden states, (batch, time, width).
        head: Output matrix, (vocab, width).
        targets: Next tokens, (batch, time).
        cap: Soft cap of the logits, or None.
        temperature: What the logits are divided by.

    Returns:
        In nats, (batch, time) each; the entropies without gradient.
    """
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    kept = (wanted != IGNORED).nonzero()[:, 0]
    found = ops.apply(_Logprobs, flat.index_select(0, kept), head, wanted.index_select(0, kept), cap, temperature)
    logprobs, entropies = (
        torch.zeros(wanted.shape, dtype=torch.float32, device=hidden.device).index_copy(0, kept, values)
        for values in found
    )
    return logprobs.view(targets.shape), entropies.view(targets.shape)

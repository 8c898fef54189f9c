"""Cross-entropy over a vocabulary, without ever holding the logits of all tokens at once.

For a vocabulary of 50,000 the logits of a batch are larger than the model. Here they are made, used and dropped a few
hundred tokens at a time, and the gradient is computed on the way (the idea of Wijmans et al. 2024, "Cut Your Losses",
and of Liger Kernel, in plain tensor operations).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zhixing.models import ops

IGNORED = -100
"""The target of a position that carries no loss."""

LOGITS_AT_ONCE = 1 << 22
"""Logits that may be in memory together: 16 MiB in float32."""


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """Computes cap * tanh(logits / cap), or returns the logits when there is no cap."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


class _Loss(torch.autograd.Function):
    """Sum of cross-entropies over the target tokens; keeps only the gradients of hidden states and head."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        cap: float | None,
        smoothing: float,
    ) -> Tensor:
        rows = max(1, LOGITS_AT_ONCE // head.shape[0])
        needs = hidden.requires_grad or head.requires_grad
        grad_hidden = torch.zeros_like(hidden) if needs else None  # (tokens, width)
        grad_head = torch.zeros_like(head) if needs else None  # (vocab, width)
        grad_bias = torch.zeros_like(bias) if needs and bias is not None else None  # (vocab)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows], targets[start : start + rows]
            logits = ops.product(part, head).float()  # (rows, vocab)
            if bias is not None:
                logits = logits.add_(bias)
            if cap is not None:
                logits = logits.div_(cap).tanh_()
                squashed = logits if not needs else logits.clone()
                logits = logits.mul_(cap)
            kept = wanted != IGNORED
            safe = wanted.clamp_min(0)
            normaliser = torch.logsumexp(logits, dim=-1)  # (rows)
            losses = normaliser - (1 - smoothing) * logits.gather(1, safe[:, None])[:, 0]
            if smoothing:
                losses = losses - smoothing * logits.mean(1)
            total += (losses * kept).sum()
            if grad_hidden is not None and grad_head is not None:
                grad = logits.sub_(normaliser[:, None]).exp_()  # softmax
                if smoothing:
                    grad -= smoothing / grad.shape[1]
                grad.scatter_add_(1, safe[:, None], torch.full_like(grad[:, :1], smoothing - 1.0))
                grad *= kept[:, None]
                if cap is not None:
                    grad.addcmul_(grad, squashed.square_(), value=-1)  # d tanh = 1 - tanh^2
                grad = grad.to(part.dtype)
                grad_hidden[start : start + rows] = ops.product(grad, head.t())
                grad_head += ops.product(grad.t(), part.t())
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
        ctx.save_for_backward(grad_hidden, grad_head, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head, grad_bias = ctx.saved_tensors
        bias = None if grad_bias is None else grad_bias * grad
        return grad_hidden * grad, grad_head * grad, bias, None, None, None


def cross_entropy_sum(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    cap: float | None = None,
    *,
    bias: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Returns the summed cross-entropy, in nats, of the targets that are not IGNORED.

    Args:
        hidden: Final hidden states, (batch, time, width).
        head: Output matrix, (vocab, width).
        targets: Next tokens, (batch, time).
        cap: Soft cap of the logits, or None.
        bias: Added to the logits, (vocab).
        smoothing: Share of every target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    return ops.apply(_Loss, flat, head, bias, targets.reshape(-1), cap, smoothing)


def token_losses(
    hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """Returns the cross-entropy of each position, (batch, time), zero where IGNORED, without gradient."""
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    rows = max(1, LOGITS_AT_ONCE // head.shape[0])
    pieces = []
    with torch.no_grad():
        for start in range(0, len(flat), rows):
            logits = ops.product(flat[start : start + rows], head).float()
            logits = soft_cap(logits if bias is None else logits + bias, cap)
            pieces.append(F.cross_entropy(logits, wanted[start : start + rows], ignore_index=IGNORED, reduction="none"))
    return torch.cat(pieces).view(targets.shape)

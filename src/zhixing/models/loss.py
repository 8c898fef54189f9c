"""Cross-entropy over a vocabulary, without ever holding the logits of all tokens at once.

For a vocabulary of 50,000 the logits of a batch are larger than the model. Here they are made, used and dropped a few
hundred tokens at a time, and the gradient is computed on the way (the idea of Wijmans et al. 2024, "Cut Your Losses",
and of Liger Kernel, in plain tensor operations).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zhixing.models import ops
from zhixing.models.row_kernels import row_kernels

IGNORED = -100
"""The target of a position that carries no loss."""

LOGITS_AT_ONCE = 1 << 22
"""Logits that may be in memory together: 16 MiB in float32."""


PACKED_LOGITS_AT_ONCE = 1 << 24
"""The same for a head whose weights are packed: each product with it expands them."""


def rows_at_once(head: Tensor) -> int:
    """Returns the rows of logits that may be in memory together."""
    plain = type(head) in (Tensor, nn.Parameter)
    return max(1, (LOGITS_AT_ONCE if plain else PACKED_LOGITS_AT_ONCE) // head.shape[0])


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """Computes cap * tanh(logits / cap), or returns the logits when there is no cap."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _normalised(logits: Tensor, shares: bool) -> tuple[Tensor, Tensor]:
    """Returns log(sum(e^x)), (rows), of logits x, (rows, vocab), and where wanted their softmax, in their memory."""
    kernels = row_kernels(logits) if logits.is_contiguous() else None
    if kernels is None or not shares:
        normaliser = torch.logsumexp(logits, dim=-1)
        return normaliser, logits.sub_(normaliser[:, None]).exp_() if shares else logits
    highest = logits.amax(dim=-1)
    kernels.causal_weights(logits[:, None], logits.shape[1] - 1)  # every row sees all of its keys
    return highest - logits.amax(dim=-1).log(), logits  # the highest share is no smaller than 1 / vocab


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
        learning: bool,
    ) -> Tensor:
        rows = rows_at_once(head)
        needs_hidden, needs_head, needs_bias = (needed and learning for needed in ctx.needs_input_grad[:3])
        needs = needs_hidden or needs_head or needs_bias
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None  # (tokens, width)
        grad_head = torch.zeros_like(head) if needs_head else None  # (vocab, width)
        grad_bias = torch.zeros_like(bias) if needs_bias and bias is not None else None  # (vocab)
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
            reached = (1 - smoothing) * logits.gather(1, safe[:, None])[:, 0]
            if smoothing:
                reached = reached + smoothing * logits.mean(1)
            normaliser, shares = _normalised(logits, needs)
            total += ((normaliser - reached) * kept).sum()
            if needs:
                grad = shares
                if smoothing:
                    grad -= smoothing / grad.shape[1]
                grad.scatter_add_(1, safe[:, None], torch.full_like(grad[:, :1], smoothing - 1.0))
                grad *= kept[:, None]
                if cap is not None:
                    grad.addcmul_(grad, squashed.square_(), value=-1)  # d tanh = 1 - tanh^2
                grad = grad.to(part.dtype)
                if grad_hidden is not None:
                    grad_hidden[start : start + rows] = ops.product(grad, head.t())
                if grad_head is not None:
                    grad_head += ops.product(grad.t(), part.t())
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
        ctx.save_for_backward(grad_hidden, grad_head, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if saved is None else saved * grad for saved in ctx.saved_tensors]
        return *scaled, None, None, None, None


def cross_entropy_sum(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    cap: float | None = None,
    *,
    bias: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Returns the summed cross-entropy, in nats, of the targets that are not IGNORED. Others cost nothing.

    Args:
        hidden: Final hidden states, (batch, time, width).
        head: Output matrix, (vocab, width).
        targets: Next tokens, (batch, time).
        cap: Soft cap of the logits, or None.
        bias: Added to the logits, (vocab).
        smoothing: Share of every target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    """
    rows, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    if not torch.compiler.is_compiling():  # the number of targets would be a new shape each time
        kept = (wanted != IGNORED).nonzero()[:, 0]
        if len(kept) < len(wanted):
            rows, wanted = rows.index_select(0, kept), wanted.index_select(0, kept)
    return ops.apply(_Loss, rows, head, bias, wanted, cap, smoothing, torch.is_grad_enabled())


def token_losses(
    hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """Returns the cross-entropy of each position, (batch, time), zero where IGNORED, without gradient."""
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    rows = rows_at_once(head)
    pieces = []
    with torch.no_grad():
        for start in range(0, len(flat), rows):
            logits = ops.product(flat[start : start + rows], head).float()
            logits = soft_cap(logits if bias is None else logits + bias, cap)
            pieces.append(F.cross_entropy(logits, wanted[start : start + rows], ignore_index=IGNORED, reduction="none"))
    return torch.cat(pieces).view(targets.shape)

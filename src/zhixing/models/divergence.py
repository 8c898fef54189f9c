"""The divergence between two models' predictions, with the gradient of one, without holding all logits of either."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zhixing.models import ops
from zhixing.models.loss import rows_at_once, soft_cap


class _Divergence(torch.autograd.Function):
    """Summed divergence; keeps only the gradients of the student's hidden states and head."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        cap: float | None,
        teacher_hidden: Tensor,
        teacher_head: Tensor,
        teacher_cap: float | None,
        temperature: float,
        reverse: bool,
    ) -> Tensor:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_head = torch.zeros_like(head) if needs_head else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, min(rows_at_once(head), rows_at_once(teacher_head)) // 2)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            capped = soft_cap(ops.product(hidden[part], head).float(), cap)  # (rows, vocab)
            ours = (capped / temperature).log_softmax(-1)
            taught = soft_cap(ops.product(teacher_hidden[part], teacher_head).float(), teacher_cap)
            theirs = (taught / temperature).log_softmax(-1)
            if reverse:
                gap = ours - theirs
                each = (ours.exp() * gap).sum(-1)  # (rows)
                slope = ours.exp() * (gap - each[:, None])  # d KL(q|p) / d logit = q (log q/p - KL)
            else:
                each = (theirs.exp() * (theirs - ours)).sum(-1)
                slope = ours.exp() - theirs.exp()  # d KL(p|q) / d logit = q - p
            total += each.sum()
            if not (needs_hidden or needs_head):
                continue
            slope /= temperature
            if cap is not None:
                slope *= 1 - (capped / cap).square()  # d tanh = 1 - tanh^2
            slope = slope.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = ops.product(slope, head.t())
            if grad_head is not None:
                grad_head += ops.product(slope.t(), hidden[part].t())
        ctx.save_for_backward(grad_hidden, grad_head)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if saved is None else saved * grad for saved in ctx.saved_tensors]
        return *scaled, None, None, None, None, None, None


def divergence_sum(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    caps: tuple[float | None, float | None] = (None, None),
    temperature: float = 1.0,
    reverse: bool = False,
) -> Tensor:
    """Returns the summed Kullback-Leibler divergence between teacher and student (Hinton et al. 2015), in nats.

    Args:
        hidden: The student's final hidden states, (tokens, width).
        head: The student's output matrix, (vocab, width).
        teacher_hidden: The teacher's hidden states, (tokens, its width).
        teacher_head: The teacher's output matrix, (vocab, its width).
        caps: Soft caps of the student's and of the teacher's logits.
        temperature: What both logits are divided by.
        reverse: KL(student | teacher), which gives up what it cannot follow (Gu et al. 2024, MiniLLM), instead of
            KL(teacher | student), which covers all that the teacher would say.
    """
    return ops.apply(_Divergence, hidden, head, caps[0], teacher_hidden, teacher_head, caps[1], temperature, reverse)


def top_divergence(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """Returns KL(teacher | student) of each row where only the teacher's likeliest tokens are known, the rest as one.

    That is the divergence after the vocabulary was made coarser, so it is never above the whole one.

    Args:
        logprobs: The student's, of those tokens, (rows, k).
        teacher_logprobs: The teacher's, (rows, k).
    """
    known = (teacher_logprobs.exp() * (teacher_logprobs - logprobs)).sum(-1)
    rest, ours = _log_rest(teacher_logprobs), _log_rest(logprobs)
    return known + rest.exp() * (rest - ours)


def _log_rest(logprobs: Tensor) -> Tensor:
    """Returns log(1 - sum of the probabilities), finite where they are all there is."""
    return torch.log1p(-logprobs.exp().sum(-1).clamp_max(1 - 1e-6))

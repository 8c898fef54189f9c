"""Policy gradients: from rewards and log-probabilities to a loss for each token.

What is not here: how answers are drawn (`training.rollouts`), and what they are worth (`training.rewards`).
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_DEVIATION = 1e-4
"""Added to the deviation of a group's rewards."""


def group_advantages(rewards: Tensor, *, scale: bool = True) -> Tensor:
    """Compares each answer with the others to the same prompt (Shao et al. 2024, DeepSeekMath, section 4.1.2).

    A = (r - mean(r)) / std(r), over the group; where all are worth the same there is nothing to learn: 0.

    Args:
        rewards: (prompts, samples).
        scale: Whether to divide by the deviation; Liu et al. 2025 (Dr. GRPO) leave it out, since it gives questions
            that are nearly always or nearly never answered too much weight.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if not scale or rewards.shape[1] < 2:
        return centred
    return centred / (rewards.std(dim=1, keepdim=True) + SMALLEST_DEVIATION)


def reinforce_advantages(rewards: Tensor) -> Tensor:
    """Compares each answer with the mean of the other samples (Kool et al. 2019; Ahmadian et al. 2024, RLOO).

    With a single sample for each prompt, with the mean of the batch (Williams 1992, REINFORCE with a baseline).

    Args:
        rewards: (prompts, samples).
    """
    samples = rewards.shape[1]
    if samples == 1:
        return rewards - rewards.mean()
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (samples - 1)
    return rewards - others


def clipped_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """The clipped surrogate (Schulman et al. 2017, equation 7), negative since losses fall.

    -min(rho * A, clip(rho, 1 - low, 1 + high) * A), rho = pi(token) / pi_old(token). `high` above `low` leaves room for
    rare tokens to rise (Yu et al. 2025, DAPO).

    Args:
        logprobs: Of the policy in training, (batch, time).
        old: Of the policy that wrote the answers, (batch, time).
        advantages: (batch, time) or (batch, 1).
        low: How far a probability may fall.
        high: How far it may rise.
    """
    ratio = torch.exp(logprobs - old)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def reinforce_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """The plain policy gradient (Williams 1992): -A * log pi(token); shapes as in `clipped_loss`."""
    return -advantages * logprobs


def divergence(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Estimates KL(pi || ref) at each token that pi wrote, (batch, time): never negative, unbiased, low in variance.

    ref/pi - log(ref/pi) - 1 (Schulman 2020, estimator k3; Shao et al. 2024, equation 4).
    """
    log_ratio = reference - logprobs
    return torch.exp(log_ratio) - log_ratio - 1

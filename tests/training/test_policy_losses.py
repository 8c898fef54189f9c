"""Policy gradients against values computed by hand and against expectations that can be summed exactly."""

from __future__ import annotations

import math

import pytest
import torch

from zhixing.training.policy import (
    clipped_loss,
    divergence,
    group_advantages,
    reinforce_advantages,
    reinforce_loss,
)


def test_group_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 1.0, 1.0]])
    advantages = group_advantages(rewards)
    deviation = math.sqrt(1 / 3)
    assert advantages[0].tolist() == pytest.approx([x / (deviation + 1e-4) for x in (0.5, -0.5, -0.5, 0.5)])
    assert advantages[1].tolist() == [0, 0, 0, 0]
    assert advantages[2].tolist() == pytest.approx([x / (1 + 1e-4) for x in (1.5, -0.5, -0.5, -0.5)])
    assert group_advantages(rewards, scale=False)[2].tolist() == [1.5, -0.5, -0.5, -0.5]
    assert torch.equal(group_advantages(rewards[:, :1]), torch.zeros(3, 1))


def test_reinforce_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5]])
    assert reinforce_advantages(rewards).tolist() == [pytest.approx([0.75, -0.75, 0.0])]
    assert reinforce_advantages(torch.tensor([[1.0], [0.0]])).tolist() == [[0.5], [-0.5]]


def test_clipping_by_hand() -> None:
    old = torch.zeros(1, 4)
    logprobs = torch.log(torch.tensor([[1.5, 0.5, 1.5, 0.5]])).requires_grad_()
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    loss = clipped_loss(logprobs, old, advantages, 0.2, 0.3)
    # Rising too far with a gain is cut at 1.3, falling too far with a loss at 0.8; the others are not.
    assert loss[0].tolist() == pytest.approx([-1.3, -0.5, 1.5, 0.8])
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0.0, -0.5, 1.5, 0.0])


def test_at_the_old_policy_all_losses_have_the_plain_gradient() -> None:
    advantages = torch.tensor([[0.7], [-1.2]])
    gradients = []
    for loss in (lambda x: clipped_loss(x, x.detach(), advantages, 0.2, 0.2), lambda x: reinforce_loss(x, advantages)):
        logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
        loss(logprobs).sum().backward()
        gradients.append(logprobs.grad)
    assert torch.allclose(*gradients)  # type: ignore[arg-type]


def test_the_divergence_is_unbiased_and_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = (torch.randn(50, generator=generator).double().log_softmax(0) for _ in range(2))
    exact = (policy.exp() * (policy - reference)).sum()
    estimates = divergence(policy, reference)
    assert float((policy.exp() * estimates).sum()) == pytest.approx(float(exact), rel=1e-12)
    assert (estimates >= 0).all()
    assert divergence(policy, policy).abs().max() == 0


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward() -> None:
    # Over all answers, weighted by their probability, the loss's gradient is that of -E[r], whatever the baseline.
    generator = torch.Generator().manual_seed(1)
    rewards = torch.randn(6, generator=generator).double()
    weights = torch.randn(6, generator=generator).double().requires_grad_()
    (-(weights.softmax(0) * rewards).sum()).backward()
    expected, weights.grad = weights.grad, None
    logprobs = weights.log_softmax(0)
    loss = reinforce_loss(logprobs, rewards - 0.3)
    (loss * logprobs.detach().exp()).sum().backward()
    assert weights.grad is not None
    assert torch.allclose(weights.grad, expected)  # type: ignore[arg-type]

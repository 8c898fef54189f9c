"""Log-probabilities of tokens, and their gradients, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from zhixing.models import loss
from zhixing.models.loss import IGNORED, soft_cap
from zhixing.models.token_logprobs import token_logprobs


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("at_once", [1 << 22, 64])
def test_values_and_gradients_are_those_of_the_plain_formula(
    cap: float | None, temperature: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, 8, generator=generator, requires_grad=True)
    head = torch.randn(30, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 30, (2, 7), generator=generator)
    targets[0, :3] = IGNORED
    weights = torch.randn(2, 7, generator=generator)

    logs = (soft_cap(hidden @ head.T, cap) / temperature).log_softmax(-1)
    kept = targets != IGNORED
    expected = logs.gather(2, targets.clamp_min(0)[..., None])[..., 0] * kept
    (expected * weights).sum().backward()
    gradients = [hidden.grad, head.grad]
    hidden.grad = head.grad = None

    logprobs, entropies = token_logprobs(hidden, head, targets, cap, temperature=temperature)
    (logprobs * weights).sum().backward()
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropies, -(logs.exp() * logs).sum(-1) * kept)
    assert not entropies.requires_grad
    torch.testing.assert_close(hidden.grad, gradients[0])
    torch.testing.assert_close(head.grad, gradients[1])


def test_frozen_parts_cost_no_gradient_and_no_target_is_no_fault() -> None:
    hidden = torch.randn(1, 3, 8, requires_grad=True)
    head = torch.randn(5, 8)
    logprobs, _ = token_logprobs(hidden, head, torch.tensor([[1, IGNORED, 2]]))
    logprobs.sum().backward()
    assert head.grad is None
    empty, _ = token_logprobs(hidden, head, torch.full((1, 3), IGNORED))
    assert torch.equal(empty, torch.zeros(1, 3))

"""The loss in pieces against PyTorch's cross-entropy on the full logits."""

import pytest
import torch
import torch.nn.functional as F

from zhixing.models import loss as loss_module
from zhixing.models.loss import IGNORED, cross_entropy_sum, soft_cap, token_losses


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("at_once", [11, 40, 1 << 22])
def test_loss_and_gradients_equal_the_plain_way(monkeypatch, cap, at_once):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
    hidden = torch.randn(2, 7, 6, requires_grad=True)
    head = torch.randn(11, 6, requires_grad=True)
    targets = torch.randint(0, 11, (2, 7))
    targets[0, :3] = IGNORED
    ours = cross_entropy_sum(hidden, head, targets, cap)
    logits = soft_cap(hidden @ head.t(), cap)
    theirs = F.cross_entropy(logits.view(-1, 11), targets.view(-1), ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours * 0.5, (hidden, head)), torch.autograd.grad(theirs * 0.5, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    each = token_losses(hidden, head, targets, cap)
    torch.testing.assert_close(each.sum(), theirs)
    assert (each[0, :3] == 0).all()


def test_a_batch_without_targets_has_zero_loss_and_gradient():
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    head = torch.randn(5, 4, requires_grad=True)
    total = cross_entropy_sum(hidden, head, torch.full((1, 3), IGNORED))
    total.backward()
    assert float(total.detach()) == 0
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))

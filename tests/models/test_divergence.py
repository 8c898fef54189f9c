"""The divergence of two models' predictions, and its gradient, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zhixing.models import loss
from zhixing.models.divergence import divergence_sum, top_divergence
from zhixing.models.loss import soft_cap


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("caps", [(None, None), (4.0, 6.0)])
@pytest.mark.parametrize("at_once", [1 << 22, 100])
def test_values_and_gradients_are_pytorchs(
    reverse: bool, caps: tuple[float | None, float | None], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 8, generator=draw, requires_grad=True)
    head = torch.randn(30, 8, generator=draw, requires_grad=True)
    taught, teacher_head = torch.randn(9, 12, generator=draw), torch.randn(30, 12, generator=draw)
    ours = (soft_cap(hidden @ head.T, caps[0]) / 2).log_softmax(-1)
    theirs = (soft_cap(taught @ teacher_head.T, caps[1]) / 2).log_softmax(-1)
    first, second = (theirs, ours) if reverse else (ours, theirs)
    expected = F.kl_div(first, second, log_target=True, reduction="sum")
    expected.backward()
    gradients = [hidden.grad, head.grad]
    hidden.grad = head.grad = None
    got = divergence_sum(hidden, head, taught, teacher_head, caps=caps, temperature=2.0, reverse=reverse)
    (got * 1.0).backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(hidden.grad, gradients[0])
    torch.testing.assert_close(head.grad, gradients[1])


def test_a_part_of_the_predictions_bounds_the_divergence_from_below() -> None:
    draw = torch.Generator().manual_seed(1)
    ours, theirs = (torch.randn(20, 50, generator=draw).log_softmax(-1) for _ in range(2))
    whole = (theirs.exp() * (theirs - ours)).sum(-1)
    before = torch.zeros(20)
    for count in (1, 5, 20, 49):
        values, places = theirs.topk(count)
        part = top_divergence(ours.gather(1, places), values)
        assert (part >= before - 1e-5).all()
        assert (part <= whole + 1e-5).all()
        before = part
    torch.testing.assert_close(before, whole, rtol=1e-4, atol=1e-4)  # all but one token: nothing is hidden


def test_one_token_by_hand() -> None:
    part = top_divergence(torch.tensor([[0.5]]).log(), torch.tensor([[0.8]]).log())
    assert float(part) == pytest.approx(0.8 * torch.log(torch.tensor(1.6)) + 0.2 * torch.log(torch.tensor(0.4)))

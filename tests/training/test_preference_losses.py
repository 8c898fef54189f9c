"""Losses on preferences against values computed by hand and against plain loops over single pairs."""

from __future__ import annotations

import math

import pytest
import torch

from zhixing.training.preference import (
    Answers,
    dpo_loss,
    ipo_loss,
    kto_loss,
    log_odds,
    orpo_loss,
    ranking_loss,
    simpo_loss,
)


def _sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _answers(logprobs: list[float], reference: list[float], lengths: list[int]) -> Answers:
    return Answers(
        torch.tensor(logprobs, dtype=torch.float64),
        torch.tensor(reference, dtype=torch.float64),
        torch.tensor(lengths, dtype=torch.float64),
    )


CHOSEN = _answers([-12.0, -3.0, -20.0], [-14.0, -3.0, -18.0], [6, 2, 10])
REJECTED = _answers([-15.0, -9.0, -8.0], [-13.0, -9.0, -9.0], [5, 3, 16])


def test_dpo_by_hand() -> None:
    # h = (-12 + 14) - (-15 + 13) = 4, 0, (-20 + 18) - (-8 + 9) = -3
    expected = [-math.log(_sigma(0.1 * h)) for h in (4, 0, -3)]
    assert dpo_loss(CHOSEN, REJECTED, 0.1).tolist() == pytest.approx(expected, rel=1e-12)
    smoothed = [-0.9 * math.log(_sigma(0.5 * h)) - 0.1 * math.log(_sigma(-0.5 * h)) for h in (4, 0, -3)]
    assert dpo_loss(CHOSEN, REJECTED, 0.5, 0.1).tolist() == pytest.approx(smoothed, rel=1e-12)


def test_ipo_by_hand() -> None:
    # Per token: 2/6 - (-2/5), 0 - 0, -2/10 - 1/16
    expected = [(h - 5) ** 2 for h in (2 / 6 + 2 / 5, 0.0, -2 / 10 - 1 / 16)]
    assert ipo_loss(CHOSEN, REJECTED, 0.1).tolist() == pytest.approx(expected, rel=1e-12)


def test_simpo_by_hand() -> None:
    expected = [-math.log(_sigma(2 * (w - r) - 0.5)) for w, r in ((-2, -3), (-1.5, -3), (-2, -0.5))]
    assert simpo_loss(CHOSEN, REJECTED, 2.0, 0.5).tolist() == pytest.approx(expected, rel=1e-12)


def test_orpo_by_hand() -> None:
    def odds(mean: float) -> float:
        return math.exp(mean) / (1 - math.exp(mean))

    expected = [
        -w - 0.2 * math.log(_sigma(math.log(odds(w)) - math.log(odds(r))))
        for w, r in ((-2, -3), (-1.5, -3), (-2, -0.5))
    ]
    assert orpo_loss(CHOSEN, REJECTED, 0.2).tolist() == pytest.approx(expected, rel=1e-9)


def test_odds_are_exact_and_finite_at_both_ends() -> None:
    for p in (1e-30, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-6):
        got = float(log_odds(torch.tensor(math.log(p), dtype=torch.float64)))
        assert got == pytest.approx(math.log(p) - math.log1p(-p), rel=1e-9, abs=1e-9)
    certain = torch.tensor([0.0, -1e-9, -200.0], requires_grad=True)
    log_odds(certain).sum().backward()
    assert certain.grad is not None
    assert torch.isfinite(log_odds(certain)).all()
    assert torch.isfinite(certain.grad).all()


def test_kto_by_hand() -> None:
    answers = _answers([-12.0, -15.0, -9.0], [-14.0, -13.0, -9.0], [6, 5, 3])
    good = torch.tensor([True, False, True])
    others = _answers([-20.0, -8.0, -4.0], [-23.0, -9.0, -2.0], [4, 4, 4])
    z = (3 + 1 - 2) / 3
    expected = [1.0 * (1 - _sigma(0.5 * (2 - z))), 1.5 * (1 - _sigma(0.5 * (z + 2))), 1 - _sigma(0.5 * (0 - z))]
    assert kto_loss(answers, good, others, 0.5, (1.0, 1.5)).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_divergence_of_kto_is_never_negative_and_has_no_gradient() -> None:
    logprobs = torch.tensor([-5.0, -6.0], requires_grad=True)
    others = Answers(logprobs, torch.tensor([-1.0, -1.0]), torch.tensor([2.0, 2.0]))
    answers = Answers(torch.tensor([-3.0, -2.0]), torch.tensor([-3.0, -4.0]), torch.tensor([2.0, 2.0]))
    loss = kto_loss(answers, torch.tensor([True, True]), others, 1.0, (1.0, 1.0))
    assert loss.tolist() == pytest.approx([0.5, 1 - _sigma(2)])
    assert not loss.requires_grad


def test_ranking_by_hand() -> None:
    loss = ranking_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))
    assert loss.tolist() == pytest.approx([-math.log(_sigma(1)), -math.log(_sigma(-3))])


def test_dpo_moves_the_answers_apart_with_the_papers_weight() -> None:
    # Rafailov et al. 2023, section 4: weight beta * sigma(r_l - r_w), up for the chosen, down for the rejected.
    logprobs = torch.tensor([-12.0, -15.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-14.0, -13.0], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    loss = dpo_loss(Answers(logprobs[:1], reference[:1], one), Answers(logprobs[1:], reference[1:], one), 0.3)
    loss.sum().backward()
    assert logprobs.grad is not None
    weight = 0.3 * _sigma(0.3 * ((-15 + 13) - (-12 + 14)))
    assert logprobs.grad.tolist() == pytest.approx([-weight, weight])

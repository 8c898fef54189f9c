"""Losses on preferences: from log-probabilities of whole answers to one loss for each pair.

Notation, as in the papers: y_w the better answer (chosen), y_l the worse one (rejected), pi the policy in training, ref
the model that it began as, sigma the logistic function. Sums and lengths are over an answer's own tokens. What is not
here: how answers are read and scored (`training.objectives.preference`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """Answers side by side.

    Attributes:
        logprobs: log pi(y | x), summed over the answer, (pairs).
        reference: log ref(y | x), likewise; zeros for losses that need none.
        lengths: Tokens of the answers, (pairs).
    """

    logprobs: Tensor
    reference: Tensor
    lengths: Tensor

    @property
    def mean(self) -> Tensor:
        """log pi(y | x) per token."""
        return self.logprobs / self.lengths

    @property
    def ratio(self) -> Tensor:
        """log pi(y | x) - log ref(y | x): the implicit reward, but for the factor beta."""
        return self.logprobs - self.reference


def dpo_loss(chosen: Answers, rejected: Answers, beta: float, smoothing: float = 0.0) -> Tensor:
    """Direct preference optimization (Rafailov et al. 2023, equation 7).

    -log sigma(beta * h), h = log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l). With smoothing e, the labels are taken for
    wrong with probability e (Mitchell 2023, conservative DPO).
    """
    h = chosen.ratio - rejected.ratio
    return -(1 - smoothing) * F.logsigmoid(beta * h) - smoothing * F.logsigmoid(-beta * h)


def ipo_loss(chosen: Answers, rejected: Answers, beta: float) -> Tensor:
    """Identity preference optimization (Azar et al. 2023, equation 17): (h - 1 / (2 beta))^2.

    h is that of DPO with log-ratios per token, since the target margin does not know how long answers are.
    """
    h = chosen.ratio / chosen.lengths - rejected.ratio / rejected.lengths
    return (h - 1 / (2 * beta)).square()


def simpo_loss(chosen: Answers, rejected: Answers, beta: float, margin: float) -> Tensor:
    """Simple preference optimization (Meng et al. 2024, equation 6): no reference, log-probabilities per token.

    -log sigma(beta * (mean log pi(y_w) - mean log pi(y_l)) - margin).
    """
    return -F.logsigmoid(beta * (chosen.mean - rejected.mean) - margin)


def orpo_loss(chosen: Answers, rejected: Answers, beta: float) -> Tensor:
    """Odds ratio preference optimization (Hong et al. 2024, equations 6 and 7): no reference.

    -mean log pi(y_w) - beta * log sigma(log odds(y_w) - log odds(y_l)), odds(y) = p / (1 - p) with p the geometric mean
    of the tokens' probabilities.
    """
    odds = log_odds(chosen.mean) - log_odds(rejected.mean)
    return -chosen.mean - beta * F.logsigmoid(odds)


def log_odds(logprob: Tensor) -> Tensor:
    """Returns log(p / (1 - p)) of log p, exact for p near 0 and near 1."""
    # log(1 - p): log1p(-e^x) is exact for small p, log(-expm1(x)) for p near 1 (Maechler 2012).
    below = logprob.clamp_max(-1e-7)
    small = torch.log1p(-torch.exp(below.clamp_max(-0.693)))
    large = torch.log(-torch.expm1(below.clamp_min(-0.693)))
    return logprob - torch.where(below < -0.693, small, large)


def kto_loss(answers: Answers, good: Tensor, mismatched: Answers, beta: float, weights: tuple[float, float]) -> Tensor:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, equation 8): answers that are good or bad, unpaired.

    w_good * (1 - sigma(beta * (r - z))) for good ones, w_bad * (1 - sigma(beta * (z - r))) for bad ones, with
    r = log pi(y)/ref(y) and z = max(0, mean of r over prompts with others' answers), without gradient.

    Args:
        answers: The answers.
        good: Whether each is good, (answers).
        mismatched: Other records' answers behind these records' prompts.
        beta: How sharply.
        weights: Of good and of bad answers.
    """
    z = mismatched.ratio.detach().mean().clamp_min(0)
    gain = torch.where(good, answers.ratio - z, z - answers.ratio)
    weight = torch.where(good, weights[0], weights[1])
    return weight * (1 - torch.sigmoid(beta * gain))


def ranking_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Bradley and Terry's model of pairs (Ouyang et al. 2022, equation 1): -log sigma(r(y_w) - r(y_l))."""
    return -F.logsigmoid(chosen - rejected)

"""Filters: small classes that narrow the choice by probability alone, in the order in which they are applied.

Each gives what the warper of the same name in `transformers` gives. They work on `Candidates`: after top-k nothing
touches the whole vocabulary any more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zhixing.generation.options import SamplingOptions
from zhixing.generation.sampling import Candidates, Filter

NEVER = float("-inf")


@dataclass(frozen=True)
class Temperature:
    """Divides the logits."""

    value: float

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        return Candidates(candidates.logits / self.value, candidates.tokens, candidates.sorted)


@dataclass(frozen=True)
class TopK:
    """Keeps the k likeliest (Fan et al. 2018)."""

    k: int

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        return candidates.best(self.k)


@dataclass(frozen=True)
class TopP:
    """Keeps the likeliest tokens until they hold a share p of the probability (Holtzman et al. 2020)."""

    p: float
    probe: int = 512
    """Tokens that are looked at first: they nearly always hold the share, and sorting a large vocabulary is slow."""

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        total = candidates.logits.logsumexp(-1, keepdim=True)  # (batch, 1)
        if not candidates.sorted:
            count = candidates.logits.shape[-1]
            likeliest = candidates.best(self.probe)
            if self.probe < count and bool(((likeliest.logits - total).exp().sum(-1) < self.p).any()):
                likeliest = candidates.best(count)
            candidates = likeliest
        shares = (candidates.logits - total).exp()
        before = shares.cumsum(-1) - shares  # share of everything likelier
        excluded = before >= self.p
        excluded[:, 0] = False
        return Candidates(candidates.logits.masked_fill(excluded, NEVER), candidates.tokens, True)


@dataclass(frozen=True)
class TopNSigma:
    """Keeps logits within n standard deviations of the highest (Tang et al. 2024): max - n * sigma and above.

    What a processor has excluded does not count in the deviation. The temperature does not matter here.
    """

    n: float

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        logits = candidates.logits
        possible = logits > NEVER
        count = possible.sum(-1, keepdim=True).clamp_min(1)
        mean = torch.where(possible, logits, 0.0).sum(-1, keepdim=True) / count
        sigma = (torch.where(possible, logits - mean, 0.0).square().sum(-1, keepdim=True) / count).sqrt()
        return candidates.without(logits < logits.amax(-1, keepdim=True) - self.n * sigma)


@dataclass(frozen=True)
class TopH:
    """Keeps the likeliest tokens whose entropy is a share h of that of the 100 likeliest (Potraghloo et al. 2025)."""

    h: float
    count: int = 100

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        best = candidates.best(self.count)
        logprobs = best.logits.log_softmax(-1)
        entropy = (-logprobs.exp() * logprobs).nan_to_num(0.0).cumsum(-1)  # (batch, count), of the first ones together
        excluded = entropy > self.h * entropy[:, -1:]
        excluded[:, 0] = False
        return best.without(excluded)


@dataclass(frozen=True)
class MinP:
    """Keeps tokens with at least a share p of the likeliest one's probability (Nguyen et al. 2024)."""

    p: float

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        logits = candidates.logits
        highest = logits[:, :1] if candidates.sorted else logits.amax(-1, keepdim=True)
        return candidates.without(logits < highest + math.log(self.p))


@dataclass(frozen=True)
class Typical:
    """Keeps the tokens whose surprise is nearest to the expected one, until they hold a share (Meister et al. 2023)."""

    mass: float

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        logprobs = candidates.logits.log_softmax(-1)
        shares = logprobs.exp()
        entropy = -(shares * logprobs).nansum(-1, keepdim=True)
        distance, order = (-logprobs - entropy).abs().sort(-1)
        held = shares.gather(-1, order).cumsum(-1)
        last = (held < self.mass).sum(-1, keepdim=True).clamp_max(distance.shape[-1] - 1)
        excluded = distance > distance.gather(-1, last)
        kept = candidates.without(torch.zeros_like(excluded).scatter(-1, order, excluded))
        return Candidates(kept.logits, kept.tokens)  # the likeliest may be gone, so it is no longer sorted


@dataclass(frozen=True)
class Epsilon:
    """Keeps tokens with a probability of at least epsilon, or else the likeliest (Hewitt et al. 2022)."""

    epsilon: float

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        return _above(candidates, candidates.logits.softmax(-1), self.epsilon)


@dataclass(frozen=True)
class Eta:
    """Keeps tokens of at least min(e, sqrt(e) * exp(-entropy)), or else the likeliest (Hewitt et al. 2022)."""

    epsilon: float

    def __call__(self, candidates: Candidates) -> Candidates:
        """See `Filter`."""
        logprobs = candidates.logits.log_softmax(-1)
        shares = logprobs.exp()
        entropy = -(shares * logprobs).nansum(-1, keepdim=True)
        return _above(candidates, shares, (self.epsilon**0.5 * (-entropy).exp()).clamp_max(self.epsilon))


def _above(candidates: Candidates, shares: Tensor, bound: Tensor | float) -> Candidates:
    """Excludes what is less likely than the bound, but never the likeliest."""
    return candidates.without((shares < bound) & (shares < shares.amax(-1, keepdim=True)))


def filters_for(options: SamplingOptions) -> list[Filter]:
    """Returns the filters that the options ask for, in the order of application; none for greedy.

    The order is that of `transformers`; where the temperature does not change what a filter keeps, the filter comes
    first, so that there is less to divide.
    """
    if options.greedy:
        return []
    filters: list[Filter] = []
    if options.top_n_sigma is not None:
        filters.append(TopNSigma(options.top_n_sigma))
    top_k = [TopK(options.top_k)] if options.top_k is not None else []
    if options.top_h is None:
        filters += top_k
    if options.temperature != 1:
        filters.append(Temperature(options.temperature))
    if options.top_h is not None:
        filters += [TopH(options.top_h), *top_k]
    if options.top_p < 1:
        filters.append(TopP(options.top_p))
    if options.min_p > 0:
        filters.append(MinP(options.min_p))
    if options.typical_p < 1:
        filters.append(Typical(options.typical_p))
    if options.epsilon_cutoff > 0:
        filters.append(Epsilon(options.epsilon_cutoff))
    if options.eta_cutoff > 0:
        filters.append(Eta(options.eta_cutoff))
    return filters

"""From logits to the next token, for a whole batch at once.

Two kinds of steps, each one small class: a `LogitsProcessor` changes the logits of the whole vocabulary, knowing what
was written so far (repetition penalty); a `Filter` then narrows the choice by probability alone (top-k, top-p) and
works on candidates, so that after top-k nothing touches the whole vocabulary any more. The draw itself inverts the
cumulative distribution at a number that each sequence takes from a generator of its own: a sequence's text does not
depend on what is beside it in the batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.generation.options import SamplingOptions


@dataclass(frozen=True, slots=True)
class Context:
    """What a processor may look at.

    Attributes:
        tokens: All tokens so far, prompts included, (batch, time).
        padding: How many positions of each row, at its left, are no tokens, (batch).
        prompt: Time at which the answers begin.
    """

    tokens: Tensor
    padding: Tensor
    prompt: int


class LogitsProcessor(Protocol):
    """Changes the logits of the next token."""

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """Maps logits, (batch, vocab), to logits; may change them in place."""


@dataclass(slots=True)
class Candidates:
    """The tokens that may still be chosen.

    Attributes:
        logits: (batch, count), minus infinity for what is excluded.
        tokens: Their ids, (batch, count); None for the whole vocabulary in its order.
        sorted: Whether the logits fall from left to right.
    """

    logits: Tensor
    tokens: Tensor | None = None
    sorted: bool = False

    def best(self, count: int) -> Candidates:
        """Returns the `count` likeliest, sorted."""
        logits, order = self.logits.topk(min(count, self.logits.shape[-1]))
        return Candidates(logits, order if self.tokens is None else self.tokens.gather(-1, order), True)

    def scattered(self, vocab_size: int) -> Tensor:
        """Returns the logits of the whole vocabulary, (batch, vocab), minus infinity where excluded."""
        if self.tokens is None:
            return self.logits
        full = torch.full(
            (len(self.logits), vocab_size), float("-inf"), device=self.logits.device, dtype=self.logits.dtype
        )
        return full.scatter(-1, self.tokens, self.logits)


class Filter(Protocol):
    """Narrows the choice by probability."""

    def __call__(self, candidates: Candidates) -> Candidates:
        """Returns fewer candidates, or the same with some at minus infinity; never none."""


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive and multiplies negative logits of every token that already occurred (Keskar et al. 2019)."""

    penalty: float

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        tokens = context.tokens
        # Padding stands for the row's first real token, so that it adds nothing to the set of what occurred.
        first = tokens.gather(1, context.padding[:, None])
        padded = torch.arange(tokens.shape[1], device=tokens.device) < context.padding[:, None]
        tokens = torch.where(padded, first, tokens)
        old = logits.gather(1, tokens)
        return logits.scatter(1, tokens, torch.where(old < 0, old * self.penalty, old / self.penalty))


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
        return Candidates(candidates.logits.masked_fill(excluded, float("-inf")), candidates.tokens, True)


def processors_for(options: SamplingOptions) -> list[LogitsProcessor]:
    """Returns the processors that the options ask for, in the order of application."""
    return [RepetitionPenalty(options.repetition_penalty)] if options.repetition_penalty != 1 else []


def filters_for(options: SamplingOptions) -> list[Filter]:
    """Returns the filters that the options ask for, in the order of application; none for greedy."""
    if options.greedy:
        return []
    filters: list[Filter] = []
    if options.top_k is not None:
        filters.append(TopK(options.top_k))  # before the temperature, which does not change the order: less to divide
    if options.temperature != 1:
        filters.append(Temperature(options.temperature))
    if options.top_p < 1:
        filters.append(TopP(options.top_p))
    return filters


def draw(candidates: Candidates, uniform: Sequence[float]) -> Tensor:
    """Chooses one token per row, each with its probability.

    Args:
        candidates: What to choose from.
        uniform: One number in [0, 1) per row.

    Returns:
        Token ids, (batch).
    """
    # Float64: over a large vocabulary, rounding in float32 would shift the borders by more than a rare token's share.
    logits = candidates.logits.double() if candidates.logits.device.type != "mps" else candidates.logits
    cumulative = (logits - logits.amax(-1, keepdim=True)).exp_().cumsum(-1)  # (batch, count)
    point = torch.tensor(uniform, dtype=cumulative.dtype, device=cumulative.device)[:, None] * cumulative[:, -1:]
    # The first whose cumulative share exceeds the point: one of probability zero never does so first. Rounding could
    # still put the point at the very end, behind the last possible one.
    index = torch.searchsorted(cumulative, point, right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    index = torch.minimum(index, last)
    return (index if candidates.tokens is None else candidates.tokens.gather(-1, index)).squeeze(-1)


def sequence_random(seed: int, sample: int) -> random.Random:
    """Returns the generator of one sequence: it depends on the seed and on which sample of its prompt this is."""
    return random.Random(f"{seed}/{sample}")


def _not_numbers() -> BadInput:
    return BadInput(
        "the model's predictions are not numbers (NaN)",
        remedy="its weights are damaged or its training diverged: use an earlier checkpoint",
    )


class Sampler:
    """Chooses the next token of every sequence.

    Args:
        options: What is asked for.
        processors: More processors, applied after the ones of the options.
        filters: More filters, likewise.
    """

    def __init__(
        self, options: SamplingOptions, processors: Sequence[LogitsProcessor] = (), filters: Sequence[Filter] = ()
    ) -> None:
        self.greedy = options.greedy
        self.processors = [*processors_for(options), *processors]
        self.filters = [*filters_for(options), *filters]

    def __call__(self, logits: Tensor, context: Context, generators: Sequence[random.Random]) -> Tensor:
        """Maps logits, (batch, vocab), to the chosen tokens, (batch)."""
        for process in self.processors:
            logits = process(logits, context)
        if self.greedy:
            best, chosen = logits.max(-1)  # of numbers with a NaN among them, the maximum is NaN
            if bool(best.isnan().any()):
                raise _not_numbers()
            return chosen
        if bool(logits.isnan().any()):
            raise _not_numbers()
        candidates = Candidates(logits.float())
        for narrow in self.filters:
            candidates = narrow(candidates)
        return draw(candidates, [generator.random() for generator in generators])

"""From logits to the next token, for a whole batch at once.

Two kinds of steps, each one small class: a `LogitsProcessor` (`penalties`, `constraints`, `guidance`) changes the
logits of the whole vocabulary, knowing what was written so far; a `Filter` (`filters`) then narrows the choice by
probability alone and works on candidates, so that after top-k nothing touches the whole vocabulary any more. Which of
them the options ask for, and in which order, is in `chain` and `filters`. The draw itself inverts the cumulative
distribution at a number that each sequence takes from a generator of its own: a sequence's text does not depend on what
is beside it in the batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.generation.checks import not_numbers


@dataclass(frozen=True, slots=True)
class Context:
    """What a processor may look at.

    Attributes:
        tokens: All tokens so far, prompts included, (batch, time).
        padding: How many positions of each row, at its left, are no tokens, (batch).
        prompt: Time at which the answers begin.
        longest: Tokens that each answer may have at most, (batch); None where nothing bounds them.
    """

    tokens: Tensor
    padding: Tensor
    prompt: int
    longest: Tensor | None = None

    @property
    def written(self) -> int:
        """Tokens that every answer has so far."""
        return self.tokens.shape[1] - self.prompt

    @property
    def lengths(self) -> Tensor:
        """Tokens that each row has so far, prompt included, (batch)."""
        return self.tokens.shape[1] - self.padding

    def real_tokens(self) -> Tensor:
        """Returns the tokens with each row's first one in the place of its padding, (batch, time): the same set."""
        first = self.tokens.gather(1, self.padding[:, None])
        padded = torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.padding[:, None]
        return torch.where(padded, first, self.tokens)


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

    def without(self, excluded: Tensor) -> Candidates:
        """Returns the same with those at minus infinity that are true in `excluded`, (batch, count)."""
        return Candidates(self.logits.masked_fill(excluded, float("-inf")), self.tokens, self.sorted)

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


def likeliest(logits: Tensor) -> Tensor:
    """Maps logits, (batch, vocab), to the likeliest tokens, (batch).

    Raises:
        BadInput: The logits are not numbers.
    """
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and not logits.requires_grad:
        chosen = torch.from_numpy(logits.numpy().argmax(-1))  # several times as fast as PyTorch's
        best = logits.gather(-1, chosen[:, None])
    else:
        best, chosen = logits.max(-1)
    if bool(best.isnan().any()):  # of numbers with a NaN among them, the maximum is NaN
        raise not_numbers()
    return chosen


def processed(logits: Tensor, context: Context, processors: Sequence[LogitsProcessor]) -> Tensor:
    """Applies processors, (batch, vocab) to the same.

    Raises:
        BadInput: They leave nothing to choose from.
    """
    for process in processors:
        logits = process(logits, context)
    if processors and bool((logits.amax(-1) == float("-inf")).any()):
        raise BadInput(
            f"the options exclude every token, after {context.written} tokens of the answer",
            remedy="ban fewer tokens (bad_words, suppress_tokens, no_repeat_ngram_size, processors of your own)",
        )
    return logits


class Sampler:
    """Chooses the next token of every sequence.

    Args:
        processors: What changes the logits, in this order.
        filters: What then narrows the choice, in this order.
        greedy: Take the likeliest token, and draw nothing.
    """

    def __init__(
        self, processors: Sequence[LogitsProcessor] = (), filters: Sequence[Filter] = (), greedy: bool = False
    ) -> None:
        self.processors, self.filters, self.greedy = processors, filters, greedy

    def __call__(self, logits: Tensor, context: Context, generators: Sequence[random.Random]) -> Tensor:
        """Maps logits, (batch, vocab), to the chosen tokens, (batch)."""
        if self.processors:
            logits = processed(logits, context, self.processors)
        if self.greedy:
            return likeliest(logits)
        if bool(logits.isnan().any()):
            raise not_numbers()
        candidates = Candidates(logits.float())
        for narrow in self.filters:
            candidates = narrow(candidates)
        return draw(candidates, [generator.random() for generator in generators])

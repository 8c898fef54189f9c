"""Guidance: towards the prompt and away from another one, or towards what a reward function likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.generation.rows import Reader, Rows
from zhixing.generation.sampling import Context
from zhixing.tokenization.tokenizer import Tokenizer

NEVER = float("-inf")


class ClassifierFreeGuidance:
    """Leads away from a negative prompt (Sanchez et al. 2023).

        log p = log p(token | negative) + scale * (log p(token | prompt) - log p(token | negative))

    It is a reader, which reads every answer behind its prompt and behind the negative prompt, and the processor that
    puts the two together.

    Args:
        read: Reads prompts.
        scale: 1 is no guidance, more is a stronger one.
        negative: Token ids of the negative prompt; None: the last token of each prompt.
    """

    def __init__(self, read: Reader, scale: float, negative: Sequence[int] | None) -> None:
        self._read, self._scale, self._prompt = read, scale, negative
        self._negative: Rows

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> Rows:
        """See `Reader`."""
        self._negative = self._read([self._prompt or prompt[-1:] for prompt in prompts], room)
        return _Pair(self._read(prompts, room), self._negative)

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        away = self._negative.logits.float().log_softmax(-1)
        return away + self._scale * (logits.float().log_softmax(-1) - away)


class _Pair:
    """Rows, and behind them the same answers after another prompt."""

    def __init__(self, rows: Rows, negative: Rows) -> None:
        self._rows, self._negative = rows, negative
        self.logits = rows.logits

    def feed(self, tokens: Tensor) -> None:
        self._rows.feed(tokens)
        self._negative.feed(tokens)
        self.logits = self._rows.logits

    def keep(self, rows: Tensor) -> None:
        self._rows.keep(rows)
        self._negative.keep(rows)
        self._negative.logits = self._negative.logits[rows]  # the processor may look at them before the next token


@dataclass(frozen=True, slots=True)
class Beginning:
    """An answer that might be: what is written, and one more token.

    Attributes:
        prompt: The prompt's tokens.
        tokens: The answer's tokens.
        text: The answer's text; empty without a tokenizer.
    """

    prompt: list[int]
    tokens: list[int]
    text: str


class Reward(Protocol):
    """Says how good beginnings of answers are."""

    def __call__(self, beginnings: Sequence[Beginning]) -> Sequence[float]:
        """Returns a number for each, the higher the better."""


class RewardGuidance:
    """Chooses among the likeliest tokens by likelihood and reward (ARGS, Khanov et al. 2024).

        log p(token) + weight * reward(answer and token), for the `count` likeliest tokens; no others are chosen.

    A processor: give it to `Generator` or `complete(..., processors=[...])`, for any strategy.

    Args:
        reward: Judges the beginnings of all rows in one call.
        weight: How much it counts.
        count: Tokens that are judged in every row.
        tokenizer: Gives the beginnings their text.
    """

    def __init__(self, reward: Reward, *, weight: float = 1.0, count: int = 10, tokenizer: Tokenizer | None = None):
        self._reward, self._weight, self._count, self._tokenizer = reward, weight, count, tokenizer

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        values, tokens = logits.float().log_softmax(-1).topk(min(self._count, logits.shape[-1]))  # (rows, count)
        beginnings: list[Beginning] = []
        for row, padding, choices in zip(
            context.tokens.tolist(), context.padding.tolist(), tokens.tolist(), strict=True
        ):
            prompt, answer = row[padding : context.prompt], row[context.prompt :]
            for token in choices:
                whole = [*answer, token]
                text = self._tokenizer.decode(whole, skip_special=True) if self._tokenizer is not None else ""
                beginnings.append(Beginning(prompt, whole, text))
        rewards = torch.tensor([float(value) for value in self._reward(beginnings)])
        if rewards.numel() != values.numel() or bool(rewards.isnan().any()):
            raise BadInput(
                f"the reward function {self._reward!r} must give {values.numel()} numbers for as many beginnings,"
                f" it gave {rewards.numel()}" + (", not all of them numbers" if bool(rewards.isnan().any()) else "")
            )
        judged = values + self._weight * rewards.to(values).view_as(values)
        return torch.full_like(logits, NEVER, dtype=values.dtype).scatter(1, tokens, judged)

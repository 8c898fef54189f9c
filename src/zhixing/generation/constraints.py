"""Processors that forbid, force or push tokens by their ids and by the length of the answer, whatever its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zhixing.generation.sampling import Context

NEVER = float("-inf")


@dataclass(frozen=True)
class Suppress:
    """Excludes tokens."""

    tokens: Sequence[int]

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        return logits.index_fill(1, torch.tensor(self.tokens, device=logits.device), NEVER)


@dataclass(frozen=True)
class SuppressAtBegin:
    """Excludes tokens as the first of the answer.

    Args:
        tokens: Their ids.
        forced: The first token behind a prompt of one token is forced: there, exclude them as the second.
    """

    tokens: Sequence[int]
    forced: bool = False

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        if context.written > 1:
            return logits
        later = (context.lengths - context.written == 1) & self.forced  # (batch)
        return _excluded(logits, self.tokens, later == (context.written == 1))


@dataclass(frozen=True)
class MinimumTokens:
    """Excludes the end tokens until the answer has so many tokens."""

    count: int
    ends: Sequence[int]

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        if context.written >= self.count:
            return logits
        return logits.index_fill(1, torch.tensor(self.ends, device=logits.device), NEVER)


@dataclass(frozen=True)
class MinimumLength:
    """Excludes the end tokens until prompt and answer together have so many tokens."""

    count: int
    ends: Sequence[int]

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        return _excluded(logits, self.ends, context.lengths < self.count)


@dataclass(frozen=True)
class ForcedFirst:
    """Leaves one token as the only choice behind a prompt of one token: the target language of a translation model."""

    token: int

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        return _forced(logits, [self.token], context.lengths == 1)


@dataclass(frozen=True)
class ForcedLast:
    """Leaves these tokens as the only choice when the answer has room for one more."""

    tokens: Sequence[int]

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        if context.longest is None:
            return logits
        return _forced(logits, self.tokens, context.longest - 1 == context.written)


def _excluded(logits: Tensor, tokens: Sequence[int], rows: Tensor) -> Tensor:
    """Excludes these tokens in the rows that are true."""
    if not bool(rows.any()):
        return logits
    ids = torch.tensor(tokens, device=logits.device)
    return logits.index_copy(1, ids, logits[:, ids].masked_fill(rows[:, None], NEVER))


def _forced(logits: Tensor, tokens: Sequence[int], rows: Tensor) -> Tensor:
    """Excludes all but these tokens, which become equally likely, in the rows that are true."""
    if not bool(rows.any()):
        return logits
    only = torch.full_like(logits[0], NEVER)
    only[list(tokens)] = 0.0
    return torch.where(rows[:, None], only, logits)


@dataclass(frozen=True)
class LengthDecay:
    """Raises the end tokens more and more: logit + |logit| * (factor^(tokens beyond start) - 1)."""

    start: int
    factor: float
    ends: Sequence[int]

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        beyond = context.written - self.start
        if beyond <= 0:
            return logits
        ends = torch.tensor(self.ends, device=logits.device)
        old = logits[:, ends]
        raised = old.abs() * (self.factor**beyond - 1)
        return logits.index_copy(1, ends, old + raised.masked_fill(~old.isfinite(), 0.0))


@dataclass(frozen=True)
class RemoveInvalid:
    """Puts 0 in the place of what is no number, and the largest numbers in that of infinities."""

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        return logits.nan_to_num(nan=0.0)

"""Sequences of unequal length laid end to end, so that no work goes into padding.

An encoder maps every position by itself except in attention, which is done sequence by sequence (and at once for
neighbours of equal length). What is not here: how texts become token ids (`tokenization`), and which sequences are
computed together (`data.grouping`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.models import ops


@dataclass(frozen=True)
class Ragged:
    """Token sequences of unequal length.

    Attributes:
        tokens: All sequences end to end, (total).
        lengths: Length of each sequence; they add up to `total`.
        types: The segment of each token (BERT's first or second sentence), (total); None means the first everywhere.
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    types: Tensor | None = None

    @classmethod
    def of(
        cls,
        sequences: Sequence[Sequence[int]],
        types: Sequence[Sequence[int]] | None = None,
        device: torch.device | str = "cpu",
    ) -> Ragged:
        """Lays sequences end to end.

        Raises:
            BadInput: There is none, or one is empty.
        """
        lengths = tuple(map(len, sequences))
        if not lengths or not all(lengths):
            raise BadInput("every sequence needs at least one token, and there must be one")
        flat = torch.tensor([token for sequence in sequences for token in sequence], device=device)
        kinds = None
        if types is not None:
            kinds = torch.tensor([kind for sequence in types for kind in sequence], device=device)
        return cls(flat, lengths, kinds)

    @cached_property
    def starts(self) -> Tensor:
        """Where each sequence begins, (sequences)."""
        ends = torch.tensor(self.lengths).cumsum(0)
        return (ends - torch.tensor(self.lengths)).to(self.tokens.device)

    @cached_property
    def owners(self) -> Tensor:
        """The number of the sequence that each token belongs to, (total)."""
        lengths = torch.tensor(self.lengths, device=self.tokens.device)
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.tokens.device), lengths)

    @cached_property
    def positions(self) -> Tensor:
        """Each token's position in its sequence, (total)."""
        return torch.arange(len(self.tokens), device=self.tokens.device) - self.starts[self.owners]

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """Neighbouring sequences of equal length: (first token, sequences, length of each)."""
        found, start = [], 0
        for length, group in groupby(self.lengths):
            count = len(list(group))
            found.append((start, count, length))
            start += count * length
        return tuple(found)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cuts per-token values, (total, ...), into those of each sequence."""
        return torch.split(values, list(self.lengths))

    @cached_property
    def places(self) -> Tensor:
        """Each token's place when all sequences are rows of the longest one's length, (total)."""
        return self.owners * max(self.lengths) + self.positions

    @property
    def even(self) -> bool:
        """Whether all sequences are of one length."""
        return min(self.lengths) == max(self.lengths)

    @cached_property
    def present(self) -> Tensor:
        """Where there is a token when all sequences are rows of the longest one's length, (sequences, longest)."""
        lengths = torch.tensor(self.lengths, device=self.tokens.device)
        return torch.arange(max(self.lengths), device=self.tokens.device)[None] < lengths[:, None]

    def rows(self, values: Tensor) -> Tensor:
        """Lays per-token values out as rows with zeros behind: (total, ...) -> (sequences, longest, ...)."""
        shape = (len(self.lengths), max(self.lengths), *values.shape[1:])
        return values.view(shape) if self.even else ops.placed(values, self.places, shape[0] * shape[1]).view(shape)

    def flat(self, rows: Tensor) -> Tensor:
        """Undoes `rows`: (sequences, longest, ...) -> (total, ...); what stands behind the ends is left out."""
        values = rows.flatten(0, 1)
        return values if self.even else ops.taken(values, self.places)

    def padded(self, values: Tensor, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        """Lays per-token values out as rows.

        Args:
            values: (total, ...).
            fill: What stands behind the end of a sequence.

        Returns:
            (sequences, longest, ...), and a mask of the same leading shape that is True for tokens.
        """
        longest = max(self.lengths)
        mask = torch.zeros(len(self.lengths), longest, dtype=torch.bool, device=values.device)
        mask[self.owners, self.positions] = True
        rows = values.new_full((len(self.lengths), longest, *values.shape[1:]), fill)
        return rows.index_put((self.owners, self.positions), values), mask

    def means(self, values: Tensor) -> Tensor:
        """Returns the mean of each sequence's values: (total, width) -> (sequences, width)."""
        lengths = torch.tensor(self.lengths, dtype=values.dtype, device=values.device)
        sums = values.new_zeros(len(self.lengths), values.shape[1]).index_add_(0, self.owners, values)
        return sums / lengths[:, None]

    def firsts(self, values: Tensor) -> Tensor:
        """Returns the values of each sequence's first token: (total, width) -> (sequences, width)."""
        return values[self.starts]


def batches_by_length(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Groups sequences of similar length, longest first, with at most so many tokens together.

    Longest first, so that the largest need of memory shows at once and the estimate of the time left is a safe one.

    Args:
        lengths: Tokens of each sequence.
        most_tokens: Tokens that are computed at once; a longer sequence makes a group of its own.

    Yields:
        Indices into `lengths`.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    group: list[int] = []
    total = 0
    for index in order:
        if group and total + lengths[index] > most_tokens:
            yield group
            group, total = [], 0
        group.append(index)
        total += lengths[index]
    if group:
        yield group

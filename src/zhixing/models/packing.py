"""Several documents in one row of tokens: attention stays within each, and no work goes into what lies between.

Documents of like length are computed side by side, as a small batch of their own; the mask of all pairs, which grows
with the square of the row, is never made. What is not here: which documents share a row (`data`), and encoders, whose
texts lie end to end from the start (`models.ragged`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zhixing.models import ops
from zhixing.models.head_places import Group

ALIKE = 0.75
"""Documents that are computed together have at least this share of the longest one's length."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Causal attention over a batch: (batch, time, heads, head_dim) three times -> the first one's shape."""


class Packing:
    """Where the documents are in rows of tokens.

    Args:
        segments: The number of the document that each token belongs to, (batch, time). Neighbours of equal number are
            one document; what stands apart is another, whatever its number.
    """

    def __init__(self, segments: Tensor) -> None:
        self.segments = segments
        batch, time = segments.shape
        begins = torch.ones_like(segments, dtype=torch.bool)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        index = torch.arange(time, device=segments.device).expand(batch, time)
        self.positions = index - torch.where(begins, index, 0).cummax(dim=1).values
        """Each token's place in its document, (batch, time)."""
        starts = begins.flatten().nonzero()[:, 0]
        self._starts = starts
        self._lengths = torch.diff(starts, append=starts.new_tensor([batch * time]))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return int(self._lengths.max())

    @cached_property
    def lengths(self) -> Tensor:
        """The length of each token's document, (batch, time)."""
        return torch.repeat_interleave(self._lengths, self._lengths).view(self.segments.shape)

    @cached_property
    def mask(self) -> Tensor:
        """The mask of all pairs, (batch, 1, time, time), True where attention is allowed."""
        time = self.segments.shape[1]
        index = torch.arange(time, device=self.segments.device)
        first = index - self.positions  # (batch, time): where the token's document begins
        same = first[:, :, None] == first[:, None, :]
        return (same & (index[:, None] >= index[None, :]))[:, None]

    @cached_property
    def groups(self) -> list[Group]:
        """Documents of like length side by side, filled up to the longest of them."""
        lengths, starts = self._lengths.tolist(), self._starts.tolist()
        order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
        groups: list[list[int]] = []
        for number in order:
            if not groups or lengths[number] < ALIKE * lengths[groups[-1][0]]:
                groups.append([])
            groups[-1].append(number)
        found = []
        for group in groups:
            longest = lengths[group[0]]
            step = torch.arange(longest)
            last = torch.tensor([lengths[number] - 1 for number in group])[:, None]
            first = torch.tensor([starts[number] for number in group])[:, None]
            tokens = torch.where(step <= last, first + step, -1).to(self.segments.device)
            found.append(Group(len(group), longest, tokens))
        return found

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the token at each place of all groups, (places), the first one where there is none; the place of each
        token, (tokens); and the places that are filling."""
        token = torch.cat([group.tokens.flatten() for group in self.groups if group.tokens is not None])
        filling = (token < 0).nonzero()[:, 0]
        real = (token >= 0).nonzero()[:, 0]
        place = torch.empty(len(real), dtype=torch.long, device=token.device)
        place[token[real]] = real
        # Filling reads a token: nothing that is real attends to it, because it comes later.
        return token.clamp_min(0), place, filling

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        """Attends within documents.

        Args:
            q: Queries, (batch, time, heads, head_dim).
            k: Keys, (batch, time, kv_heads, head_dim).
            v: Values, like the keys.
            attend: Causal attention over documents side by side.

        Returns:
            (batch, time, heads, head_dim).
        """
        token, place, filling = self._places
        spread = [ops.apply(_Spread, t.flatten(0, 1), token, place) for t in (q, k, v)]  # (places, heads, head_dim)
        outs, start = [], 0
        for group in self.groups:
            documents, length = group.documents, group.length
            end = start + documents * length
            parts = [t[start:end].view(documents, length, *t.shape[1:]) for t in spread]
            outs.append(attend(parts[0], parts[1], parts[2]).reshape(documents * length, *q.shape[2:]))
            start = end
        together = outs[0] if len(outs) == 1 else torch.cat(outs)
        return ops.apply(_Gather, together, token, place, filling).view(q.shape)


class _Spread(torch.autograd.Function):
    """Brings tokens, (tokens, ...), to their places, (places, ...). Filling has no gradient: nothing real reads it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return grad.index_select(0, place), None, None


class _Gather(torch.autograd.Function):
    """Brings what was computed at the places, (places, ...), back to the tokens, (tokens, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, place: Tensor, filling: Tensor) -> Tensor:
        ctx.save_for_backward(token, filling)
        return x.index_select(0, place)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        token, filling = ctx.saved_tensors
        spread = grad.index_select(0, token)
        if len(filling):
            spread.index_fill_(0, filling, 0.0)
        return spread, None, None, None

"""A linear-chain conditional random field over the tags of a sequence (Lafferty et al. 2001)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMPOSSIBLE = -1e4
"""Score of a transition that the tag scheme forbids: finite, so that no gradient becomes not-a-number."""


class LinearChainCRF(nn.Module):
    """Scores of tag after tag, beside the scores that a network gives each position.

    p(y | x) is proportional to exp(start[y_1] + sum_t scores[t, y_t] + sum_t transitions[y_{t-1}, y_t] + end[y_T]).

    Args:
        tags: Number of tags.
        allowed: (tags, tags), whether the second may follow the first; None allows all.
        first: Tags that may begin a sequence, (tags); None allows all.
        last: Tags that may end one, (tags); None allows all.
    """

    forbidden: Tensor
    forbidden_first: Tensor
    forbidden_last: Tensor

    def __init__(
        self, tags: int, allowed: Tensor | None = None, first: Tensor | None = None, last: Tensor | None = None
    ) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(tags, tags))  # (from, to)
        self.start = nn.Parameter(torch.zeros(tags))
        self.end = nn.Parameter(torch.zeros(tags))
        shapes = (
            ("forbidden", allowed, (tags, tags)),
            ("forbidden_first", first, (tags,)),
            ("forbidden_last", last, (tags,)),
        )
        for name, mask, shape in shapes:
            off = torch.zeros(shape) if mask is None else torch.where(mask, 0.0, IMPOSSIBLE)
            self.register_buffer(name, off, persistent=False)

    def _scores(self) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.transitions + self.forbidden,
            self.start + self.forbidden_first,
            self.end + self.forbidden_last,
        )

    def loss_sum(self, scores: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Returns -sum log p(tags | scores) over the sequences, in nats.

        Args:
            scores: (batch, time, tags).
            tags: The right ones, (batch, time); what stands behind the end does not matter.
            mask: True for tokens, (batch, time), each row beginning with them and having at least one.
        """
        transitions, start, end = self._scores()
        scores = scores.float()
        tags = tags.masked_fill(~mask, 0)
        emitted = scores.gather(2, tags[:, :, None])[:, :, 0]  # (batch, time)
        moved = transitions[tags[:, :-1], tags[:, 1:]]  # (batch, time - 1)
        last = tags.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
        right = (emitted * mask).sum(1) + (moved * mask[:, 1:]).sum(1) + start[tags[:, 0]] + end[last]
        alpha = start + scores[:, 0]  # (batch, tags): log of the summed weight of all paths that end so
        for time in range(1, scores.shape[1]):
            longer = torch.logsumexp(alpha[:, :, None] + transitions, dim=1) + scores[:, time]
            alpha = torch.where(mask[:, time, None], longer, alpha)
        return (torch.logsumexp(alpha + end, dim=1) - right).sum()

    @torch.no_grad()
    def best(self, scores: Tensor, lengths: Sequence[int]) -> list[list[int]]:
        """Returns the likeliest tags of each sequence (Viterbi 1967).

        Args:
            scores: (batch, time, tags).
            lengths: Tokens of each sequence, at least one.
        """
        transitions, start, end = self._scores()
        scores = scores.float()
        length = torch.tensor(list(lengths), device=scores.device)
        best = start + scores[:, 0]  # (batch, tags)
        before: list[Tensor] = []
        same = torch.arange(scores.shape[2], device=scores.device).expand_as(best)
        for time in range(1, scores.shape[1]):
            value, origin = (best[:, :, None] + transitions).max(dim=1)
            inside = (time < length)[:, None]
            best = torch.where(inside, value + scores[:, time], best)
            before.append(torch.where(inside, origin, same))
        tag = (best + end).argmax(dim=1)  # (batch)
        path = [tag]
        for origin in reversed(before):
            tag = origin.gather(1, tag[:, None])[:, 0]
            path.append(tag)
        rows = torch.stack(path[::-1], dim=1).tolist()
        return [row[:count] for row, count in zip(rows, lengths, strict=True)]

"""The network behind texts that are written side by side, as the strategies see it: feed a token, reorder the rows.

A strategy (`loop`, `beam`, `contrastive`) knows only `Rows`. Whatever can feed tokens to several rows and bring its
memory into another order, an encoder-decoder for one, is written with by all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from zhixing.models.cache import KVCache
from zhixing.models.decoding import Step, decode_step
from zhixing.models.network import Cache, CausalNetwork


class Rows(Protocol):
    """One row per text under way.

    Attributes:
        logits: For the token behind what was read so far, (rows, vocab).
    """

    logits: Tensor

    def feed(self, tokens: Tensor) -> None:
        """Reads the next token of every row, (rows), and puts the logits behind them into `logits`."""

    def keep(self, rows: Tensor) -> None:
        """Keeps the memory of these rows in this order, (new rows): some may be left out, others come several times.

        `logits` are left as they are; they belong to the rows before.
        """


class Reader(Protocol):
    """Reads prompts."""

    def __call__(self, prompts: Sequence[Sequence[int]], room: int) -> Rows:
        """Returns rows that have read these prompts, one each, with room for so many more tokens."""


def padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Returns token lists as one tensor, (batch, longest), padded on the left, and the padding of each, (batch)."""
    longest = max(map(len, prompts))
    lacking = [longest - len(prompt) for prompt in prompts]
    tokens = torch.tensor([[0] * lack + list(prompt) for lack, prompt in zip(lacking, prompts, strict=True)])
    return tokens.to(device), torch.tensor(lacking, device=device) if any(lacking) else None


class NetworkRows:
    """Rows of a network that predicts the next token, through its cache.

    Args:
        model: The network, in evaluation mode.
        prompts: What is read first, token ids.
        room: Tokens that will follow at most.
        owned: The model's weights may be laid out anew in memory.
        cache: Where a single prompt goes on from; None: a new one.
    """

    def __init__(
        self,
        model: CausalNetwork,
        prompts: Sequence[Sequence[int]],
        room: int,
        owned: bool = False,
        cache: Cache | None = None,
    ) -> None:
        self._model, self._owned = model, owned
        tokens, padding = padded(prompts, model.device)  # what stands in the padding does not matter
        self.cache = cache or model.new_cache(len(prompts), tokens.shape[1] + room, padding)
        self.logits = model.next_logits(tokens, self.cache)
        self._step: Step | None = None
        self._count = len(prompts)

    def feed(self, tokens: Tensor) -> None:
        """See `Rows`."""
        if self._step is None:
            self._step = decode_step(self._model, self.cache, self._owned)
        self.logits = self._step(tokens)

    def keep(self, rows: Tensor) -> None:
        """See `Rows`."""
        if len(rows) > self._count:
            rows = self._spread(rows)
        if len(rows) == self._count:
            if isinstance(self.cache, KVCache) and self.cache.can_reorder(rows):
                self.cache.reorder(rows)
                return
            if torch.equal(rows, torch.arange(len(rows), device=rows.device)):
                return
        self.cache.keep(rows)
        self._count, self._step = len(rows), None

    def _spread(self, rows: Tensor) -> Tensor:
        """Repeats the rows in the cache, which `Cache.keep` does not do; returns where the wanted ones are."""
        wanted = rows.tolist()
        times = max(Counter(wanted).values())
        self.cache.repeat(times)
        seen = [0] * self._count
        places = []
        for row in wanted:
            places.append(row * times + seen[row])
            seen[row] += 1
        self._count, self._step = self._count * times, None
        return torch.tensor(places, device=rows.device)

"""An n-gram model as a network: it reads tokens, predicts the next one, and is measured like any other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.models.loss import IGNORED
from zhixing.models.network import UNBOUNDED, Cache, CausalNetwork
from zhixing.models.ngram.tables import UNKNOWN, Ints, NgramTables

LN10 = math.log(10)


@dataclass(frozen=True, slots=True)
class NgramConfig:
    """The sizes of an n-gram model.

    Attributes:
        vocab_size: Number of tokens.
        order: Length of the longest n-grams.
        counts: How many n-grams of each order there are.
    """

    vocab_size: int
    order: int
    counts: tuple[int, ...]

    @property
    def context(self) -> int:
        """There is no limit: only the last order - 1 tokens are looked at."""
        return UNBOUNDED

    def parameter_count(self) -> int:
        """Returns the number of probabilities and back-off weights."""
        return sum(self.counts) + sum(self.counts[:-1])

    def flops_per_token(self, context: int) -> float:
        """Returns 0: counting multiplies nothing."""
        return 0.0

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""
        return f"order {self.order}, {sum(self.counts):,} n-grams"


class NgramCache:
    """The last tokens of several sequences, as rows of the model's tables.

    Args:
        state: (batch, order - 1); see `NgramTables.fresh`.
        padding: How many of the next tokens of each sequence are padding, (batch), or None.
    """

    def __init__(self, state: Ints, padding: Ints | None = None) -> None:
        self.state, self.padding = state, padding

    def repeat(self, times: int) -> None:
        """Copies every sequence `times` times, side by side."""
        self.state = self.state.repeat(times, axis=0)

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given sequences, in the given order: rows (n) of indices."""
        self.state = self.state[rows.cpu().numpy()]


class NgramNetwork(CausalNetwork):
    """A back-off n-gram model behind the interface of a network. It computes on the CPU, whatever the device.

    Args:
        tables: Its probabilities.
    """

    def __init__(self, tables: NgramTables) -> None:
        super().__init__()
        self.tables = tables
        self._config = NgramConfig(tables.vocab_size, tables.order, tuple(tables.counts))

    @property
    def config(self) -> NgramConfig:
        """Its sizes."""
        return self._config

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> NgramCache:
        """Makes the state of sequences that nothing is known of yet."""
        return NgramCache(self.tables.fresh(batch), None if padding is None else padding.cpu().numpy())

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens, (batch, time); returns ln p of the next one, (batch, vocab), whose softmax is p itself."""
        assert isinstance(cache, NgramCache)
        read = tokens.cpu().numpy()
        if cache.padding is None:
            cache.state = self._behind(read, cache.state)
        else:
            for row, padding in enumerate(cache.padding.tolist()):
                own = slice(row, row + 1)
                cache.state[own] = self._behind(read[own, padding:], cache.state[own])
            cache.padding = None
        return torch.from_numpy(self.tables.distribution(cache.state)).mul_(LN10)

    def _behind(self, tokens: Ints, state: Ints) -> Ints:
        """Returns the state behind tokens, (batch, time)."""
        # What lies further back than the longest context cannot matter.
        tokens = tokens[:, -max(1, self.tables.order - 1) :]
        contexts = self.tables.read(tokens, state)
        return np.stack([rows[:, -1] for rows in contexts], axis=1) if contexts else state

    def losses(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns -ln p of every target, (batch, time), 0 where IGNORED."""
        read, wanted = tokens.cpu().numpy(), targets.cpu().numpy()
        contexts = self.tables.read(read, self.tables.fresh(len(read)))
        if segments is not None:
            self._part(contexts, segments.cpu().numpy())
        kept = wanted != IGNORED
        result = np.zeros(wanted.shape, dtype=np.float32)
        result[kept] = -LN10 * self.tables.score([rows[kept] for rows in contexts], wanted[kept])
        return torch.from_numpy(result)

    def _part(self, contexts: list[Ints], segments: Ints) -> None:
        """Forgets contexts that reach over the beginning of a document."""
        for length, rows in enumerate(contexts[1:], 2):
            earlier = np.full(segments.shape, -1, dtype=segments.dtype)
            earlier[:, length - 1 :] = segments[:, : segments.shape[1] - length + 1]
            rows[earlier != segments] = UNKNOWN

    def loss_sum(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Refuses: an n-gram model is counted, not trained by gradients.

        Raises:
            BadInput: Always.
        """
        raise BadInput(
            "an n-gram model is counted, not trained by gradients", remedy="train it with model.family: ngram"
        )

"""Interpolated modified Kneser-Ney smoothing (Chen & Goodman 1998, section 4.1.5 and equation 26), as KenLM defines it
(Heafield et al. 2013).

    p(w | h) = max(0, a(h w) - D(a(h w))) / sum_v a(h v)  +  gamma(h) p(w | h without its first token)
    gamma(h) = (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / sum_v a(h v)

The adjusted count a is the count for the highest order and for what begins a document; for all other n-grams it is the
number of different tokens before them. The shortest distribution is interpolated with the uniform one, so that every
token of the vocabulary has a probability. Where KenLM has one token <unk> for all that was not seen, here every token
of the vocabulary that was not seen is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.core.files import os_fault
from zhixing.models.ngram.counting import Advance, Counts
from zhixing.models.ngram.tables import Floats, Ints, NgramTables, find

FALLBACK = (0.5, 1.0, 1.5)
"""The discounts of KenLM's --discount_fallback, for orders whose counts of counts give none."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Discounts:
    """What is taken off adjusted counts of 1, 2, and 3 or more.

    Attributes:
        amounts: D1, D2, D3+.
        counts_of_counts: How many n-grams have the adjusted counts 1, 2, 3 and 4.
        problem: Why the fallback was taken, or None.
    """

    amounts: tuple[float, float, float]
    counts_of_counts: tuple[int, int, int, int]
    problem: str | None = None

    @classmethod
    def estimate(cls, counts_of_counts: tuple[int, int, int, int]) -> Discounts:
        """Computes D_k = k - (k + 1) Y n_{k+1} / n_k with Y = n_1 / (n_1 + 2 n_2)."""
        n = counts_of_counts
        for k in (1, 2, 3):
            if not n[k - 1]:
                return cls(FALLBACK, n, f"none has an adjusted count of {k}")
        share = n[0] / (n[0] + 2 * n[1])
        amounts = tuple(k - (k + 1) * share * n[k] / n[k - 1] for k in (1, 2, 3))
        for k, amount in enumerate(amounts, 1):
            if not 0 <= amount <= k:
                return cls(FALLBACK, n, f"the discount of adjusted count {k} would be {amount:.3f}")
        return cls((amounts[0], amounts[1], amounts[2]), n)

    def of(self, counts: Ints) -> Doubles:
        """Returns the discount of each adjusted count."""
        return np.array([0.0, *self.amounts])[np.minimum(counts, 3)]


def smooth(counts: Counts, folder: Path, advance: Advance = lambda *_: None) -> tuple[NgramTables, list[Discounts]]:
    """Turns counts into a model.

    Args:
        counts: From `count_ngrams`.
        folder: For arrays on the way, as large as the counts.
        advance: Called with the n-grams that were worked through, three times each.

    Returns:
        The model (its arrays mapped from `folder`) and the discounts of each order.

    Raises:
        MissingResource: The disk is full, or the folder cannot be written.
    """
    try:
        return _Smoother(counts, folder, advance).run()
    except OSError as error:
        raise os_fault(error, folder, "smoothing an n-gram model") from error


class _Smoother:
    def __init__(self, counts: Counts, folder: Path, advance: Advance) -> None:
        self.counts, self.folder, self.advance = counts, folder, advance
        self.plan = counts.plan
        self.suffixes: list[Ints] = []  # of the orders 2, 3, ...: row of the n-gram without its first token

    def run(self) -> tuple[NgramTables, list[Discounts]]:
        """Does everything, order by order."""
        order = self.plan.order
        for length in range(2, order + 1):
            self.suffixes.append(self._suffix_rows(length))
        adjusted = [self._adjusted(length) for length in range(1, order + 1)]
        discounts = [self._discounts(length, adjusted[length - 1]) for length in range(1, order + 1)]
        log_probabilities, log_backoffs = [], []
        lower = self._unigrams(adjusted[0], discounts[0])
        log_probabilities.append(self._logarithm(lower, "order-1.log_probabilities"))
        for length in range(2, order + 1):
            lower, backoff = self._interpolate(length, adjusted[length - 1], discounts[length - 1], lower)
            log_probabilities.append(self._logarithm(lower, f"order-{length}.log_probabilities"))
            log_backoffs.append(self._logarithm(backoff, f"order-{length - 1}.log_backoffs"))
        tables = NgramTables(self.plan.vocab_size, self.plan.begin, self.counts.keys, log_probabilities, log_backoffs)
        return tables, discounts

    def _new(self, name: str, rows: int, kind: type) -> NDArray[Any]:
        if not rows:
            return np.empty(0, kind)
        return np.memmap(self.folder / name, kind, mode="w+", shape=(rows,))

    def _pieces(self, rows: int) -> Iterator[slice]:
        for start in range(0, rows, self.plan.chunk):
            yield slice(start, min(rows, start + self.plan.chunk))

    def _split(self, length: int, piece: slice) -> tuple[Ints, Ints]:
        """Returns contexts and last tokens of some rows of a table."""
        contexts, tokens = np.divmod(self.counts.keys[length - 2][piece], self.plan.vocab_size)
        return contexts, tokens

    def _suffix_rows(self, length: int) -> Ints:
        keys = self.counts.keys[length - 2]
        result = self._new(f"order-{length}.suffixes", len(keys), np.int64)
        for piece in self._pieces(len(keys)):
            contexts, tokens = self._split(length, piece)
            if length > 2:
                below = self.suffixes[length - 3][contexts]
                tokens = find(self.counts.keys[length - 3], self.plan.vocab_size, below, tokens)
            result[piece] = tokens
            self.advance(len(tokens), f"shorter contexts of {length}-grams")
        return result

    def _begin_rows(self, length: int) -> slice:
        """Returns the rows of a table that begin a document: they stand together, as the order is lexicographic."""
        first, last = self.plan.begin, self.plan.begin + 1
        for keys in self.counts.keys[: length - 1]:
            bounds = np.array([first, last]) * self.plan.vocab_size
            first, last = np.searchsorted(keys, bounds).tolist()
        return slice(first, last)

    def _adjusted(self, length: int) -> Ints:
        counts = self.counts.counts[length - 1]
        if length == self.plan.order:
            return counts
        result = self._new(f"order-{length}.adjusted", len(counts), np.int64)
        suffixes = self.suffixes[length - 1]
        for piece in self._pieces(len(suffixes)):
            rows, times = np.unique(suffixes[piece], return_counts=True)
            result[rows] += times
            self.advance(piece.stop - piece.start, f"adjusted counts of {length}-grams")
        if length > 1:
            begins = self._begin_rows(length)
            result[begins] = counts[begins]
        return result

    def _discounts(self, length: int, adjusted: Ints) -> Discounts:
        tallies = np.zeros(5, dtype=np.int64)
        for piece in self._pieces(len(adjusted)):
            tallies += np.bincount(np.minimum(adjusted[piece], 5), minlength=6)[:5]
        n = tallies.tolist()
        return Discounts.estimate((n[1], n[2], n[3], n[4]))

    def _unigrams(self, adjusted: Ints, discounts: Discounts) -> Doubles:
        """Returns the probabilities of single tokens; that of the beginning alone is never asked for."""
        vocabulary = np.asarray(adjusted[: self.plan.vocab_size])
        total = max(1, int(vocabulary.sum()))
        discount = discounts.of(vocabulary)
        left = float(discount.sum()) / total if vocabulary.any() else 1.0
        result = self._new("order-1.probabilities", len(adjusted), np.float64)
        result[:] = 1.0  # log 0 for a beginning that is no token, as in KenLM's files
        result[: self.plan.vocab_size] = (vocabulary - discount) / total + left / self.plan.vocab_size
        return result

    def _interpolate(
        self, length: int, adjusted: Ints, discounts: Discounts, lower: Doubles
    ) -> tuple[Doubles, Doubles]:
        """Returns the probabilities of one order, and what its contexts leave to shorter ones."""
        totals = self._new(f"order-{length}.totals", len(lower), np.float64)
        left = self._new(f"order-{length - 1}.backoffs", len(lower), np.float64)
        for piece in self._pieces(len(adjusted)):
            contexts, _ = self._split(length, piece)
            base, some = int(contexts[0]), adjusted[piece]
            window = slice(base, int(contexts[-1]) + 1)
            totals[window] += np.bincount(contexts - base, weights=some)
            left[window] += np.bincount(contexts - base, weights=discounts.of(some))
        for piece in self._pieces(len(lower)):
            with np.errstate(invalid="ignore", divide="ignore"):
                share = left[piece] / totals[piece]
            share[np.asarray(totals[piece]) == 0] = 1.0  # not a context of anything: all is left to shorter ones
            left[piece] = share
        result = self._new(f"order-{length}.probabilities", len(adjusted), np.float64)
        for piece in self._pieces(len(adjusted)):
            contexts, _ = self._split(length, piece)
            some = adjusted[piece]
            shorter = lower[self.suffixes[length - 2][piece]]
            result[piece] = (some - discounts.of(some)) / totals[contexts] + left[contexts] * shorter
            self.advance(len(contexts), f"probabilities of {length}-grams")
        return result, left

    def _logarithm(self, values: Doubles, name: str) -> Floats:
        result = self._new(name, len(values), np.float32)
        for piece in self._pieces(len(values)):
            result[piece] = np.log10(values[piece])
        return result

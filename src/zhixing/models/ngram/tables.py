"""The tables of a back-off n-gram model, and how a probability is looked up in them.

The table of order k lists the n-grams of k tokens in lexicographic order. An n-gram is one number, its key: the row of
its first k - 1 tokens in the table of order k - 1, times the vocabulary's size, plus its last token. So a whole array
of n-grams is found by one search per order, and the continuations of a context stand one behind the other.

Probabilities are logarithms to base 10, as in ARPA files. How they come about is in `smoothing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

UNKNOWN = -1
"""The row of an n-gram that is not in its table."""


def find(keys: NDArray[Any], vocab_size: int, contexts: Ints, tokens: NDArray[Any]) -> Ints:
    """Finds n-grams in the table of one order.

    Args:
        keys: The table's keys, ascending.
        vocab_size: What contexts are multiplied by.
        contexts: Rows of the first tokens of each n-gram, (n); UNKNOWN is never found.
        tokens: The last token of each, (n).

    Returns:
        The row of each n-gram, or UNKNOWN, (n).
    """
    rows = np.full(len(contexts), UNKNOWN, dtype=np.int64)
    known = np.flatnonzero(contexts != UNKNOWN)
    if not len(keys) or not len(known):
        return rows
    wanted = contexts[known] * vocab_size + tokens[known]
    # Ascending queries touch the table from front to back: several times faster than jumping through it.
    order = np.argsort(wanted)
    wanted, known = wanted[order], known[order]
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = keys[places] == wanted
    rows[known[found]] = places[found]
    return rows


@dataclass(frozen=True)
class NgramTables:
    """A back-off model over token ids.

    Attributes:
        vocab_size: Tokens that are predicted: the ids below this.
        begin: The row of the beginning of a document in the table of order 1: a token's id, or `vocab_size` where no
            token stands for it. Behind it nothing earlier is seen.
        keys: Keys of the orders 2, 3, ...: one ascending array each.
        log_probabilities: log10 p(last token | first tokens) of the orders 1, 2, ...; order 1 has a row per id.
        log_backoffs: log10 of what a context leaves to shorter ones, of all orders but the highest.
        begin_token: A token that also stands for the beginning, where it is not the one that ends documents.
    """

    vocab_size: int
    begin: int
    keys: Sequence[Ints]
    log_probabilities: Sequence[Floats]
    log_backoffs: Sequence[Floats]
    begin_token: int | None = None

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.log_probabilities)

    @property
    def counts(self) -> list[int]:
        """How many n-grams there are of each order."""
        return [len(table) for table in self.log_probabilities]

    def up_to(self, order: int) -> NgramTables:
        """Returns the model without its n-grams of more than `order` tokens."""
        cut = max(0, order - 1)
        return replace(
            self, keys=self.keys[:cut], log_probabilities=self.log_probabilities[:order],
            log_backoffs=self.log_backoffs[:cut],
        )  # fmt: skip

    def fresh(self, batch: int) -> Ints:
        """Returns the state of sequences that nothing is known of yet, (batch, order - 1).

        Column k - 1 of a state is the row of the last k tokens as a context.
        """
        return np.full((batch, self.order - 1), UNKNOWN, dtype=np.int64)

    def read(self, tokens: NDArray[Any], state: Ints) -> list[Ints]:
        """Returns the contexts behind every token of some sequences.

        Args:
            tokens: (batch, time).
            state: What came before, (batch, order - 1).

        Returns:
            For each context length from 1 to order - 1 the rows, (batch, time).
        """
        batch, time = tokens.shape
        flat = tokens.reshape(-1).astype(np.int64)
        if self.begin_token is not None:
            flat[flat == self.begin_token] = self.begin
        begins = flat == self.begin
        contexts: list[Ints] = []
        rows = flat
        for length in range(1, self.order):
            if length > 1:
                before = np.empty((batch, time), dtype=np.int64)  # the context one token earlier, one token shorter
                before[:, 0] = state[:, length - 2]
                before[:, 1:] = contexts[-1][:, :-1]
                rows = find(self.keys[length - 2], self.vocab_size, before.reshape(-1), flat)
                rows[begins] = UNKNOWN
            contexts.append(rows.reshape(batch, time))
        return contexts

    def score(self, contexts: Sequence[Ints], targets: NDArray[Any]) -> NDArray[np.float64]:
        """Returns log10 p(target | context) of every position.

        p(w | h) is the table's entry where "h w" is in it, else backoff(h) * p(w | h without its first token).

        Args:
            contexts: For each context length from 1 the rows, (n).
            targets: The tokens, (n).
        """
        result: NDArray[np.float64] = self.log_probabilities[0][targets].astype(np.float64)
        for length, rows in enumerate(contexts, 1):
            found = find(self.keys[length - 1], self.vocab_size, rows, targets)
            hit = found != UNKNOWN
            missed = np.flatnonzero(~hit & (rows != UNKNOWN))
            result[hit] = self.log_probabilities[length][found[hit]]
            result[missed] += self.log_backoffs[length - 1][rows[missed]]
        return result

    def distribution(self, state: Ints) -> Floats:
        """Returns log10 p(w | state) of the whole vocabulary, (batch, vocab), for states (batch, order - 1)."""
        result = np.empty((len(state), self.vocab_size), dtype=np.float32)
        for line, contexts in zip(result, state.tolist(), strict=True):
            line[:] = self.log_probabilities[0][: self.vocab_size]
            for length, row in enumerate(contexts, 1):
                if row == UNKNOWN:
                    continue
                keys, first = self.keys[length - 1], row * self.vocab_size
                start, end = np.searchsorted(keys, (first, first + self.vocab_size))
                line += self.log_backoffs[length - 1][row]
                line[keys[start:end] - first] = self.log_probabilities[length][start:end]
        return result

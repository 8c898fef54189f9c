"""Counting n-grams of a corpus that may be larger than memory.

One order after the other: the tokens are read in chunks, each chunk's n-grams are sorted and written as a run, and the
runs are merged. An n-gram is counted by its key (see `tables`), so every order is a sort of plain 64-bit numbers: what
stands in for the first k - 1 tokens is their row in the table of order k - 1, which the pass before has left on disk
for every token.

Every file appears under its name when it is whole, so that counting goes on where it was interrupted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zhixing.core.files import atomic_write, os_fault, read_json
from zhixing.models.ngram.tables import UNKNOWN, Ints, find

BYTES_PER_TOKEN = 64
"""Memory that a token of a chunk takes while it is sorted."""

LEAST_CHUNK = 1 << 12

Advance = Callable[[float, str], None]
"""Told how many tokens were worked through, and what is being done."""


class TokenSource(Protocol):
    """A corpus of token ids, such as `data.shards.TokenStore`."""

    @property
    def documents(self) -> NDArray[np.uint64]:
        """Where each document starts, and at last the number of tokens."""

    def __len__(self) -> int: ...

    def read(self, start: int, count: int) -> NDArray[np.unsignedinteger[Any]]:
        """Returns tokens `start : start + count`."""


@dataclass(frozen=True)
class CountPlan:
    """What is counted, and how much at a time.

    Attributes:
        order: Length of the longest n-grams.
        vocab_size: Tokens have ids below this.
        begin: What stands before a document: a token's id, or `vocab_size`.
        tokens: Length of the corpus.
        chunk: Tokens that are sorted at a time.
    """

    order: int
    vocab_size: int
    begin: int
    tokens: int
    chunk: int

    @classmethod
    def within(cls, memory: int, order: int, vocab_size: int, begin: int | None, tokens: int) -> CountPlan:
        """Plans a count whose buffers take about `memory` bytes."""
        chunk = max(LEAST_CHUNK, memory // BYTES_PER_TOKEN)
        return cls(order, vocab_size, vocab_size if begin is None else begin, tokens, chunk)


@dataclass(frozen=True)
class Counts:
    """All n-grams of a corpus, mapped from disk.

    Attributes:
        plan: What was counted.
        keys: For the orders 2, 3, ...: the keys, ascending.
        counts: For the orders 1, 2, ...: how often each n-gram occurs; order 1 has a row per id, and one for `begin`.
    """

    plan: CountPlan
    keys: list[Ints]
    counts: list[Ints]

    @property
    def unigram_rows(self) -> int:
        """Rows of the table of order 1: a row per id, and one for `begin` where no token stands for it."""
        return max(self.plan.vocab_size, self.plan.begin + 1)


def count_ngrams(source: TokenSource, plan: CountPlan, folder: Path, advance: Advance = lambda *_: None) -> Counts:
    """Counts the n-grams of every order up to the plan's.

    Args:
        source: The corpus.
        plan: What to count.
        folder: For the files of the count; what an interrupted count of the same plan has left there is used.
        advance: Called with tokens done; all in all `passes(plan)` times the corpus.

    Raises:
        MissingResource: The disk is full, or the folder cannot be written.
    """
    try:
        _open_folder(folder, plan)
        counter = _Counter(source, plan, folder, advance)
        keys, counts = [], [counter.unigrams()]
        for order in range(2, plan.order + 1):
            found, times = counter.count(order)
            keys.append(found)
            counts.append(times)
        return Counts(plan, keys, counts)
    except OSError as error:
        raise os_fault(error, folder, "counting n-grams") from error


def passes(plan: CountPlan) -> int:
    """Returns how often `count_ngrams` goes over the corpus, for a progress bar."""
    return 1 + (plan.order - 1) + max(0, plan.order - 2)


def _open_folder(folder: Path, plan: CountPlan) -> None:
    file = folder / "plan.json"
    if file.exists() and read_json(file) == asdict(plan):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    atomic_write(file, json.dumps(asdict(plan)))


class _Counter:
    def __init__(self, source: TokenSource, plan: CountPlan, folder: Path, advance: Advance) -> None:
        self.source, self.plan, self.folder, self.advance = source, plan, folder, advance
        self.starts = range(0, plan.tokens, plan.chunk)

    def unigrams(self) -> Ints:
        """Returns how often each token occurs."""
        file = self.folder / "order-1.counts"
        if not file.exists():
            counts = np.zeros(max(self.plan.vocab_size, self.plan.begin + 1), dtype=np.int64)
            for start in self.starts:
                tokens = self._tokens(start)
                counts += np.bincount(tokens, minlength=len(counts))
                self.advance(len(tokens), "1-grams")
            _write(file, counts)
        return _map(file)

    def count(self, order: int) -> tuple[Ints, Ints]:
        """Counts the n-grams of one order; those of the order below have been counted."""
        keys, counts = self.folder / f"order-{order}.keys", self.folder / f"order-{order}.counts"
        if not counts.exists():
            runs = [self._run(order, index) for index in range(len(self.starts))]
            _merge(runs, keys, counts, self.plan.chunk)
            for run in runs:
                for file in run:
                    file.unlink()
        next_done = order == self.plan.order or (self.folder / f"order-{order + 1}.counts").exists()
        if not next_done and not self._rows_file(order).exists():
            self._place(order, _map(keys))
        (self._rows_file(order - 1)).unlink(missing_ok=True)
        return _map(keys), _map(counts)

    def _run(self, order: int, index: int) -> tuple[Path, Path]:
        """Sorts one chunk's n-grams into a run: its keys and how often each occurs."""
        keys = self.folder / f"order-{order}.run-{index:06d}.keys"
        counts = keys.with_suffix(".counts")
        if not counts.exists():
            found, times = np.unique(self._keys(order, self.starts[index]), return_counts=True)
            known = slice(int(np.searchsorted(found, 0)), None)  # behind UNKNOWN
            _write(keys, found[known])
            _write(counts, times[known].astype(np.int64))
        self.advance(min(self.plan.chunk, self.plan.tokens - self.starts[index]), f"{order}-grams")
        return keys, counts

    def _place(self, order: int, keys: Ints) -> None:
        """Writes down for every token the row of the n-gram that ends with it."""
        file = self._rows_file(order)
        part = file.with_suffix(".part")
        with part.open("wb") as out:
            for start in self.starts:
                contexts, tokens = self._contexts(order, start), self._tokens(start)
                find(keys, self.plan.vocab_size, contexts, tokens).tofile(out)
                self.advance(len(tokens), f"places of {order}-grams")
        part.replace(file)

    def _rows_file(self, order: int) -> Path:
        return self.folder / f"order-{order}.rows"

    def _tokens(self, start: int) -> Ints:
        return self.source.read(start, min(self.plan.chunk, self.plan.tokens - start)).astype(np.int64)

    def _keys(self, order: int, start: int) -> Ints:
        """Returns the key of the n-gram that ends with each token of a chunk; negative where there is none."""
        contexts = self._contexts(order, start)
        keys = contexts * self.plan.vocab_size + self._tokens(start)
        keys[contexts == UNKNOWN] = UNKNOWN
        return keys

    def _contexts(self, order: int, start: int) -> Ints:
        """Returns the row of the order - 1 tokens before each token of a chunk, UNKNOWN where a document has fewer."""
        end = min(self.plan.tokens, start + self.plan.chunk)
        before = max(0, start - 1)
        rows = np.empty(end - start, dtype=np.int64)
        if order == 2:
            earlier: Ints = self.source.read(before, end - 1 - before).astype(np.int64)
        else:
            earlier = np.fromfile(self._rows_file(order - 1), np.int64, end - 1 - before, offset=8 * before)
        rows[len(rows) - len(earlier) :] = earlier
        rows[self._begins(start, end)] = self.plan.begin if order == 2 else UNKNOWN
        return rows

    def _begins(self, start: int, end: int) -> NDArray[np.bool_]:
        """Tells which of the tokens `start : end` are the first of a document."""
        bounds = self.source.documents
        first, last = np.searchsorted(bounds, np.array([start, end], dtype=np.uint64))
        mask = np.zeros(end - start, dtype=bool)
        mask[np.asarray(bounds[first:last], dtype=np.int64) - start] = True
        mask[0] |= start == 0
        mask[1:] |= self._tokens(start)[:-1] == self.plan.begin
        if start:
            mask[0] |= int(self.source.read(start - 1, 1)[0]) == self.plan.begin
        return mask


def _write(file: Path, values: Ints) -> None:
    part = file.with_name(file.name + ".part")
    values.tofile(part)
    part.replace(file)


def _map(file: Path) -> Ints:
    return np.memmap(file, np.int64, mode="r") if file.stat().st_size else np.empty(0, dtype=np.int64)


def _merge(runs: list[tuple[Path, Path]], keys: Path, counts: Path, chunk: int) -> None:
    """Merges sorted runs into one table, adding up the counts of equal keys; the counts' file appears last."""
    key_part, count_part = keys.with_suffix(".keys.part"), counts.with_suffix(".counts.part")
    with key_part.open("wb") as key_file, count_part.open("wb") as count_file:
        for found, times in _merged(runs, max(1, chunk // max(1, len(runs)))):
            found.tofile(key_file)
            times.tofile(count_file)
    key_part.replace(keys)
    count_part.replace(counts)


def _merged(runs: list[tuple[Path, Path]], block: int) -> Iterator[tuple[Ints, Ints]]:
    """Yields ascending pieces of the merged runs, holding one block of each at a time."""
    mapped = [(_map(keys), _map(counts)) for keys, counts in runs]
    at = [0] * len(mapped)
    while any(place < len(keys) for place, (keys, _) in zip(at, mapped, strict=True)):
        # All that is not above the smallest last key of the blocks is complete.
        lasts = [
            int(keys[min(place + block, len(keys)) - 1])
            for place, (keys, _) in zip(at, mapped, strict=True)
            if place < len(keys)
        ]
        horizon = min(lasts)
        key_pieces, count_pieces = [], []
        for index, (keys, counts) in enumerate(mapped):
            part = keys[at[index] : at[index] + block]
            end = at[index] + int(np.searchsorted(part, horizon, "right"))
            key_pieces.append(keys[at[index] : end])
            count_pieces.append(counts[at[index] : end])
            at[index] = end
        joined = np.concatenate(key_pieces)
        order = np.argsort(joined, kind="stable")
        joined, times = joined[order], np.concatenate(count_pieces)[order]
        firsts = np.flatnonzero(np.concatenate(([True], joined[1:] != joined[:-1])))
        yield joined[firsts], np.add.reduceat(times, firsts)

"""Batches of examples of similar length, in random order, exactly resumable. What they hold is `data.examples`'.

An epoch is a pseudo-random permutation of the examples, cut into pools; within a pool the examples are ordered by
length and cut into batches, which are then shuffled. So lengths within a batch are alike (attention wastes nothing, and
padding, where a network needs it, is small), and yet batches are random. All of it follows from the seed, the epoch and
the number of the pool: a state is three numbers, whatever the size of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput
from zhixing.data.batches import key_of, mix, permute
from zhixing.data.examples import Example, ExampleStore

POOL_BATCHES = 50
"""Batches in a pool: more make lengths more alike, fewer make batches more random."""


@dataclass(frozen=True)
class RawBatch:
    """Examples drawn together.

    Attributes:
        examples: The examples.
        key: A number of this batch's own: whatever else is drawn at random for it (which words are hidden) follows
            from it, so that a resumed run draws the same.
    """

    examples: list[Example]
    key: int


class LengthSampler:
    """Draws batches of similar length.

    Args:
        store: The examples.
        seed: Chooses the order.
        batch_size: Examples in a batch; or
        batch_tokens: Tokens in a batch, at most, whatever the lengths; a longer example is a batch of its own.

    Raises:
        BadInput: There are no examples.
    """

    def __init__(
        self, store: ExampleStore, seed: int = 0, *, batch_size: int | None = None, batch_tokens: int | None = None
    ) -> None:
        if not len(store):
            raise BadInput("there are no records to train on", where="data.paths")
        self.store, self.seed, self.batch_size, self.batch_tokens = store, seed, batch_size, batch_tokens
        mean = max(1.0, float(np.mean(store.lengths)))
        typical = batch_size or max(1, int((batch_tokens or 1) / mean))
        self.pool = POOL_BATCHES * typical
        self.epoch = 0
        self.position = 0  # batches of this pool that were given
        self.pools_done = 0
        self._plan: tuple[tuple[int, int], list[NDArray[np.int64]]] | None = None

    def next(self) -> RawBatch:
        """Returns the next batch; there is always one."""
        batches = self._batches(self.epoch, self.pools_done)
        chosen = batches[self.position]
        key = int(key_of(self.seed, self.epoch, self.pools_done, self.position, 3))
        self.position += 1
        if self.position == len(batches):
            self.position, self.pools_done = 0, self.pools_done + 1
            if self.pools_done * self.pool >= len(self.store):
                self.pools_done, self.epoch = 0, self.epoch + 1
        return RawBatch(self.store.take(chosen), key)

    @property
    def epochs_done(self) -> float:
        """How often the records were seen, as a fraction (to the nearest pool)."""
        return self.epoch + min(1.0, self.pools_done * self.pool / len(self.store))

    def batches_in(self, epochs: float) -> int:
        """Returns the number of batches in so many passes over the records, the last one rounded up."""
        whole = int(epochs)
        total = sum(sum(1 for _ in self._epoch(epoch)) for epoch in range(min(whole, 2)))
        if whole > 2:  # epochs differ by a few batches; the first two stand for the rest
            total = round(total / 2 * whole)
        if epochs > whole:
            seen, wanted = 0, (epochs - whole) * len(self.store)
            for batch in self._epoch(whole):
                if seen >= wanted:
                    break
                seen, total = seen + len(batch), total + 1
        return max(1, total)

    def _epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        for pool in range(-(-len(self.store) // self.pool)):
            yield from self._batches(epoch, pool)

    def _batches(self, epoch: int, pool: int) -> list[NDArray[np.int64]]:
        if self._plan is None or self._plan[0] != (epoch, pool):
            batches = self._cut(epoch, pool)
            key = int(key_of(self.seed, epoch, pool, 1))
            order = permute(np.arange(len(batches)), len(batches), key) if len(batches) > 1 else [0]
            self._plan = (epoch, pool), [batches[int(place)] for place in order]
        return self._plan[1]

    def _cut(self, epoch: int, pool: int) -> list[NDArray[np.int64]]:
        """Returns the batches of a pool, by length."""
        count = len(self.store)
        places = np.arange(pool * self.pool, min((pool + 1) * self.pool, count))
        members = permute(places, count, int(key_of(self.seed, epoch, 0))) if count > 1 else places
        lengths = self.store.lengths[members].astype(np.int64)
        # Ties are broken by a hash, so that examples of one length meet others in every epoch.
        ties = mix(members.astype(np.uint64) ^ key_of(self.seed, epoch, pool, 2))
        order = np.lexsort((ties, lengths))
        members, lengths = members[order], lengths[order]
        if self.batch_size is not None:
            return [members[at : at + self.batch_size] for at in range(0, len(members), self.batch_size)]
        assert self.batch_tokens is not None
        cuts, total = [0], 0
        for index, length in enumerate(lengths.tolist()):
            if total and total + length > self.batch_tokens:
                cuts.append(index)
                total = 0
            total += length
        return [members[begin:end] for begin, end in zip(cuts, [*cuts[1:], len(members)], strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Returns where the sampler stands, as plain JSON values."""
        return {
            "epoch": self.epoch, "position": self.position, "pool": self.pools_done, "seed": self.seed,
            "examples": len(self.store), "batch_size": self.batch_size, "batch_tokens": self.batch_tokens,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where `state_dict` was taken.

        Raises:
            BadInput: The state is of other records, another seed or another size of batches.
        """
        mine = self.state_dict()
        for name in ("seed", "examples", "batch_size", "batch_tokens"):
            if state.get(name) != mine[name]:
                raise BadInput(
                    f"the sampler's state has {name} {state.get(name)!r}, this run {mine[name]!r}",
                    remedy="resume with the data and settings that the run was started with",
                )
        self.epoch, self.position, self.pools_done = int(state["epoch"]), int(state["position"]), int(state["pool"])

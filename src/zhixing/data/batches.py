"""Packed batches of token blocks: which blocks, in which order, exactly resumable. Reading the tokens is `shards`'.

Nothing here keeps a list of blocks: the order of an epoch is a pseudo-random permutation that is computed for each
index on its own, so that memory does not grow with the corpus and a state is three numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput, unknown_name
from zhixing.data.shards import TokenStore

IGNORE = -100
"""The target that no loss counts (the `ignore_index` of cross-entropy)."""

Mode = Literal["shuffle", "random"]
MODES: tuple[Mode, ...] = ("shuffle", "random")

_ROUNDS = 6


@dataclass(frozen=True)
class Batch:
    """Blocks of tokens with the tokens that follow them.

    Attributes:
        tokens: The inputs, (batch, block).
        targets: The next token of each input, (batch, block); `IGNORE` where none is to be predicted.
        segments: The number of the document within its block, from 0, (batch, block); None when not asked for.
            Attention within documents is attention between positions of equal number.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    segments: NDArray[np.int64] | None = None

    @property
    def target_count(self) -> int:
        """The number of targets that a loss counts."""
        return int(np.count_nonzero(self.targets != IGNORE))


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scrambles 64-bit numbers, each on its own: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key_of(*parts: int) -> np.uint64:
    """Returns a number that is fixed by these and looks random."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = mix(key ^ np.uint64(part % (1 << 64)))
    return np.uint64(key[0])


def permute(indices: NDArray[np.int64], count: int, key: int) -> NDArray[np.int64]:
    """Maps each index to its place under a pseudo-random permutation of `range(count)`.

    A Feistel network over the next power of four, walked until the value falls below `count` (cycle walking: Black
    and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        indices: Distinct or equal indices below `count`.
        count: The size of the permutation, below 2**62.
        key: Chooses the permutation.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = [np.array([key_of(key, number)]) for number in range(_ROUNDS)]

    def encipher(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> half, values & mask
        for round_key in keys:
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        return (left << half) | right

    values = encipher(indices.astype(np.uint64))
    while len(outside := np.flatnonzero(values >= np.uint64(count))):
        values[outside] = encipher(values[outside])
    return values.astype(np.int64)


class PackedSampler:
    """Draws batches of blocks from a token store, deterministically.

    In mode `shuffle` an epoch visits non-overlapping blocks in random order, each once; where the blocks begin shifts
    from epoch to epoch, so that over time every position is a beginning. In mode `random` every block begins at a
    random token, with replacement. Batches run over the end of an epoch: no block is dropped.

    Args:
        store: The tokens.
        block: The number of inputs in a block (its last target is one token further).
        batch: Blocks per batch, for this process.
        seed: Chooses the order.
        mode: `shuffle` or `random`.
        within_documents: Adds `segments`, and ignores the targets that begin the next document.
        rank: The number of this process among `world` that draw from the same order.
        world: The number of those processes.

    Raises:
        BadInput: The store is too short for one block, or an argument makes no sense.
    """

    def __init__(
        self,
        store: TokenStore,
        block: int,
        batch: int,
        seed: int = 0,
        mode: str = "shuffle",
        *,
        within_documents: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if mode not in MODES:
            raise unknown_name("sampler mode", mode, MODES)
        if block < 1 or batch < 1 or not 0 <= rank < world:
            raise BadInput(f"block ({block}) and batch ({batch}) must be positive, rank ({rank}) below world ({world})")
        if len(store) < block + 1:
            shorter = f", or a context of at most {len(store) - 1} tokens" if len(store) > 2 else ""
            raise BadInput(
                f"the text to train on has {len(store)} tokens, a block of {block} needs {block + 1}",
                remedy=f"give more text{shorter}",
            )
        self.store, self.block, self.batch, self.seed, self.mode = store, block, batch, seed, mode
        self.within_documents, self.rank, self.world = within_documents, rank, world
        self.epoch = 0
        self.position = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self.next()

    def next(self) -> Batch:
        """Returns the next batch; there is always one."""
        mine = slice(self.rank * self.batch, (self.rank + 1) * self.batch)
        return gather(self.store, self._draw(self.batch * self.world)[mine], self.block, self.within_documents)

    def blocks_in_epoch(self, epoch: int) -> int:
        """Returns how many blocks an epoch has (one less, at times, where its phase takes them)."""
        return (len(self.store) - 1 - self._phase(epoch)) // self.block

    @property
    def epochs_done(self) -> float:
        """How often the text was seen, as a fraction."""
        if self.mode == "random":
            return self.position * self.block / len(self.store)
        return self.epoch + self.position / self.blocks_in_epoch(self.epoch)

    def _phase(self, epoch: int) -> int:
        room = min(self.block, len(self.store) - self.block)
        return int(key_of(self.seed, epoch, 1) % np.uint64(room))

    def _draw(self, count: int) -> NDArray[np.int64]:
        """Returns the starts of the next `count` blocks and moves on."""
        if self.mode == "random":
            numbers = np.arange(self.position, self.position + count, dtype=np.uint64)
            self.position += count
            return (mix(numbers ^ key_of(self.seed, 2)) % np.uint64(len(self.store) - self.block)).astype(np.int64)
        starts = []
        while count:
            blocks = self.blocks_in_epoch(self.epoch)
            taken = min(count, blocks - self.position)
            indices = np.arange(self.position, self.position + taken)
            order = permute(indices, blocks, int(key_of(self.seed, self.epoch, 0)))
            starts.append(self._phase(self.epoch) + order * self.block)
            count -= taken
            self.position += taken
            if self.position == blocks:
                self.epoch, self.position = self.epoch + 1, 0
        return np.concatenate(starts)

    def state_dict(self) -> dict[str, Any]:
        """Returns where the sampler stands, as plain JSON values."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "mode": self.mode,
            "block": self.block,
            "tokens": len(self.store),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where `state_dict` was taken. The batch size may be another.

        Raises:
            BadInput: The state is of another corpus, seed, mode or block.
        """
        mine = self.state_dict()
        for name in ("seed", "mode", "block", "tokens"):
            if name in state and state[name] != mine[name]:
                raise BadInput(
                    f"the sampler's state has {name} {state[name]!r}, this run {mine[name]!r}",
                    remedy="resume with the data and settings that the run was started with",
                )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])


def gather(store: TokenStore, starts: NDArray[np.int64], block: int, within_documents: bool = False) -> Batch:
    """Reads the blocks that begin at `starts` as a batch."""
    rows = np.empty((len(starts), block + 1), np.int64)
    for row, start in zip(rows, starts.tolist(), strict=True):
        row[:] = store.read(start, block + 1)
    # Copies: targets may be masked, and must not share memory with the tokens.
    tokens, targets = rows[:, :-1].copy(), rows[:, 1:].copy()
    if not within_documents:
        return Batch(tokens, targets)
    documents = np.stack([store.documents_at(start, block + 1) for start in starts.tolist()])
    # Counted by changes, not by difference of numbers, so that the segments of a block are 0, 1, 2, ...
    changes = documents[:, 1:] != documents[:, :-1]
    targets[changes] = IGNORE
    segments = np.zeros_like(tokens)
    np.cumsum(changes[:, :-1], axis=1, out=segments[:, 1:])
    return Batch(tokens, targets, segments)


def sequential_blocks(
    store: TokenStore,
    block: int,
    stride: int | None = None,
    *,
    batch: int = 1,
    within_documents: bool = False,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Walks through a store from its beginning, so that every token but the first is a counted target exactly once.

    Args:
        store: The tokens.
        block: Tokens per window; a shorter store is one shorter window.
        stride: How far each window moves. Less than `block` gives later targets more context (a sliding window):
            the targets of the overlap are `IGNORE`. None means `block`.
        batch: Windows per batch; the last batch may have fewer.
        within_documents: As for `PackedSampler`.
        limit: Stop after so many tokens of the store.

    Raises:
        BadInput: There is no target, or the stride is not within 1..block.
    """
    stride = block if stride is None else stride
    if not 1 <= stride <= block:
        raise BadInput(f"the stride must be between 1 and the block ({block}), not {stride}")
    targets = (len(store) if limit is None else min(limit, len(store))) - 1
    if targets < 1:
        raise BadInput(f"the text has {len(store)} tokens, at least 2 are needed to measure a model")
    block = min(block, targets)
    starts: list[int] = []
    fresh: list[int] = []
    scored = 0
    while scored < targets:
        # The last window is moved back, so that all windows have the same length.
        start = min(max(0, scored - (block - stride)), targets - block)
        starts.append(start)
        fresh.append(start + block - scored)
        scored = start + block
        if len(starts) == batch or scored == targets:
            found = gather(store, np.asarray(starts), block, within_documents)
            for row, count in zip(found.targets, fresh, strict=True):
                row[: block - count] = IGNORE
            yield found
            starts, fresh = [], []

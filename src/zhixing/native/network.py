"""A network that runs on the C++ core, with the interface of every other causal network."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.models.loss import IGNORED
from zhixing.models.network import Cache, CausalNetwork, NetworkConfig
from zhixing.models.transformer import Transformer
from zhixing.native import library
from zhixing.native.decoder import NativeDecoder
from zhixing.native.plan import Unsupported, transformer_plan
from zhixing.native.runtime import PAGE, Batch, Ints, Pages, Runtime
from zhixing.native.weights import Packing

LOSS_VALUES = 1 << 24
"""Logits that may be in memory together while losses are measured: 64 MiB."""


def why_not(model: CausalNetwork) -> str | None:
    """Returns a sentence that says why a network cannot run on the core, or None when it can."""
    if (missing := library.absence()) is not None:
        return missing
    if not isinstance(model, Transformer):
        return f"the native core has no plan for networks of the kind {type(model).__name__}"
    if model.device.type != "cpu":
        return f"the weights are on {model.device}; the native core computes on CPUs"
    try:
        transformer_plan(model, Packing())
    except Unsupported as error:
        return str(error)
    return None


class NativeCache:
    """The cache of several sequences, each a list of pages.

    Args:
        runtime: The plan that fills it.
        batch: Sequences.
        capacity: Tokens that each may come to, padding included.
        padding: Positions of each sequence that are padding, (batch).
    """

    def __init__(self, runtime: Runtime, batch: int, capacity: int, padding: Tensor | None) -> None:
        self.capacity = capacity
        self.lacking = [0] * batch if padding is None else [int(count) for count in padding.tolist()]
        self.lengths = [0] * batch
        self.tables: list[list[int]] = [[] for _ in range(batch)]
        self._runtime = runtime
        self.pages = Pages(runtime, sum(-(-(capacity - lack) // PAGE) for lack in self.lacking) or 1)

    @property
    def length(self) -> int:
        """Tokens of the longest sequence, padding included. A smaller value forgets what comes behind it."""
        return max(length + lack for length, lack in zip(self.lengths, self.lacking, strict=True))

    @length.setter
    def length(self, length: int) -> None:
        for row, lack in enumerate(self.lacking):
            kept = min(self.lengths[row], max(0, length - lack))
            self.lengths[row] = kept
            while len(self.tables[row]) > -(-kept // PAGE):
                self.pages.drop(self.tables[row].pop())

    def grow(self, capacity: int) -> None:
        """Makes room for sequences of up to `capacity` tokens."""
        if capacity > self.capacity:
            self._resize(capacity, 1)

    def repeat(self, times: int) -> None:
        """Copies every sequence `times` times, side by side; their full pages are shared."""
        if times > 1:
            self._resize(self.capacity, times)
        tables: list[list[int]] = []
        for table in self.tables:
            tables.append(table)
            tables.extend([self.pages.share(page) for page in table] for _ in range(times - 1))
        self.tables = tables
        self.lengths = [length for length in self.lengths for _ in range(times)]
        self.lacking = [lack for lack in self.lacking for _ in range(times)]

    def _resize(self, capacity: int, times: int) -> None:
        """Moves into a cache with pages for `times` copies of every sequence, of up to `capacity` tokens each."""
        used = sorted({page for table in self.tables for page in table})
        new = Pages(self._runtime, times * sum(-(-(capacity - lack) // PAGE) for lack in self.lacking))
        moved = {page: new.take() for page in used}
        new.copy_from(self.pages, used, list(moved.values()))
        taken: set[int] = set()
        for table in self.tables:
            for place, page in enumerate(table):
                table[place] = moved[page] if page not in taken else new.share(moved[page])
                taken.add(page)
        self.pages, self.capacity = new, capacity

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given sequences, in the given order: rows (n) of indices."""
        kept = [int(row) for row in rows.tolist()]
        tables = [[self.pages.share(page) for page in self.tables[row]] for row in kept]
        for table in self.tables:
            for page in table:
                self.pages.drop(page)
        self.tables = tables
        self.lengths, self.lacking = [self.lengths[row] for row in kept], [self.lacking[row] for row in kept]

    def extend(self, row: int, count: int) -> None:
        """Makes room for more tokens of a sequence, in pages that nobody else reads."""
        table, length = self.tables[row], self.lengths[row]
        if length % PAGE and count:
            table[-1] = self.pages.writable(table[-1])
        while len(table) * PAGE < length + count:
            table.append(self.pages.take())

    def table(self) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
        """Returns all page tables, (sequences, longest); what a shorter one lacks is page 0, which is never read."""
        longest = max(1, *(len(table) for table in self.tables))
        out = np.zeros((len(self.tables), longest), np.int32)
        for row, table in enumerate(self.tables):
            out[row, : len(table)] = table
        return out


def pack_decoder(
    model: Transformer, quantize: str | None = None, kv_cache: str | None = None, head: str | None = None
) -> NativeDecoder:
    """Packs a Transformer for the core.

    Args:
        model: The network. Its weights are packed now; later changes are not seen.
        quantize: "q8" or "q4" to quantise matrices that are not; None keeps every value.
        kv_cache: How keys and values are kept; see `Runtime`.
        head: "q4": find the likeliest token by way of a head in 4 bits; see csrc/refine.cpp.

    Raises:
        Unsupported: The network has a feature that the core does not know.
        BadInput: No matrix can be quantised as asked.
        MissingResource: The core is not there, or memory is short.
    """
    slots = Packing(quantize)
    plan = transformer_plan(model, slots, coarse_head=head is not None)
    slots.check()
    return NativeDecoder(model.config, Runtime(plan, kv_cache=kv_cache))


class NativeNetwork(CausalNetwork):
    """A Transformer on the C++ core: its weights packed, its steps in one call each.

    Args:
        model: The network, or a decoder that is packed already; see `pack_decoder` for what is raised.
        quantize: "q8" or "q4" to quantise matrices that are not; None keeps every value.
        kv_cache: How keys and values are kept; see `Runtime`.
        head: "q4": find the likeliest token by way of a head in 4 bits; see csrc/refine.cpp.
    """

    own_threads = True

    def __init__(
        self,
        model: Transformer | NativeDecoder,
        quantize: str | None = None,
        kv_cache: str | None = None,
        head: str | None = None,
    ) -> None:
        super().__init__()
        self.decoder = model if isinstance(model, NativeDecoder) else pack_decoder(model, quantize, kv_cache, head)
        self.runtime = self.decoder.runtime

    @property
    def config(self) -> NetworkConfig:
        """Its sizes."""
        return self.decoder.config

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> NativeCache:
        """Makes an empty cache; see `CausalNetwork.new_cache`."""
        self.runtime.reach(capacity)
        return NativeCache(self.runtime, batch, capacity, padding)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens, (batch, time), behind those in the cache; returns the logits of the next, (batch, vocab)."""
        assert isinstance(cache, NativeCache)
        return self._read(tokens, cache, every=False)

    def every_logits(self, tokens: Tensor) -> Tensor:
        """Reads one sequence, (time), from its beginning; returns the logits behind every token, (time, vocab)."""
        return self._read(tokens[None], self.new_cache(1, len(tokens)), every=True)

    def losses(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the cross-entropy in nats of every position, (batch, time), 0 where IGNORED."""
        if segments is not None:
            raise NotImplementedError("documents that share a row")
        out = torch.zeros(targets.shape)
        for row in range(len(tokens)):
            length = int((targets[row] != IGNORED).nonzero().max()) + 1 if (targets[row] != IGNORED).any() else 0
            cache = self.new_cache(1, max(1, length))
            step = max(1, min(self.runtime.step_tokens, LOSS_VALUES // self.config.vocab_size))
            for first in range(0, length, step):
                last = min(first + step, length)
                logits = self._read(tokens[row : row + 1, first:last], cache, every=True)
                out[row, first:last] = F.cross_entropy(
                    logits, targets[row, first:last], ignore_index=IGNORED, reduction="none"
                )
        return out

    def _read_one(self, tokens: Ints, cache: NativeCache) -> Tensor:
        """Runs one new token of every sequence, (batch); returns (batch, vocab)."""
        rows = np.arange(len(tokens), dtype=np.int32)
        positions = np.array(cache.lengths, np.int32)
        for row in range(len(tokens)):
            cache.extend(row, 1)
            cache.lengths[row] += 1
        self.runtime.reach(max(cache.lengths))
        return torch.from_numpy(self.runtime.step(Batch(tokens, rows, positions, cache.table(), rows), cache.pages))

    def _read(self, tokens: Tensor, cache: NativeCache, every: bool) -> Tensor:
        """Runs all new tokens, as many at a time as a step takes; returns (batch, vocab), or (tokens, vocab)."""
        batch, time = tokens.shape
        new = tokens.to(torch.int32).numpy()
        if time == 1 and batch <= self.runtime.step_tokens and all(cache.lengths):
            return self._read_one(new.reshape(batch), cache)
        ids, rows, positions, last = [], [], [], []
        total = 0
        for row in range(batch):
            skipped = min(time, cache.lacking[row] if cache.lengths[row] == 0 else 0)
            count = time - skipped
            cache.extend(row, count)
            ids.append(new[row, skipped:])
            rows.append(np.full(count, row, np.int32))
            positions.append(np.arange(cache.lengths[row], cache.lengths[row] + count, dtype=np.int32))
            total += count
            last.append(total - 1)
        wanted = np.arange(total, dtype=np.int64) if every else np.array(last, np.int64)
        self.runtime.reach(max(cache.lengths) + time)
        every_id, every_row, every_position = (np.concatenate(part) for part in (ids, rows, positions))
        table = cache.table()
        out = np.empty((len(wanted), self.runtime.output_width), np.float32)
        for first in range(0, total, self.runtime.step_tokens):
            piece = slice(first, min(first + self.runtime.step_tokens, total))
            inside = np.flatnonzero((wanted >= piece.start) & (wanted < piece.stop))
            present, numbered = np.unique(every_row[piece], return_inverse=True)
            self.runtime.step(
                Batch(
                    np.ascontiguousarray(every_id[piece]), numbered.astype(np.int32),
                    np.ascontiguousarray(every_position[piece]), np.ascontiguousarray(table[present]),
                    (wanted[inside] - piece.start).astype(np.int32),
                ),
                cache.pages,
                out[inside[0] : inside[-1] + 1] if len(inside) else out[:0],
            )  # fmt: skip
        for row in range(batch):
            cache.lengths[row] += len(ids[row])
        return torch.from_numpy(out)

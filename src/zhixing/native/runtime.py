"""A plan that can be run: weights in memory, the paged key-value cache, steps."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import MissingResource
from zhixing.native.library import check, library
from zhixing.native.packing import Floats, address
from zhixing.native.program import Program

if TYPE_CHECKING:
    from zhixing.native.plan import Plan

PAGE = 16
"""Tokens in a page of the cache."""

KV_CACHES = {"f16": 0, "q8": 1, "f32": 2}
"""How keys and values can be kept; the numbers are those of csrc/kernels.h."""

HEADS = ("q4",)
"""How the likeliest token can be found, besides by the head itself; see csrc/refine.cpp."""

STEP_TOKENS = 128
"""Tokens that one step takes: enough that reading the weights costs little beside the arithmetic."""

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """What a step reads.

    Attributes:
        tokens: Token ids, (tokens); those of one sequence together, in order.
        sequences: Which sequence each token belongs to, (tokens).
        positions: The place of each token in its sequence, (tokens).
        pages: The cache's pages of every sequence, (sequences, pages).
        wanted: The tokens whose output is wanted, (outputs).
    """

    tokens: Ints
    sequences: Ints
    positions: Ints
    pages: Ints
    wanted: Ints


@dataclass(frozen=True)
class Sources:
    """What sequences read besides themselves: keys and values that another plan has stored.

    Attributes:
        pages: The cache that they are in.
        table: Its pages of every source, (sources, pages).
        lengths: Tokens of every source, (sources).
    """

    pages: Pages
    table: Ints
    lengths: Ints


class Pages:
    """A cache of keys and values, in pages that sequences share by reference counts.

    Args:
        runtime: The plan that it belongs to.
        count: Pages.
    """

    def __init__(self, runtime: Runtime, count: int) -> None:
        self.handle = library().zx_cache_new(runtime.handle, count, KV_CACHES[runtime.kv_cache])
        if not self.handle:
            raise MissingResource(f"{library().zx_error().decode()} ({count} pages of {runtime.page_bytes} bytes)")
        self._finalizer = weakref.finalize(self, library().zx_cache_free, self.handle)
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count

    @property
    def free(self) -> int:
        """Pages that nobody uses."""
        return len(self._free)

    def take(self) -> int:
        """Returns a page that nobody uses.

        Raises:
            MissingResource: There is none.
        """
        if not self._free:
            raise MissingResource("the key-value cache is full")
        page = self._free.pop()
        self._users[page] = 1
        return page

    def share(self, page: int) -> int:
        """Adds a user to a page, and returns it."""
        self._users[page] += 1
        return page

    def drop(self, page: int) -> None:
        """Takes a user from a page; the last one frees it."""
        self._users[page] -= 1
        if self._users[page] == 0:
            self._free.append(page)

    def copy_from(self, other: Pages, pages: Sequence[int], to: Sequence[int]) -> None:
        """Copies pages of another cache of the same plan."""
        if not pages:
            return
        source, target = np.array(pages, np.int32), np.array(to, np.int32)
        check(library().zx_cache_copy_pages(other.handle, self.handle, len(source), address(source), address(target)))

    def writable(self, page: int) -> int:
        """Returns the page itself when it has one user, else a copy that replaces it for this user."""
        if self._users[page] == 1:
            return page
        copy = self.take()
        check(library().zx_cache_copy(self.handle, self.handle, page, copy))
        self.drop(page)
        return copy

    def writable_all(self, pages: Sequence[int]) -> list[int]:
        """Does the same for several users at once, each of one page: returns what each writes to."""
        mine: list[int] = []
        copied: list[int] = []
        copies: list[int] = []
        for page in pages:
            if self._users[page] > 1:
                self._users[page] -= 1
                copied.append(page)
                page = self.take()
                copies.append(page)
            mine.append(page)
        self.copy_from(self, copied, copies)
        return mine


class Runtime:
    """A plan with its weights in memory.

    Args:
        plan: What to run: a plan, which is packed now, or a program, which is packed already.
        step_tokens: Most tokens of one step; a program knows its own.
        kv_cache: How keys and values are kept, one of `KV_CACHES`. None: in half precision where a matrix is quantised,
            whose rounding is far coarser; else as exactly as all else is computed.

    Attributes:
        kv_cache: How they are kept.
        page_bytes: Bytes of a page of the cache.

    Raises:
        MissingResource: There is not enough memory.
    """

    def __init__(self, plan: Plan | Program, step_tokens: int = STEP_TOKENS, kv_cache: str | None = None) -> None:
        if isinstance(plan, Program):
            program = plan
        else:
            from zhixing.native.weights import pack  # looks at tensors

            program = pack(plan, step_tokens)
        self.program, self.step_tokens = program, program.step_tokens
        self.weight_bytes = program.memory.nbytes
        self.output_width = program.output_width
        self._turned: list[tuple[Floats, Floats]] = []
        self._reach = 0
        numbers, factors, memory = program.numbers, program.factors, program.memory
        self.handle = library().zx_model_new(
            address(numbers), len(numbers), address(factors), len(factors), address(memory), memory.nbytes
        )
        if not self.handle:
            raise ValueError(f"the plan was refused: {library().zx_error().decode()}")
        self._finalizer = weakref.finalize(self, library().zx_model_free, self.handle)
        self.kv_cache = kv_cache or ("f16" if any(kind.quantised for kind in program.kinds) else "f32")
        self.page_bytes: int = library().zx_page_bytes(self.handle, KV_CACHES[self.kv_cache])

    def reach(self, length: int) -> None:
        """Sees to it that positions below `length` can be rotated."""
        if length <= self._reach or not self.program.turnings:
            return
        length = max(length, 2 * self._reach, 256)
        turned = []
        for number, turning in enumerate(self.program.turnings):
            cos, sin = turning.table(length)
            check(library().zx_model_table(self.handle, number, address(cos), address(sin), length))
            turned.append((cos, sin))
        self._turned, self._reach = turned, length  # kept: the core reads them where they are

    def step(self, batch: Batch, pages: Pages, out: Floats | None = None) -> Floats:
        """Runs one step; returns the outputs that were wanted, (outputs, width of the output).

        Raises:
            ValueError: The batch is not in order; the text says how.
        """
        out = np.empty((len(batch.wanted), self.output_width), np.float32) if out is None else out
        check(
            library().zx_step(
                self.handle, pages.handle, len(batch.tokens), address(batch.tokens), None, address(batch.sequences),
                address(batch.positions), len(batch.pages), address(batch.pages), batch.pages.shape[1],
                len(batch.wanted), address(batch.wanted), address(out),
            )
        )  # fmt: skip
        return out

    def step_reading(self, batch: Batch, pages: Pages, sources: Sources, owners: Ints, out: Floats) -> Floats:
        """Runs one step of sequences that read sources; returns `out`.

        Args:
            batch: The step.
            pages: The cache of the sequences.
            sources: What they read.
            owners: Which source each sequence reads, (sequences).
            out: Where the outputs go, (outputs, width of the output).

        Raises:
            ValueError: The batch is not in order; the text says how.
        """
        check(
            library().zx_step_reading(
                self.handle, pages.handle, sources.pages.handle, len(batch.tokens), address(batch.tokens),
                address(batch.sequences), address(batch.positions), len(batch.pages), address(batch.pages),
                batch.pages.shape[1], len(batch.wanted), address(batch.wanted), address(out), len(sources.lengths),
                address(owners), address(sources.lengths), address(sources.table), sources.table.shape[1],
            )
        )  # fmt: skip
        return out


def whole_sequences(tokens: Ints, lengths: NDArray[np.int64], wanted: Ints, first_page: int = 0) -> Batch:
    """Returns the step that reads whole sequences, laid end to end, into pages one behind the other.

    Args:
        tokens: Token ids, (total).
        lengths: Of each sequence, (sequences).
        wanted: The tokens whose vectors are wanted, (outputs).
        first_page: Where the pages begin.
    """
    sequences = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    starts = np.cumsum(lengths) - lengths
    needed = -(-lengths // PAGE)
    before = np.cumsum(needed) - needed + first_page
    # What a shorter sequence lacks is page 0, which is never read.
    place = np.arange(needed.max())
    pages = np.where(place < needed[:, None], before[:, None] + place, 0).astype(np.int32)
    positions = (np.arange(len(tokens)) - starts[sequences]).astype(np.int32)
    return Batch(np.ascontiguousarray(tokens), sequences, positions, pages, wanted)


def pieces(total: int, size: int) -> Sequence[tuple[int, int]]:
    """Cuts a number of tokens into pieces of at most `size`."""
    return [(first, min(first + size, total)) for first in range(0, total, size)]

"""Steps of one cache, in memory that is there once: what the engine runs for every token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from zhixing.native.choosing import Setting
from zhixing.native.library import check, library
from zhixing.native.packing import Floats, address
from zhixing.native.runtime import Pages, Runtime


class Reading(NamedTuple):
    """What a step reads.

    Attributes:
        ids: Token ids, (tokens); those of one sequence together, in order.
        sequences: Which sequence each token belongs to, (tokens).
        positions: The place of each token in its sequence, (tokens).
        tables: The cache's pages of every sequence.
        wanted: The tokens whose output is wanted, (outputs).
    """

    ids: Sequence[int]
    sequences: Sequence[int]
    positions: Sequence[int]
    tables: Sequence[Sequence[int]]
    wanted: Sequence[int]


class Steps:
    """Runs steps with a cache of its own.

    Args:
        runtime: The plan.
        pages: The cache.
    """

    def __init__(self, runtime: Runtime, pages: Pages) -> None:
        self._runtime, self._pages = runtime, pages
        self._step, self._write = library().zx_step, library().zx_write
        self._ids, self._owners, self._places, self._wanted = np.empty((4, runtime.step_tokens), np.int32)
        self._at = [address(array) for array in (self._ids, self._owners, self._places, self._wanted)]
        self._tables = np.zeros((0, 0), np.int32)
        self._out = np.empty((0, runtime.output_width), np.float32)

    def run(self, reading: Reading) -> Floats:
        """Runs one step.

        Returns:
            The outputs that were wanted, (outputs, width); the next step overwrites them.
        """
        count, rows = self._place(reading, 1)
        numbers, owners, places, outputs = self._at
        check(
            self._step(
                self._runtime.handle, self._pages.handle, count, numbers, None, owners, places, len(reading.tables),
                address(self._tables), self._tables.shape[1], rows, outputs, address(self._out),
            )
        )  # fmt: skip
        return self._out[:rows]

    def write(self, reading: Reading, settings: Sequence[Sequence[Setting]], ends: Collection[int]) -> list[list[int]]:
        """Runs steps of which each reads the tokens that were chosen behind the one before.

        Args:
            reading: The first step; one that others follow is of one token of every sequence, whose output is wanted.
            settings: How to choose, (steps, outputs).
            ends: When every sequence has chosen one of these, no further step is run.

        Returns:
            Tokens, (steps that were run, outputs); -1 where logits are not numbers.
        """
        count, rows = self._place(reading, len(settings))
        given = np.array(settings, np.float64)  # (steps, outputs, 5)
        last = np.fromiter(ends, np.int32, len(ends))
        chosen = np.empty((len(settings), rows), np.int32)
        numbers, owners, places, outputs = self._at
        done = check(
            self._write(
                self._runtime.handle, self._pages.handle, count, numbers, owners, places, len(reading.tables),
                address(self._tables), self._tables.shape[1], rows, outputs, address(self._out), len(settings),
                address(given), address(last), len(last), address(chosen),
            )
        )  # fmt: skip
        found: list[list[int]] = chosen[:done].tolist()
        return found

    def _place(self, reading: Reading, steps: int) -> tuple[int, int]:
        """Puts a step where the core reads it; returns its tokens and outputs."""
        ids, sequences, positions, tables, wanted = reading
        count, rows = len(ids), len(wanted)
        self._ids[:count], self._owners[:count], self._places[:count] = ids, sequences, positions
        self._wanted[:rows] = wanted
        self._runtime.reach(max(positions) + steps)
        longest = max(map(len, tables))
        if len(tables) > self._tables.shape[0] or longest > self._tables.shape[1]:
            shape = max(len(tables), self._tables.shape[0]), max(longest + 16, self._tables.shape[1])
            self._tables = np.zeros(shape, np.int32)
        for number, table in enumerate(tables):
            self._tables[number, : len(table)] = table  # what lies behind is another's, and never read
        if rows > len(self._out):
            self._out = np.empty((rows, self._runtime.output_width), np.float32)
        return count, rows

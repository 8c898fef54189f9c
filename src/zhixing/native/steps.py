"""Steps of one cache, in memory that is there once: what the engine runs for every token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zhixing.native.library import check, library
from zhixing.native.packing import Floats, address
from zhixing.native.runtime import Pages, Runtime


class Steps:
    """Runs steps with a cache of its own.

    Args:
        runtime: The plan.
        pages: The cache.
    """

    def __init__(self, runtime: Runtime, pages: Pages) -> None:
        self._runtime, self._pages = runtime, pages
        self._call = library().zx_step
        self._ids, self._owners, self._places, self._wanted = np.empty((4, runtime.step_tokens), np.int32)
        self._at = [address(array) for array in (self._ids, self._owners, self._places, self._wanted)]
        self._tables = np.zeros((0, 0), np.int32)
        self._out = np.empty((0, runtime.output_width), np.float32)

    def run(
        self,
        ids: Sequence[int],
        sequences: Sequence[int],
        positions: Sequence[int],
        tables: Sequence[Sequence[int]],
        wanted: Sequence[int],
    ) -> Floats:
        """Runs one step; see `runtime.Batch` for the arguments, of which `tables` are the pages of each sequence.

        Returns:
            The outputs that were wanted, (outputs, width); the next step overwrites them.
        """
        count, rows = len(ids), len(wanted)
        self._ids[:count], self._owners[:count], self._places[:count] = ids, sequences, positions
        self._wanted[:rows] = wanted
        self._runtime.reach(max(positions) + 1)
        longest = max(map(len, tables))
        if len(tables) > self._tables.shape[0] or longest > self._tables.shape[1]:
            shape = max(len(tables), self._tables.shape[0]), max(longest + 16, self._tables.shape[1])
            self._tables = np.zeros(shape, np.int32)
        for number, table in enumerate(tables):
            self._tables[number, : len(table)] = table  # what lies behind is another's, and never read
        if rows > len(self._out):
            self._out = np.empty((rows, self._runtime.output_width), np.float32)
        numbers, owners, places, outputs = self._at
        check(
            self._call(
                self._runtime.handle, self._pages.handle, count, numbers, None, owners, places, len(tables),
                address(self._tables), self._tables.shape[1], rows, outputs, address(self._out),
            )
        )  # fmt: skip
        return self._out[:rows]

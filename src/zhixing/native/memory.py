"""Memory for packed weights: in huge pages where the system gives them."""

from __future__ import annotations

import ctypes
import weakref

import numpy as np

from zhixing.core.errors import MissingResource
from zhixing.core.progress import human_bytes
from zhixing.native.library import library
from zhixing.native.packing import Bytes


class HugeMemory:
    """Memory in huge pages where the system gives them; freed with the last array that looks at it.

    Raises:
        MissingResource: There is not so much.
    """

    def __init__(self, size: int) -> None:
        handle = library().zx_memory_new(size)
        if not handle:
            raise MissingResource(f"not enough memory for {human_bytes(size)} of packed weights")
        place = library().zx_memory_at(handle)
        holder = (ctypes.c_uint8 * size).from_address(place)
        weakref.finalize(holder, library().zx_memory_free, handle)
        self.bytes: Bytes = np.frombuffer(memoryview(holder).cast("B"), np.uint8)

"""The roofs of this machine, as the core sees them: how fast memory is read, how fast matrices are multiplied."""

from __future__ import annotations

import time

import numpy as np

from zhixing.native.library import library
from zhixing.native.packing import Kind, Packed, pack_float

MEMORY = 1 << 28
"""Bytes that are read: more than caches hold."""

SIDE, TOKENS = 1024, 128


def read_bandwidth(rounds: int = 8) -> float:
    """Returns the highest rate at which all threads together read memory, in bytes per second; about 0.1 s."""
    rate: float = library().zx_bandwidth(MEMORY, rounds)
    return rate


def product_rate(kind: Kind, rounds: int = 8) -> float:
    """Returns the highest rate of products with matrices of one kind, in multiply-adds per second, for many tokens."""
    random = np.random.default_rng(0)
    packed: Packed = pack_float(kind, random.normal(size=(SIDE, SIDE)).astype(np.float32))
    x = random.normal(size=(TOKENS, SIDE)).astype(np.float32)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        packed.product(x)
        seconds.append(time.perf_counter() - start)
    return SIDE * SIDE * TOKENS / min(seconds)

"""Running one step of the scheduler: on the C++ core in one call, or with PyTorch, sequence by sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from zhixing.generation.engine.request import Request
from zhixing.generation.engine.scheduler import Piece
from zhixing.models.decoding import Step, decode_step
from zhixing.models.network import Cache, CausalNetwork
from zhixing.native.network import NativeNetwork
from zhixing.native.runtime import PAGE, Batch, Pages

TORCH_BLOCK, TORCH_STEP = 16, 512
"""Where PyTorch computes, blocks only count memory: each sequence has a cache of its own."""


class Worker(Protocol):
    """Runs steps.

    Attributes:
        block: Tokens of a block.
        step_tokens: Most tokens of a step.
        shares: Whether blocks that hold the same can be one.
    """

    block: int
    step_tokens: int
    shares: bool

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """Reads the pieces; returns the logits behind those that are whole, in their order, (whole, vocab)."""

    def forget(self, requests: Iterable[Request]) -> None:
        """Lets go of whatever is kept of requests outside of their blocks."""


class NativeWorker:
    """The C++ core: all pieces in one call, keys and values in pages that are the scheduler's blocks.

    Args:
        network: The network.
        blocks: Blocks of the cache.
    """

    block, shares = PAGE, True

    def __init__(self, network: NativeNetwork, blocks: int) -> None:
        self._runtime = network.runtime
        self.step_tokens = self._runtime.step_tokens
        self._pages = Pages(self._runtime, blocks)

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """See `Worker`."""
        ids: list[int] = []
        sequences: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        table = np.zeros((len(pieces), max(len(piece.request.blocks) for piece in pieces)), np.int32)
        for number, piece in enumerate(pieces):
            request, first = piece.request, piece.request.read
            ids += request.tokens[first : first + piece.count]
            positions += range(first, first + piece.count)
            sequences += [number] * piece.count
            table[number, : len(request.blocks)] = request.blocks
            if piece.last:
                wanted.append(len(ids) - 1)
        self._runtime.reach(max(positions) + 1)
        read, owners, places, last = (np.array(part, np.int32) for part in (ids, sequences, positions, wanted))
        batch = Batch(read, owners, places, table, last)
        return torch.from_numpy(self._runtime.step(batch, self._pages))

    def forget(self, requests: Iterable[Request]) -> None:
        """See `Worker`. Everything is in blocks."""


class TorchWorker:
    """PyTorch's modules: each request has a cache of its own, and its pieces are read by themselves.

    Args:
        model: The network.
        owned: Its weights may be laid out anew in memory.
    """

    block, step_tokens, shares = TORCH_BLOCK, TORCH_STEP, False

    def __init__(self, model: CausalNetwork, owned: bool) -> None:
        self._model, self._owned = model, owned
        self._caches: dict[int, Cache] = {}
        self._steps: dict[int, Step] = {}

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """See `Worker`."""
        rows = [self._read(piece) for piece in pieces]
        whole = [row for row, piece in zip(rows, pieces, strict=True) if piece.last]
        return torch.cat(whole) if whole else rows[0][:0]

    def _read(self, piece: Piece) -> Tensor:
        request, key = piece.request, id(piece.request)
        if key not in self._caches:
            self._caches[key] = self._model.new_cache(1, request.longest)
        cache, device = self._caches[key], self._model.device
        tokens = torch.tensor([request.tokens[request.read : request.read + piece.count]], device=device)
        if piece.count > 1 or request.read == 0:
            return self._model.next_logits(tokens, cache)
        if key not in self._steps:
            self._steps[key] = decode_step(self._model, cache, self._owned)
        return self._steps[key](tokens[0])

    def forget(self, requests: Iterable[Request]) -> None:
        """See `Worker`."""
        for request in requests:
            self._caches.pop(id(request), None)
            self._steps.pop(id(request), None)

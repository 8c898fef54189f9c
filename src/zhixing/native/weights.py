"""Packing a network's weights into one block of memory, in the order in which a step reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.native.memory import HugeMemory
from zhixing.native.packing import (
    QUANTISERS,
    Bytes,
    Kind,
    Packed,
    ggml_kind,
    pack_coarse,
    pack_float,
    pack_ggml,
    packed_bytes,
)
from zhixing.native.plan import MatrixSlot, Plan, Unsupported
from zhixing.native.program import Program

ALIGNMENT = 4096
ROWS_AT_ONCE = 4096
"""Rows of a float matrix that are converted at a time: what is packed must not be in memory twice."""


def stored_parts(weight: Tensor) -> Sequence[Any] | None:
    """Returns the blocks of a matrix that is kept as a GGUF file has it (see `models.quantized`), else None."""
    parts = getattr(weight, "parts", None)
    return parts if isinstance(parts, tuple) else None


class Packing:
    """Decides how each matrix is packed, once for every matrix.

    Args:
        quantize: "q8" or "q4": quantise matrices that are not quantised yet; None keeps every value.
    """

    def __init__(self, quantize: str | None = None) -> None:
        self._quantize = quantize
        self._slots: dict[int, MatrixSlot] = {}

    def __call__(self, weight: Tensor) -> MatrixSlot:
        """Returns the slot of a matrix.

        Raises:
            Unsupported: It is stored in a way that is not repacked.
        """
        if id(weight) not in self._slots:
            kind = kind_for(weight, self._quantize)
            self._slots[id(weight)] = MatrixSlot(weight, kind, weight.shape[0], weight.shape[1])
        return self._slots[id(weight)]

    def check(self) -> None:
        """Sees that what was asked for was done, when all matrices have their slots.

        Raises:
            BadInput: No matrix is quantised, though that was asked for.
        """
        if self._quantize is None or any(slot.kind.quantised for slot in self._slots.values()):
            return
        multiple, columns = QUANTISERS[self._quantize].multiple, sorted({slot.cols for slot in self._slots.values()})
        raise BadInput(
            f"{self._quantize} takes rows of a multiple of {multiple} numbers; this model's matrices have rows of "
            + ", ".join(map(str, columns[:5])),
            remedy="leave out --quantize",
        )


def kind_for(weight: Tensor, quantize: str | None) -> Kind:
    """Returns how a matrix is packed: its own blocks; else quantised as asked; else the smallest exact float type.

    Raises:
        Unsupported: It is stored in a way that is not repacked.
    """
    parts = stored_parts(weight)
    if parts is not None:
        kinds = {part.kind.number for part in parts}
        kind = ggml_kind(kinds.pop()) if len(kinds) == 1 else None
        if kind is None or getattr(weight, "transposed", False):
            raise Unsupported(f"a matrix stored as {'+'.join(sorted({part.kind.name for part in parts}))}")
        return kind
    if weight.dim() != 2 or not weight.is_floating_point():
        raise Unsupported(f"a weight of shape {tuple(weight.shape)} and type {weight.dtype}")
    if quantize is not None:
        if quantize not in QUANTISERS:
            raise BadInput(f"no quantisation {quantize!r}", remedy=f"use {' or '.join(QUANTISERS)}")
        if weight.shape[1] % QUANTISERS[quantize].multiple == 0:
            return QUANTISERS[quantize]
    return _exact_kind(weight.detach())


def _exact_kind(weight: Tensor) -> Kind:
    """Returns the smallest float type that holds every value exactly."""
    if weight.dtype == torch.bfloat16:
        return Kind.BF16
    if weight.dtype == torch.float16:
        return Kind.F16
    for kind, dtype in ((Kind.BF16, torch.bfloat16), (Kind.F16, torch.float16)):
        pieces = (weight[first : first + ROWS_AT_ONCE] for first in range(0, len(weight), ROWS_AT_ONCE))
        if all(torch.equal(piece.to(dtype).float(), piece.float()) for piece in pieces):
            return kind
    return Kind.F32


def pack(plan: Plan, step_tokens: int) -> Program:
    """Packs all weights of a plan.

    Raises:
        MissingResource: There is not enough memory.
    """
    matrices, vectors, size = layout(plan)
    memory = HugeMemory(size).bytes
    fill(plan, matrices, vectors, memory)
    numbers, factors = plan.encode(matrices, vectors, step_tokens)
    kinds = frozenset(slot.kind for slot in plan.matrices if slot.exact is None)
    heads = [plan.matrices[slot.exact] for slot in plan.matrices if slot.exact is not None]
    spared = sum(packed_bytes(head.kind, head.rows, head.cols) for head in heads)
    return Program(numbers, factors, memory, tuple(plan.tables), kinds, plan.buffers[plan.output], spared)


def layout(plan: Plan) -> tuple[list[int], list[int], int]:
    """Returns where each matrix and each vector goes, and the size of the whole."""
    at = 0
    matrices: list[int] = []
    vectors: list[int] = []
    for slot in plan.matrices:
        matrices.append(at)
        at += -(-packed_bytes(slot.kind, slot.rows, slot.cols) // 64) * 64
    at = -(-at // ALIGNMENT) * ALIGNMENT
    for vector in plan.vectors:
        vectors.append(at)
        at += -(-vector.nbytes // 64) * 64
    return matrices, vectors, max(at, 64)


def fill(plan: Plan, matrices: Sequence[int], vectors: Sequence[int], memory: Bytes) -> None:
    """Packs all weights of a plan into memory, at the given places."""
    packed: list[Packed] = []
    for slot, place in zip(plan.matrices, matrices, strict=True):
        out = memory[place : place + packed_bytes(slot.kind, slot.rows, slot.cols)]
        packed.append(Packed(slot.kind, slot.rows, slot.cols, out))
        if slot.exact is None:
            _pack(slot, out)
    for vector, place in zip(plan.vectors, vectors, strict=True):
        memory[place : place + vector.nbytes] = vector.view(np.uint8)
    for number, vector_number in plan.bounds.items():
        exact, place = plan.matrices[number].exact, vectors[vector_number]
        assert exact is not None
        bounds = memory[place : place + plan.vectors[vector_number].nbytes].view(np.float32)
        pack_coarse(packed[exact], packed[number].data, bounds)


def _pack(slot: MatrixSlot, out: Bytes) -> None:
    parts = stored_parts(slot.weight)
    if parts is not None:
        blocks = [np.ascontiguousarray(part.rows.numpy()) for part in parts]
        whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        pack_ggml(parts[0].kind.number, whole, slot.rows, slot.cols, out=out)
        return
    weight = slot.weight.detach()
    step = ROWS_AT_ONCE  # a multiple of the rows of a panel, so that pieces lie behind one another
    for first in range(0, slot.rows, step):
        piece: NDArray[np.float32] = weight[first : first + step].float().numpy()
        before = packed_bytes(slot.kind, first, slot.cols) if first else 0
        here = packed_bytes(slot.kind, len(piece), slot.cols)
        pack_float(slot.kind, piece, out=out[before : before + here])

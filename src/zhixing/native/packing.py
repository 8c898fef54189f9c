"""Packed matrices: what the kernels multiply by.

A packed matrix is made from the blocks of a GGUF file without loss, or from float values, kept as they are or
quantised. The layout is described in `csrc/formats.h`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.native.library import check, library

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Kind(IntEnum):
    """How the values of a packed matrix are stored; the numbers are those of csrc/formats.h."""

    F32 = 0
    F16 = 1
    BF16 = 2
    B4S = 3
    B4M = 4
    B5S = 5
    B5M = 6
    B8S = 7
    B4K = 8
    B5K = 9
    B6K = 10
    B4L = 11

    @property
    def quantised(self) -> bool:
        """Whether the values are small integers with scales; then activations are rounded to 8 bits as well."""
        return self > Kind.BF16

    @property
    def label(self) -> str:
        """The name that people know: GGUF's, where there is one."""
        return LABELS.get(self, self.name)

    @property
    def multiple(self) -> int:
        """The number that columns must be a multiple of."""
        return 256 if self in (Kind.B4K, Kind.B5K, Kind.B6K) else 32 if self.quantised else 1


COARSE = Kind.B4M
"""What approximates a head."""

QUANTISERS = {"q8": Kind.B8S, "q4": Kind.B4M}
"""What matrices can be quantised to on request."""

LABELS = {
    Kind.B4S: "Q4_0", Kind.B4M: "Q4_1", Kind.B5S: "Q5_0", Kind.B5M: "Q5_1", Kind.B8S: "Q8_0", Kind.B4K: "Q4_K",
    Kind.B5K: "Q5_K", Kind.B6K: "Q6_K", Kind.B4L: "IQ4_NL",
}  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """A packed matrix of `rows` x `cols`; it maps rows of `cols` activations to `rows` results."""

    kind: Kind
    rows: int
    cols: int
    data: Bytes

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.data.nbytes

    def unpack(self, first: int = 0, count: int | None = None) -> Floats:
        """Returns rows as float32, (count, cols): exactly the values that the kernels compute with."""
        count = self.rows - first if count is None else count
        out = np.empty((count, self.cols), np.float32)
        check(
            library().zx_unpack(
                self.kind, address(self.data), self.nbytes, self.rows, self.cols, first, count, address(out)
            )
        )
        return out

    def product(self, x: Floats, bias: Floats | None = None, onto: Floats | None = None) -> Floats:
        """Computes x W^T (+ bias) (+ onto): (tokens, cols) -> (tokens, rows)."""
        x = np.ascontiguousarray(x, np.float32)
        if x.ndim != 2 or x.shape[1] != self.cols:
            raise ValueError(f"cannot multiply {x.shape} by a matrix of {self.cols} columns")
        if bias is not None and (bias.shape != (self.rows,) or bias.dtype != np.float32):
            raise ValueError(f"the bias must be {self.rows} float32 values")
        y = np.empty((len(x), self.rows), np.float32) if onto is None else np.array(onto, np.float32)
        if y.shape != (len(x), self.rows):
            raise ValueError(f"cannot add to {y.shape}")
        kept = np.ascontiguousarray(bias) if bias is not None else None
        check(
            library().zx_product(
                self.kind, address(self.data), self.nbytes, self.rows, self.cols, address(x), len(x),
                address(kept) if kept is not None else None, onto is not None, address(y),
            )
        )  # fmt: skip
        return y


def address(array: NDArray[Any]) -> int:
    """Returns where an array's memory begins; the array must be contiguous and outlive its use."""
    if not array.flags.c_contiguous:
        raise ValueError("the array is not contiguous")
    return array.ctypes.data


def packed_bytes(kind: Kind, rows: int, cols: int) -> int:
    """Returns the size of a packed matrix."""
    return check(library().zx_packed_bytes(kind, rows, cols))


def ggml_kind(ggml_type: int) -> Kind | None:
    """Returns the packed kind of a GGUF tensor type, or None when that type is not repacked."""
    kind = library().zx_kind_of_ggml(ggml_type)
    return Kind(kind) if kind >= 0 else None


def pack_ggml(
    ggml_type: int,
    blocks: Bytes,
    rows: int,
    cols: int,
    order: NDArray[np.int32] | None = None,
    out: Bytes | None = None,
) -> Packed:
    """Repacks the blocks of a GGUF tensor, without loss.

    Args:
        ggml_type: The tensor's type number in the file.
        blocks: All its bytes, row after row.
        rows: Its rows.
        cols: Its columns.
        order: The source row of every packed row, where they are to be rearranged.
        out: Where to put the result, of `packed_bytes` bytes; new memory when not given.

    Raises:
        ValueError: The type is not repacked, or sizes do not fit.
    """
    kind = ggml_kind(ggml_type)
    if kind is None:
        raise ValueError(f"GGUF type {ggml_type} is not repacked")
    if order is not None and (len(order) != rows or order.dtype != np.int32):
        raise ValueError(f"the order must be {rows} int32 values")
    out = np.empty(packed_bytes(kind, rows, cols), np.uint8) if out is None else out
    check(
        library().zx_pack_ggml(
            ggml_type, address(blocks), blocks.nbytes, address(order) if order is not None else None, rows, cols,
            address(out), out.nbytes,
        )
    )  # fmt: skip
    return Packed(kind, rows, cols, out)


def pack_float(kind: Kind, values: Floats, out: Bytes | None = None) -> Packed:
    """Packs float32 values, (rows, cols): as they are (F32), rounded (F16, BF16) or quantised (B8S, B4M)."""
    rows, cols = values.shape
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty(packed_bytes(kind, rows, cols), np.uint8) if out is None else out
    check(library().zx_pack_float(kind, address(values), rows, cols, address(out), out.nbytes))
    return Packed(kind, rows, cols, out)


def pack_coarse(exact: Packed, out: Bytes | None = None, bounds: Floats | None = None) -> tuple[Packed, Floats]:
    """Packs what approximates a quantised matrix in 4 bits; see csrc/refine.cpp.

    Args:
        exact: The matrix.
        out: Where to put the result; new memory when not given.
        bounds: Where to put the bounds, (rows).

    Returns:
        The approximation, and of every row the factor by which the length of rounded activations is to be multiplied:
        the two products are no further apart.
    """
    rows, cols = exact.rows, exact.cols
    out = np.empty(packed_bytes(COARSE, rows, cols), np.uint8) if out is None else out
    bounds = np.empty(rows, np.float32) if bounds is None else bounds
    check(
        library().zx_pack_coarse(
            exact.kind, address(exact.data), exact.nbytes, rows, cols, address(out), out.nbytes, address(bounds)
        )
    )
    return Packed(COARSE, rows, cols, out), bounds


def round_activations(x: Floats) -> Floats:
    """Returns what quantised products make of activations, (tokens, cols): rounded to 8 bits per group of 32."""
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty_like(x)
    check(library().zx_round_activations(address(x), x.shape[0], x.shape[1], address(out)))
    return out

"""The core's passes over rows (csrc/api_rows.cpp), for the layers to use in PyTorch: see `models.row_kernels`.

They run on PyTorch's own threads, which OpenMP starts: threads of another pool would have to share the processors with
those, because they spin for a while after each operation.
"""

from __future__ import annotations

import ctypes
import itertools
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from zhixing.models.head_places import Group
from zhixing.models.row_kernels import set_row_kernels
from zhixing.native.library import check, is_available, library

CAUSAL_ROWS, CAUSAL_MULTIPLE, MOST_HEAD_DIM = 64, 32, 512
"""Queries in a block of `causal`, what sizes of heads must be a multiple of, and the largest: as in csrc/kernels.h."""


@cache
def _openmp() -> int | None:
    """Returns the address of GOMP_parallel in the OpenMP that PyTorch has loaded, or None where it has another one."""
    folder = Path(torch.__file__).parent
    for path in sorted([*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")]):
        try:
            return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def use_row_kernels() -> bool:
    """Lets training's passes over rows be done by the core, where it is there; returns whether they are."""
    usable = is_available() and (_openmp() is not None or torch.get_num_threads() == 1)
    set_row_kernels(CoreRowKernels() if usable else None)
    return usable


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _narrow(x: Tensor | None) -> tuple[int | None, int, int]:
    """Where a matrix is, and its strides."""
    return (None, 0, 0) if x is None else (x.data_ptr(), x.stride(0), x.stride(1))


class CoreRowKernels:
    """The operations of `models.row_kernels.RowKernels`, by the core."""

    def __init__(self) -> None:
        self._core, self._parallel = library(), _openmp()

    def _threads(self) -> tuple[int | None, int]:
        return self._parallel, torch.get_num_threads()

    def place_heads(
        self,
        joined: Tensor,
        group: Group,
        heads: int,
        kv_heads: int,
        rotation: tuple[Tensor, Tensor] | None,
        eps: float | None,
        factor: float,
        scales: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Places the heads of one product."""
        size = joined.shape[-1]
        q = joined.new_empty(group.documents, heads, group.length, size)
        k, v = (joined.new_empty(group.documents, kv_heads, group.length, size) for _ in "kv")
        cos, sin = rotation if rotation is not None else (None, None)
        check(self._core.zx_place_heads(
            *self._threads(), _at(joined), _at(group.tokens), group.documents, group.length, heads, kv_heads, size,
            _at(cos), _at(sin), 0 if cos is None else cos.shape[-1], -1.0 if eps is None else eps, factor,
            _at(q), _at(k), _at(v), _at(scales),
        ))  # fmt: skip
        return q, k, v

    def place_heads_gradient(
        self,
        grads: tuple[Tensor, Tensor, Tensor],
        placed: tuple[Tensor, Tensor],
        group: Group,
        scales: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        normed: bool,
        factor: float,
        joined: Tensor,
    ) -> None:
        """Writes the gradient of the product."""
        (documents, heads, length, size), kv_heads = placed[0].shape, placed[1].shape[1]
        cos, sin = rotation if rotation is not None else (None, None)
        check(self._core.zx_place_heads_gradient(
            *self._threads(), *map(_at, (*grads, *placed, scales, group.tokens)), documents, length, heads, kv_heads,
            size, _at(cos), _at(sin), 0 if cos is None else cos.shape[-1], normed, factor, _at(joined),
        ))  # fmt: skip

    def take_heads(self, part: Tensor, group: Group, taken: Tensor) -> None:
        """Writes a group's results to its tokens."""
        documents, heads, length, size = part.shape
        places = (_at(part), _at(group.tokens))
        check(self._core.zx_take_heads(*self._threads(), *places, documents, length, heads, size, _at(taken)))

    def take_heads_gradient(self, grad: Tensor, group: Group) -> Tensor:
        """Returns the gradient of a group's results."""
        _, heads, size = grad.shape
        out, places = grad.new_empty(group.documents, heads, group.length, size), (_at(grad), _at(group.tokens))
        shape = (group.documents, group.length, heads, size)
        check(self._core.zx_take_heads_gradient(*self._threads(), *places, *shape, _at(out)))
        return out

    def norm(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Divides rows by their root mean square."""
        y, scales = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
        check(self._core.zx_norm_rows(*self._threads(), _at(x), scales.numel(), x.shape[-1], eps, _at(y), _at(scales)))
        return y, scales

    def norm_gradient(self, grad: Tensor, y: Tensor, scales: Tensor) -> Tensor:
        """Returns the gradient of the rows."""
        out = torch.empty_like(y)
        places = (_at(grad), _at(y), _at(scales))
        check(self._core.zx_norm_rows_gradient(*self._threads(), *places, scales.numel(), y.shape[-1], _at(out)))
        return out

    def scaled_norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Divides rows by their root mean square and scales what is left."""
        y, scales = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
        sizes = (scales.numel(), x.shape[-1])
        check(self._core.zx_scaled_norm_rows(*self._threads(), _at(x), _at(weight), *sizes, eps, _at(y), _at(scales)))
        return y, scales

    def scaled_norm_gradient(self, grad: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """Returns the gradient of the rows."""
        out, places = torch.empty_like(x), tuple(map(_at, (grad, x, weight, scales)))
        sizes = (scales.numel(), x.shape[-1])
        check(self._core.zx_scaled_norm_rows_gradient(*self._threads(), *places, *sizes, _at(out)))
        return out

    def square_positive(self, x: Tensor) -> Tensor:
        """Keeps what is positive; returns its square."""
        y = torch.empty_like(x)
        check(self._core.zx_square_positive(*self._threads(), _at(x), x.numel(), _at(y)))
        return y

    def square_positive_gradient(self, grad: Tensor, positive: Tensor) -> Tensor:
        """Multiplies a gradient by what was kept; returns its square."""
        y = torch.empty_like(positive)
        check(self._core.zx_square_positive_gradient(*self._threads(), _at(grad), _at(positive), y.numel(), _at(y)))
        return y

    def drop(self, x: Tensor, seed: int, levels: int) -> Tensor:
        """Drops some numbers and scales the others."""
        y = torch.empty_like(x)
        check(self._core.zx_drop(*self._threads(), _at(x), x.numel(), seed, levels, _at(y)))
        return y

    def causal_weights(self, scores: Tensor, before: int) -> None:
        """Turns scores into weights."""
        check(self._core.zx_causal_weights(*self._threads(), _at(scores), *scores.shape, before))

    def causal_weights_gradient(self, grad: Tensor, weights: Tensor, before: int) -> None:
        """Turns the weights' gradient into the scores'."""
        check(self._core.zx_causal_weights_gradient(*self._threads(), _at(grad), _at(weights), *grad.shape, before))

    def gate(self, x: Tensor) -> Tensor:
        """Opens the second half of rows by the SiLU of the first."""
        size = x.shape[-1] // 2
        y = x.new_empty(*x.shape[:-1], size)
        check(self._core.zx_gate(*self._threads(), _at(x), y.numel() // size, size, _at(y)))
        return y

    def gate_by(self, gate: Tensor, up: Tensor) -> None:
        """Opens one matrix by the SiLU of another, which becomes the result."""
        check(self._core.zx_gate_by(*self._threads(), _at(gate), _at(up), gate.numel()))

    def gate_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Returns the gradient of both halves."""
        size, out = grad.shape[-1], torch.empty_like(x)
        check(self._core.zx_gate_gradient(*self._threads(), _at(grad), _at(x), grad.numel() // size, size, _at(out)))
        return out

    def low_rank_sums(
        self, x: Tensor, factor: float, into: tuple[Tensor, Tensor] | None, back: tuple[Tensor, Tensor] | None
    ) -> None:
        """Multiplies a matrix by narrow ones."""
        (rows, cols), narrow = x.shape, [*(into or (None, None)), *(back or (None, None))]
        rank = next(matrix.shape[1] for matrix in narrow if matrix is not None)
        shapes = [(cols, rank), (rows, rank), (rows, rank), (cols, rank)]
        for matrix, wanted in zip(narrow, shapes, strict=True):
            if matrix is not None and (matrix.shape != wanted or matrix.dtype != torch.float32):
                raise ValueError(f"a narrow matrix is {matrix.dtype} {tuple(matrix.shape)}, not float32 {wanted}")
        if x.stride(1) != 1 and cols > 1:
            raise ValueError(f"rows are not in one piece: strides {x.stride()}")
        parts = x.new_empty(self._core.zx_low_rank_parts(rows, cols, rank)) if into is not None else None
        places = itertools.chain.from_iterable(map(_narrow, narrow))
        shape = (x.stride(0), rows, cols, rank)
        check(self._core.zx_low_rank_sums(*self._threads(), _at(x), *shape, factor, *places, _at(parts)))

    def causal(self, q: Tensor, k: Tensor, v: Tensor, keep: bool) -> tuple[Tensor, Tensor] | None:
        """Attends causally."""
        (pairs, heads, time, size), threads = q.shape, torch.get_num_threads()
        uneven = pairs % threads and pairs < 4 * threads if keep else pairs * -(-time // CAUSAL_ROWS) < threads
        if size % CAUSAL_MULTIPLE or size > MOST_HEAD_DIM or uneven:
            return None
        if k.shape != (pairs, time, size) or v.shape != k.shape or not q.dtype == k.dtype == v.dtype == torch.float32:
            raise ValueError(f"queries {tuple(q.shape)}, but keys {tuple(k.shape)} and values {tuple(v.shape)}")
        k, v = (part if part.stride()[1:] == (size, 1) else part.contiguous() for part in (k, v))
        q = q.contiguous()
        out = torch.empty_like(q)
        kept = q.new_empty(pairs * heads * self._core.zx_causal_kept(time) if keep else 0)
        places = (_at(q), _at(k), k.stride(0), _at(v), v.stride(0))
        shape = (pairs, heads, time, size)
        check(self._core.zx_causal(*self._threads(), *places, *shape, _at(out), _at(kept) if keep else None))
        return out, kept

    def causal_gradient(self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
        """Returns the gradients of queries, keys and values."""
        grads = tuple(torch.empty_like(part) for part in (q, k, v))
        places = map(_at, (grad, q, k, v, kept))
        check(self._core.zx_causal_gradient(*self._threads(), *places, *q.shape, *map(_at, grads)))
        return grads

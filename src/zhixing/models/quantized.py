"""A matrix that stays in its blocks: a tensor whose values are expanded only while they are used.

`BlockMatrix` takes the place of an ordinary weight without the network knowing: products with it expand a few rows at
a time into scratch memory, looking up embeddings expands the rows asked for, and whatever only moves rows (slicing,
joining, splitting, permuting heads) moves the packed blocks. Any other operation expands the whole matrix and is
correct all the same. The blocks may lie in a mapped file. The formats themselves are in `blocks`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.models import ops
from zhixing.models.block_kinds import Kind
from zhixing.models.blocks import expand

SCRATCH_VALUES = 1 << 18
"""Values that are expanded at a time for a product: 1 MiB in float32, so that they are still in the cache when used."""

_aten = torch.ops.aten


class Part(NamedTuple):
    """Rows that are stored alike."""

    kind: Kind
    rows: Tensor
    """(rows, bytes), uint8."""


def _fresh(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Returns new memory that is no inference tensor: such could neither be kept nor be seen through a view."""
    with torch.inference_mode(False):
        return torch.empty(tuple(shape), dtype=dtype)


class _Scratch(threading.local):
    """Memory for expanded rows, used again and again; one for every thread."""

    def __init__(self) -> None:
        self._held: dict[torch.dtype, Tensor] = {}

    def take(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        held = self._held.get(dtype)
        if held is None or held.numel() < rows * width:
            held = self._held[dtype] = _fresh([max(SCRATCH_VALUES, rows * width)], dtype)
        return held[: rows * width].view(rows, width)


_scratch = _Scratch()


class BlockMatrix(Tensor):
    """A tensor in ggml's blocks: (..., width), where every row of `width` values is a whole number of blocks.

    It is read-only and takes no gradient; gradients pass through products with it.

    Args:
        parts: What it is made of, one behind the other along the flattened leading dimensions.
        shape: Its shape; (rows, width) when not given.
        dtype: Number type in which its values appear.
        transposed: Seen with rows and columns exchanged.
    """

    parts: tuple[Part, ...]
    transposed: bool

    @staticmethod
    def __new__(
        cls,
        parts: Sequence[Part],
        shape: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        transposed: bool = False,
    ) -> BlockMatrix:
        """Makes the outside of a tensor, without memory for its values."""
        kind, rows = parts[0]
        width = rows.shape[1] // kind.bytes * kind.values
        count = sum(len(part.rows) for part in parts)
        shape = tuple(shape) if shape is not None else (count, width)
        if math.prod(shape[:-1]) != count or shape[-1] != width:
            raise ValueError(f"{count} rows of {width} values do not make the shape {shape}")
        outside = (width, count) if transposed else shape
        with torch.inference_mode(False):  # a view of a weight is no inference tensor, wherever it is taken
            made: BlockMatrix = torch.Tensor._make_wrapper_subclass(cls, outside, dtype=dtype, requires_grad=False)
        made.parts = tuple(parts)
        made.transposed = transposed
        return made

    @property
    def stored_bytes(self) -> int:
        """The bytes of its blocks."""
        return sum(part.rows.numel() for part in self.parts)

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.shape[0] if self.transposed else self.shape[-1]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        kinds = "+".join(sorted({part.kind.name for part in self.parts}))
        return f"BlockMatrix({kinds}, shape={tuple(self.shape)}, dtype={self.dtype}, {self.stored_bytes} bytes)"

    def expand_into(self, out: Tensor) -> Tensor:
        """Writes all values into an ordinary tensor of the same shape, and returns it."""
        if self.transposed:
            return out.copy_(self.expanded())
        target = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype)
        flat = target.view(-1, self.width)
        start = 0
        for kind, rows in self.parts:
            expand(kind, rows, flat[start : start + len(rows)])
            start += len(rows)
        return out if target is out else out.copy_(target)

    def expanded(self) -> Tensor:
        """Returns all values as an ordinary tensor."""
        if self.transposed:
            return self._turned().expanded().t()
        return self.expand_into(_fresh(self.shape, self.dtype))

    def rows_at(self, index: Tensor) -> Tensor:
        """Returns the values of the rows with these numbers: index of any shape -> (*index.shape, width)."""
        flat = index.flatten().cpu()
        out = _fresh((len(flat), self.width), self.dtype)
        start = 0
        for kind, rows in self.parts:
            inside = (flat >= start) & (flat < start + len(rows))
            if len(self.parts) == 1:
                expand(kind, rows[flat], out)
            elif inside.any():
                chosen = rows[flat[inside] - start]
                out[inside] = expand(kind, chosen, torch.empty((len(chosen), self.width), dtype=self.dtype))
            start += len(rows)
        return out.view(*index.shape, self.width)

    def product(self, x: Tensor) -> Tensor:
        """Computes x @ self.T: (n, columns) and (rows, columns) -> (n, rows); expands a few rows at a time."""
        out = torch.zeros((len(x), self.shape[0]), dtype=x.dtype)
        start = 0
        for kind, rows in self.parts:
            step = max(1, SCRATCH_VALUES // self.width)
            for first in range(0, len(rows), step):
                piece = rows[first : first + step]
                values = expand(kind, piece, _scratch.take(len(piece), self.width, self.dtype)).to(x.dtype)
                if self.transposed:
                    out.addmm_(x[:, start : start + len(piece)], values)
                else:
                    out[:, start : start + len(piece)] = ops.product(x, values)
                start += len(piece)
        return out

    def _turned(self) -> BlockMatrix:
        count = sum(len(part.rows) for part in self.parts)
        return BlockMatrix(self.parts, (count, self.width), self.dtype, not self.transposed)

    def _moved(self, function: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Applies an operation that may only move rows to the rows' numbers, then takes the rows in that order.

        The numbers have this tensor's shape, with one number repeated along each row (of stride 0, so they take no
        memory for it). Where the result still repeats along its last dimension, the rows were only moved.
        Returns NotImplemented where they were not.
        """
        if self.transposed:
            return NotImplemented
        count = sum(len(part.rows) for part in self.parts)
        numbers = torch.arange(count).view(*self.shape[:-1], 1).expand(self.shape)
        try:
            result = function(numbers, *arguments, **options)
        except RuntimeError:  # a view across rows
            return NotImplemented
        several = isinstance(result, (list, tuple))
        pieces = list(result) if several else [result]
        if any(piece.dim() < 1 or piece.shape[-1] != self.width or piece.stride(-1) for piece in pieces):
            return NotImplemented
        moved = [self._taken(piece[..., 0], piece.shape) for piece in pieces]
        return type(result)(moved) if several else moved[0]

    def _taken(self, order: Tensor, shape: Sequence[int]) -> Tensor:
        flat = order.flatten()
        if not len(flat):
            return _fresh(shape, self.dtype)
        consecutive = bool((flat[1:] - flat[:-1] == 1).all())
        parts: list[Part] = []
        start = 0
        for kind, rows in self.parts:
            if consecutive:
                first, last = max(0, int(flat[0]) - start), min(len(rows), int(flat[-1]) + 1 - start)
                if first < last:
                    parts.append(Part(kind, rows[first:last]))
            elif len(self.parts) == 1:
                parts.append(Part(kind, rows[flat]))
            start += len(rows)
        if not parts:  # several kinds in a new order: rare enough to expand
            return self.rows_at(order)
        return BlockMatrix(parts, shape, self.dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Computes what can be computed on blocks, before PyTorch looks at the operation.

        Its own machinery for tensors like this one (`__torch_dispatch__`, which catches the rest) loads half a second
        of code on first use.
        """
        options = kwargs or {}
        handler = _FUNCTIONS.get(func)
        if handler is not None:
            result = handler(*args, **options)
            if result is not NotImplemented:
                return result
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **options)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Computes what can be computed on blocks; expands for everything else."""
        options = kwargs or {}
        handler = _HANDLERS.get(func)
        if handler is not None:
            result = handler(*args, **options)
            if result is not NotImplemented:
                return result
        elif func in _MOVING and isinstance(args[0], BlockMatrix):
            result = args[0]._moved(func, args[1:], options)
            if result is not NotImplemented:
                return result
        else:  # in inference mode, operations that are made of others arrive whole
            result = func.decompose(*args, **options)
            if result is not NotImplemented:
                return result
        return func(*_expanded(args), **_expanded(options))


def _expanded(value: Any) -> Any:
    """Replaces every block matrix in nested arguments by its values."""
    if isinstance(value, BlockMatrix):
        return value.expanded()
    if isinstance(value, Mapping):
        return {key: _expanded(item) for key, item in value.items()}
    return type(value)(_expanded(item) for item in value) if isinstance(value, (list, tuple)) else value


def _same(x: BlockMatrix, *_: Any, **__: Any) -> BlockMatrix:
    made = x._turned() if x.transposed else x
    made = BlockMatrix(made.parts, made.shape, x.dtype)
    return made._turned() if x.transposed else made


def _transpose(x: BlockMatrix, first: int = 0, second: int = 1) -> Any:
    return x._turned() if x.dim() == 2 and {first % 2, second % 2} == {0, 1} else x._moved(
        _aten.transpose.int, (first, second), {}
    )  # fmt: skip


def _clone(x: BlockMatrix, **_: Any) -> Any:
    return NotImplemented if x.transposed else _same(x)  # read-only: a copy would never differ


def _to(x: BlockMatrix, **options: Any) -> Any:
    device, dtype = options.get("device"), options.get("dtype") or x.dtype
    elsewhere = device is not None and torch.device(device).type != "cpu"
    rounded = x.dtype not in (torch.float32, dtype)  # what was rounded to fewer bits stays so
    if x.transposed or elsewhere or rounded or not dtype.is_floating_point:
        return NotImplemented
    return BlockMatrix(x.parts, x.shape, dtype)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    matrices = [tensor for tensor in tensors if isinstance(tensor, BlockMatrix) and not tensor.transposed]
    widths = {tensor.shape[1:] for tensor in tensors}
    if len(matrices) < len(tensors) or dim % tensors[0].dim() or len(widths) > 1:
        return NotImplemented
    parts = [part for matrix in matrices for part in matrix.parts]
    shape = (sum(len(matrix) for matrix in matrices), *matrices[0].shape[1:])
    return BlockMatrix(parts, shape, matrices[0].dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any) -> Any:
    if not isinstance(weight, BlockMatrix) or isinstance(x, BlockMatrix) or weight.dim() != 2:
        return NotImplemented
    y = weight.product(x.reshape(-1, x.shape[-1]))
    if bias is not None:
        y += bias
    return y.view(*x.shape[:-1], weight.shape[0])


def _matmul(x: Tensor, y: Tensor) -> Any:
    return _linear(x, y._turned()) if isinstance(y, BlockMatrix) and y.dim() == 2 else NotImplemented


def _addmm(bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if beta != 1 or alpha != 1 or not isinstance(y, BlockMatrix):
        return NotImplemented
    return _linear(x, y._turned(), bias)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, name: str, *_: Any) -> Any:
    return _linear(x, weight, bias) if name == "none" else NotImplemented


def _embedding(weight: Tensor, index: Tensor, *_: Any) -> Any:
    if not isinstance(weight, BlockMatrix) or weight.transposed or weight.dim() != 2:
        return NotImplemented
    return weight.rows_at(index)


def _embedding_of(index: Tensor, weight: Tensor, *_: Any, **__: Any) -> Any:
    return _embedding(weight, index)


def _copy(target: Tensor, source: Tensor, *_: Any) -> Any:
    if isinstance(target, BlockMatrix) or not isinstance(source, BlockMatrix) or target.shape != source.shape:
        return NotImplemented
    return source.expand_into(target)


def _reshape(x: BlockMatrix, *shape: Any) -> Any:
    """Gives the rows other leading dimensions; they lie in order, so nothing moves."""
    wanted = list(shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)
    if x.transposed or not all(isinstance(size, int) for size in wanted):
        return NotImplemented
    if -1 in wanted:
        known = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = x.numel() // max(1, known)
    if wanted[-1] != x.width or math.prod(wanted) != x.numel():
        return NotImplemented
    return BlockMatrix(x.parts, wanted, x.dtype)


def _move(function: Callable[..., Any]) -> Callable[..., Any]:
    def moved(x: Any, *arguments: Any, **options: Any) -> Any:
        return x._moved(function, arguments, options) if isinstance(x, BlockMatrix) else NotImplemented

    return moved


def _to_any(x: BlockMatrix, *arguments: Any, **options: Any) -> Any:
    device, dtype, *_ = torch._C._nn._parse_to(*arguments, **options)
    if (device is None or device.type == "cpu") and dtype in (None, x.dtype):
        return x
    return _to(x, device=device, dtype=dtype)


def _contiguous(x: BlockMatrix, **_: Any) -> Any:
    return NotImplemented if x.transposed else x


_HANDLERS: dict[Any, Callable[..., Any]] = {
    _aten.detach.default: _same, _aten.alias.default: _same, _aten.lift_fresh.default: _same,
    _aten.contiguous.default: _clone, _aten.clone.default: _clone, _aten._to_copy.default: _to,
    _aten.t.default: _transpose, _aten.transpose.int: _transpose, _aten.numpy_T.default: _transpose,
    _aten.cat.default: _cat, _aten.linear.default: _linear, _aten.matmul.default: _matmul, _aten.mm.default: _matmul,
    _aten.addmm.default: _addmm, _aten.embedding.default: _embedding, _aten.copy_.default: _copy,
}  # fmt: skip
if hasattr(torch.ops, "mkldnn") and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _HANDLERS[torch.ops.mkldnn._linear_pointwise.default] = _pointwise

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    Tensor.detach: _same, Tensor.clone: _clone, Tensor.contiguous: _contiguous, Tensor.to: _to_any,
    Tensor.t: _transpose, torch.t: _transpose, Tensor.T.__get__: _transpose,  # type: ignore[attr-defined]
    Tensor.transpose: _transpose, torch.transpose: _transpose, Tensor.view: _reshape, Tensor.reshape: _reshape,
    torch.cat: _cat, F.linear: _linear, F.embedding: _embedding_of, torch.matmul: _matmul, torch.mm: _matmul,
    Tensor.matmul: _matmul, Tensor.mm: _matmul, Tensor.__matmul__: _matmul, torch.addmm: _addmm, Tensor.copy_: _copy,
    **{
        function: _move(function)
        for function in (
            Tensor.__getitem__, Tensor.narrow, Tensor.chunk, Tensor.split, Tensor.unbind, Tensor.index_select,
            Tensor.select, Tensor.permute, torch.chunk, torch.split, torch.narrow, torch.index_select,
        )
    },
}  # fmt: skip
if hasattr(torch.ops, "mkldnn") and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _FUNCTIONS[torch.ops.mkldnn._linear_pointwise] = _pointwise
    _FUNCTIONS[torch.ops.mkldnn._linear_pointwise.default] = _pointwise

_MOVING = frozenset({
    _aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.permute.default,
    _aten.slice.Tensor, _aten.select.int, _aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default,
    _aten.unbind.int, _aten.index_select.default, _aten.index.Tensor, _aten.narrow.default, _aten.unsqueeze.default,
    _aten.squeeze.dim, _aten.flatten.using_ints, _aten.unflatten.int,
})  # fmt: skip
"""Operations that may leave rows whole; `_moved` finds out whether they do."""

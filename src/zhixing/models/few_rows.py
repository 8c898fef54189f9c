"""Maps of few rows, as in decoding: which library and which layout of the weights reads memory fastest.

Such products are bound by memory and, where matrices are small, by the cost of a call. The libraries differ by half in
how much of the bandwidth they reach, each with another shape, layout and processor. So it is measured, once per shape.
What is not here: products of many rows (`models.ops`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.models import ops

Product = Callable[[Tensor], Tensor]
"""Computes rows @ weight.T + bias of one matrix: (n, in) -> (n, out)."""

SMALL = 1 << 20
"""Matrices of fewer bytes go through the default library, whose calls cost least; caches hold them anyway."""

PROBED = 40 << 20
"""Bytes of matrices that are read for a measurement, so that caches do not decide."""

MOST_OUTPUTS = 4096
"""Heads of more outputs are measured as if they had so many."""

GAIN = 0.93
"""Another way than the usual one must need at most this share of its time."""


PROMPT, SLOWER = 128, 1.1
"""Rows of a prompt with which a layout is tried, and how much slower it may be read with it."""


def default(weight: Tensor, bias: Tensor | None) -> Product:
    """Returns the product through PyTorch's default library."""
    return lambda rows: F.linear(rows, weight, bias)


def onednn(weight: Tensor, bias: Tensor | None) -> Product:
    """Returns the product through oneDNN."""
    # The overload by its name: finding it among others takes 7 of 22 microseconds.
    product = torch.ops.mkldnn._linear_pointwise.default
    return lambda rows: cast(Tensor, product(rows, weight, bias, "none", [], ""))


def split_inputs(weight: Tensor, bias: Tensor | None) -> Product:
    """Returns the product as a sum of one for each part of the inputs: every thread reads its own stretch of memory.

    Args:
        weight: A matrix that lies column by column.
        bias: As for the others.
    """
    inputs = weight.shape[1]
    parts = next(count for count in range(max(2, torch.get_num_threads()), 0, -1) if inputs % count == 0)
    matrices = weight.t().view(parts, inputs // parts, -1)  # (parts, in / parts, out)

    def product(rows: Tensor) -> Tensor:
        result = torch.bmm(rows.view(len(rows), parts, -1).transpose(0, 1), matrices).sum(0)
        return result if bias is None else result.add_(bias)

    return product


@dataclasses.dataclass(frozen=True)
class Way:
    """How to multiply few rows by a matrix.

    Attributes:
        make: Returns the product with a matrix and a bias.
        by_columns: Whether its matrices, (out, in), are to lie in memory column by column, as (in, out).
    """

    make: Callable[[Tensor, Tensor | None], Product]
    by_columns: bool = False


USUAL = Way(default)
WAYS = (USUAL, Way(onednn), Way(split_inputs, by_columns=True))

_ways: dict[tuple[int, int, int, int, bool], Way] = {}


def fastest_way(rows: int, outputs: int, inputs: int, free_layout: bool = False) -> Way:
    """Measures, once per shape, how few rows are multiplied by a matrix fastest; about 40 ms.

    On a processor that is not Intel's, MKL reads most shapes at half the bandwidth that a plain sum of the matrix
    reaches, and oneDNN, whose calls cost 10 to 40 microseconds, at two thirds.

    Args:
        rows: How many rows there will be.
        outputs: Rows of the matrix.
        inputs: Columns of the matrix.
        free_layout: Matrices may lie by columns.
    """
    outputs = min(outputs, MOST_OUTPUTS)
    size = 4 * outputs * inputs
    if size < SMALL:
        return USUAL
    key = (rows, outputs, inputs, torch.get_num_threads(), free_layout)
    if key not in _ways:
        plain = torch.ones(-(-PROBED // size), outputs, inputs)
        turned = plain.view(len(plain), inputs, outputs).transpose(1, 2)
        few = torch.ones(rows, inputs)
        turns = free_layout and _reads_columns(plain[0], turned[0])
        usable = [way for way in WAYS if turns or not way.by_columns]
        seconds = {way: _seconds(way, few, turned if way.by_columns else plain) for way in usable}
        best = min(seconds, key=seconds.__getitem__)
        _ways[key] = best if seconds[best] < GAIN * seconds[USUAL] else USUAL
    return _ways[key]


def _seconds(way: Way, rows: Tensor, matrices: Tensor) -> float:
    """Returns the time of the products with all matrices, (count, out, in), the least of three."""
    times = []
    try:
        products = [way.make(matrix, None) for matrix in matrices]
        for _ in range(3):
            start = time.perf_counter()
            for product in products:
                product(rows)
            times.append(time.perf_counter() - start)
    except (AttributeError, RuntimeError):  # a build of PyTorch without oneDNN
        return float("inf")
    return min(times)


def _reads_columns(plain: Tensor, turned: Tensor) -> bool:
    """Whether the library of many rows, which read prompts, is as fast with a matrix that lies by columns."""
    many = torch.ones(PROMPT, plain.shape[1])
    usual, other = ops.least_seconds(lambda: ops.linear(many, plain), lambda: ops.linear(many, turned))
    return other < SLOWER * usual


def few_rows_map(weights: Sequence[Tensor], biases: Sequence[Tensor | None], rows: int, share: bool) -> Product:
    """Returns linear maps of the same input as one product: (rows, in) -> (rows, sum of outs).

    Args:
        weights: The matrices, (out, in) each.
        biases: Their biases, for all or for none.
        rows: How many rows there will be.
        share: Lay the matrices themselves out anew as parts of one (their values stay); else it is a copy where it must
            be, and a single matrix stays as it lies.
    """
    present = [bias.detach() for bias in biases if bias is not None]
    parts = [weight.detach() for weight in weights]
    packed = any(type(part) is not Tensor for part in parts)
    way = USUAL if packed else fastest_way(rows, sum(map(len, parts)), parts[0].shape[1], share)
    whole = joined(parts, way.by_columns)
    if share and not packed and whole.data_ptr() != parts[0].data_ptr():
        for weight, part in zip(weights, torch.split(whole, [len(part) for part in parts]), strict=True):
            weight.data = part
    return way.make(whole, torch.cat(present) if present else None)


def joined(parts: Sequence[Tensor], by_columns: bool) -> Tensor:
    """Stacks matrices, (out, in), into one, (sum of outs, in); without a copy where they already lie so."""
    if any(type(part) is not Tensor for part in parts):  # packed ones join without a copy
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))
    whole = ops.adjacent(parts)
    if whole is not None and (not by_columns or whole.stride(0) == 1):
        return whole
    if not by_columns:
        return torch.cat(list(parts))
    whole = parts[0].new_empty(parts[0].shape[1], sum(map(len, parts))).t()
    for place, part in zip(torch.split(whole, [len(part) for part in parts]), parts, strict=True):
        place.copy_(part)
    return whole

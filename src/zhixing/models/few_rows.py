"""Products of few rows, as in decoding: which library and which layout of the weights reads memory fastest.

Such products are bound by memory, and the libraries differ by half in how much of its bandwidth they reach, each on
another processor. So it is measured. What is not here: products of many rows (`models.ops`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.models import ops
from zhixing.models.layers import Linear

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Computes rows @ weight.T + bias: (n, in), (out, in), (out) -> (n, out)."""

PROBE = (1536, 512)
"""Outputs and inputs of the matrices on which the ways are compared."""

PROBES = 12
"""How many different ones are read, so that caches do not decide: 38 MB."""


def onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes rows @ weight.T + bias through oneDNN."""
    # The overload by its name: finding it among others takes 7 of 22 microseconds.
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, weight, bias, "none", [], "")
    return result


def onednn_fused(rows: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor, operation: str) -> Tensor:
    """Computes (rows @ weight.T + bias) + other, or times it ("mul"), in one pass: other (n, out) -> (n, out)."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, other, weight, bias, operation)
    return result


@dataclasses.dataclass(frozen=True)
class Way:
    """How to multiply few rows by a matrix.

    Attributes:
        product: The function.
        by_columns: Whether its matrices, (out, in), are to lie in memory column by column, as (in, out).
    """

    product: Product
    by_columns: bool = False


_ways: dict[tuple[int, bool], Way] = {}


def fastest_way(rows: int, free_layout: bool = False) -> Way:
    """Measures, once per number of rows, how few rows are multiplied by a matrix fastest; about 30 ms.

    On processors that are not Intel's, MKL reads the usual layout at half the bandwidth at which it reads matrices that
    lie by columns; oneDNN is between, or behind both.

    Args:
        rows: How many rows there will be.
        free_layout: Matrices may lie by columns.
    """
    if (rows, free_layout) not in _ways:
        few = torch.ones(rows, PROBE[1])
        plain = torch.ones(PROBES, *PROBE)
        seconds = {Way(product): _seconds(product, few, plain) for product in (F.linear, onednn)}
        if free_layout:
            turned = plain.view(PROBES, PROBE[1], PROBE[0]).transpose(1, 2)
            seconds[Way(F.linear, by_columns=True)] = _seconds(F.linear, few, turned)
        usual = Way(F.linear)
        best = min(seconds, key=seconds.__getitem__)
        _ways[rows, free_layout] = best if seconds[best] < 0.9 * seconds[usual] else usual
    return _ways[rows, free_layout]


def _seconds(product: Product, rows: Tensor, matrices: Tensor) -> float:
    """Returns the time of the products with all matrices, (count, out, in), the least of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        try:
            for matrix in matrices:
                product(rows, matrix, None)
        except (AttributeError, RuntimeError):  # a build of PyTorch without oneDNN
            return float("inf")
        times.append(time.perf_counter() - start)
    return min(times)


def joined(parts: Sequence[Linear], share: bool, by_columns: bool = False) -> tuple[Tensor, Tensor | None]:
    """Returns one matrix, (sum of outs, in), and one bias that stack those of several projections of the same input.

    Args:
        parts: The projections.
        share: Lay their own weights out anew as parts of it (their values stay); else it is a copy where it must be.
        by_columns: With `share`: lay them out column by column.
    """
    weights = [part.weight.detach() for part in parts]
    biases = [part.bias.detach() for part in parts if part.bias is not None]
    bias = torch.cat(biases) if biases else None
    if any(type(weight) is not Tensor for weight in weights):  # packed ones join without a copy
        return weights[0] if len(weights) == 1 else torch.cat(weights), bias
    whole = ops.adjacent(weights)
    if whole is None or (share and by_columns and whole.stride(0) != 1):
        whole = laid_out(weights, by_columns and share)
        if share:
            for part, weight in zip(parts, torch.split(whole, [len(weight) for weight in weights]), strict=True):
                part.weight.data = weight
    return whole, bias


def lay_by_columns(parameter: Tensor) -> None:
    """Lays a matrix out column by column, in place; one that is packed stays as it is."""
    if type(parameter.detach()) is Tensor and parameter.stride(0) != 1:
        parameter.data = laid_out([parameter.detach()], by_columns=True)


def laid_out(weights: Sequence[Tensor], by_columns: bool) -> Tensor:
    """Stacks matrices, (out, in), into one that lies in memory row by row or column by column: (sum of outs, in)."""
    if not by_columns:
        return torch.cat(list(weights))
    inputs, outputs = weights[0].shape[1], sum(map(len, weights))
    whole = weights[0].new_empty(inputs, outputs).t()
    for place, weight in zip(torch.split(whole, [len(weight) for weight in weights]), weights, strict=True):
        place.copy_(weight)
    return whole

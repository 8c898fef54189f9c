"""The orthogonal factor of a matrix by matrix products alone: the heart of Muon (Jordan et al. 2024).

A quintic polynomial p(x) = a x + b x^3 + c x^5, applied to the singular values of X by X <- (a + b A + c A^2) X with
A = X X^T, drives them all towards one. The coefficients change from step to step and are minimax optimal for the
interval where the singular values then lie ("The Polar Express", Amsel et al. 2025, algorithm 1), so three steps do
what five fixed ones do. Everything is float32: bfloat16 products are slow on most CPUs.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from zhixing.models import ops

BATCHED_BELOW = 192
"""Matrices with a side below this are multiplied in one batch; larger ones gain more from the better library."""


@functools.cache
def polar_express(lower: float, steps: int) -> tuple[tuple[float, float, float], ...]:
    """Returns the coefficients (a, b, c) of each step for singular values in [lower, 1].

    Each polynomial is the odd quintic closest to one on the present interval, found by Remez exchange on four points;
    the next interval is its image.
    """
    result = []
    low, high = lower, 1.0
    for _ in range(steps):
        if 1 - low / high < 5e-3:  # nearly converged: the classical Newton-Schulz quintic, without cancellation
            a, b, c = 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
        else:
            a, b, c = _minimax_quintic(low, high)
        result.append((a, b, c))
        low = a * low + b * low**3 + c * low**5
        high = 2 - low  # the error equioscillates around one
    return tuple(result)


def _minimax_quintic(low: float, high: float) -> tuple[float, float, float]:
    inner, outer = (3 * low + high) / 4, (low + 3 * high) / 4
    error = math.inf
    a = b = c = 0.0
    for _ in range(100):
        points = ((low, 1.0), (inner, -1.0), (outer, 1.0), (high, -1.0))
        system = np.array([[x, x**3, x**5, sign] for x, sign in points])
        a, b, c, new_error = (float(value) for value in np.linalg.solve(system, np.ones(4)))
        if abs(error - new_error) < 1e-12:
            break
        error = new_error
        root = math.sqrt(max(0.0, 9 * b * b - 20 * a * c))  # extrema of the polynomial
        inner, outer = math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))
    return a, b, c


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Multiplies batches of matrices: (n, i, j) x (n, j, k) -> (n, i, k)."""
    if min(*left.shape[1:], right.shape[2]) < BATCHED_BELOW or ops.matmul_backend() == "torch":
        return torch.bmm(left, right)
    return torch.stack([ops.product(a, b.t()) for a, b in zip(left, right, strict=True)])


def orthogonalise(matrices: Tensor, steps: int, lower: float) -> Tensor:
    """Approximates U V^T of the singular value decomposition of each matrix.

    The matrices are first divided by their Schatten-8 norm (sum of s^8)^(1/8), a closer bound of the largest singular
    value than the Frobenius norm and free here, because A^2 is needed anyway. Oblong matrices iterate on the small
    matrix A alone: Q <- P Q and A <- P A P, and one product with X at the end.

    Args:
        matrices: (n, rows, columns), float32.
        steps: Polynomial steps.
        lower: Singular values above this share of the norm end near one; smaller ones stay smaller.

    Returns:
        A tensor of the same shape.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # (n, short, long)
    gram = _multiply(x, x.mT)  # (n, short, short)
    trace = gram.diagonal(dim1=1, dim2=2).sum(1).add_(1e-30).view(-1, 1, 1)
    gram = gram / trace  # first by the trace, so that the square does not underflow
    square = _multiply(gram, gram)
    norm = square.flatten(1).norm(dim=1).sqrt_().add_(1e-12).view(-1, 1, 1)
    gram, square = gram / norm, square / norm.square()
    scale = (norm * trace).rsqrt_()
    is_square = x.shape[1] == x.shape[2]
    product: Tensor | None = None
    for index, (a, b, c) in enumerate(polar_express(lower, steps)):
        if index:
            gram = _multiply(x, x.mT) if is_square else gram
            square = _multiply(gram, gram)
        polynomial = gram.mul(b).add_(square, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        if is_square:
            x = _multiply(polynomial if index else polynomial * scale, x)
            continue
        product = polynomial * scale if product is None else _multiply(polynomial, product)
        if index + 1 < steps:
            gram = _multiply(_multiply(polynomial, gram), polynomial)
    result = x if product is None else _multiply(product, x)
    return result.mT if tall else result

"""Passes over rows that the C++ core, where it is there, does in one go: what they are, and who does them.

PyTorch's own operations read and write all of memory for each step of a formula: a norm with a rotation and a change of
layout takes eight passes, one here. The layers ask `row_kernels` and go by PyTorch where it gives None. What is not
here: the formulas (`models.ops`, `models.attention`) and the binding of the core (`native.row_kernels`), which sets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zhixing.models.head_places import Group


class RowKernels(Protocol):
    """Operations on contiguous float32 tensors on the CPU. None keeps a reference to its arguments."""

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
        """Normalises, rotates and lays out what one product gave for all heads: see `head_places.placed_heads`.

        Args:
            joined: (tokens, heads + 2 * kv_heads, head_dim): queries, keys, values.
            group: Which of the tokens go where.
            heads: Number of heads of the queries.
            kv_heads: Number of heads of the keys and of the values.
            rotation: Cosines and sines, (tokens or length, half) each, or None.
            eps: Of the root mean square that queries and keys are divided by, or None where they are not.
            factor: On the queries, at last.
            scales: (tokens, heads + kv_heads), which gets the inverse root mean squares of this group's tokens.

        Returns:
            Queries, (documents, heads, length, head_dim), keys and values, (documents, kv_heads, length, head_dim).
        """

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
        """Writes the gradient of `joined`, of this group's tokens, from those of its queries, keys and values."""

    def take_heads(self, part: Tensor, group: Group, taken: Tensor) -> None:
        """Writes results, (documents, heads, length, head_dim), to their tokens in (tokens, heads, head_dim)."""

    def take_heads_gradient(self, grad: Tensor, group: Group) -> Tensor:
        """Returns the gradient of a group's results from that of what was taken, zero where there is no token."""

    def norm(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Returns x / rms(x), (..., size), and the inverse root mean squares, (..., 1)."""

    def norm_gradient(self, grad: Tensor, y: Tensor, scales: Tensor) -> Tensor:
        """Returns the gradient of x from that of y."""

    def scaled_norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Returns weight * x / rms(x), (..., size), and the inverse root mean squares, (..., 1)."""

    def scaled_norm_gradient(self, grad: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """Returns the gradient of x from that of the result."""

    def square_positive(self, x: Tensor) -> Tensor:
        """Turns x into max(x, 0) and returns the square of that."""

    def square_positive_gradient(self, grad: Tensor, positive: Tensor) -> Tensor:
        """Multiplies a gradient by what `square_positive` left, and returns the square of that."""

    def drop(self, x: Tensor, seed: int, levels: int) -> Tensor:
        """Returns x / (1 - p), or 0 with p = levels / 2^31: the same numbers for the same seed of 63 bits."""

    def causal_weights(self, scores: Tensor, before: int) -> None:
        """Turns scores, (n, rows, keys), into attention weights: row r sees the first before + r + 1 keys."""

    def causal_weights_gradient(self, grad: Tensor, weights: Tensor, before: int) -> None:
        """Turns the gradient of the weights into that of the scores."""

    def gate(self, x: Tensor) -> Tensor:
        """Returns silu(g) * u of x = [g, u]: (..., 2 * size) -> (..., size)."""

    def gate_by(self, gate: Tensor, up: Tensor) -> None:
        """Turns g into silu(g) * u, which has the same shape."""

    def gate_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Returns the gradient of x, (..., 2 * size), from that of what `gate` gave, (..., size)."""

    def low_rank_sums(
        self, x: Tensor, factor: float, into: tuple[Tensor, Tensor] | None, back: tuple[Tensor, Tensor] | None
    ) -> None:
        """Multiplies a matrix by narrow ones, in one reading of it for 16 columns. All may be parts, or transposed.

        Args:
            x: (n, m), its rows in one piece each.
            factor: On both results.
            into: p, (m, rank), and where factor * x p, (n, rank), is written; or None.
            back: q, (n, rank), and where factor * x^T q, (m, rank), is written; or None.
        """

    def causal(self, q: Tensor, k: Tensor, v: Tensor, keep: bool) -> tuple[Tensor, Tensor] | None:
        """Attends from scaled queries, (pairs, heads, time, head_dim), to keys and values, (pairs, time, head_dim).

        Returns:
            (pairs, heads, time, head_dim), and the weights for `causal_gradient` where they are to be kept; None where
            heads are not of a size that it knows, or where the threads would have unequal parts of the gradient.
        """

    def causal_gradient(self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
        """Returns the gradients of queries, keys and values, all contiguous."""


_kernels: RowKernels | None = None


def set_row_kernels(kernels: RowKernels | None) -> None:
    """Sets what does the passes; None leaves them to PyTorch."""
    global _kernels
    _kernels = kernels


def row_kernels(x: Tensor) -> RowKernels | None:
    """Returns what can do the passes over a tensor, or None."""
    if (
        _kernels is None
        or not x.numel()
        or x.dtype != torch.float32
        or x.device.type != "cpu"
        or torch.compiler.is_compiling()
    ):
        return None
    return None if torch.is_autocast_enabled("cpu") else _kernels

"""Rotary frequencies and their scalings, and the tables of cosines and sines that attention rotates by.

The formulas are those of the papers named in `RopeScaling`, in float32 and in the order of operations that published
models were made with. What is not here: the rotation itself (`models.ops.rotary`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zhixing.models.config import RopeScaling, TransformerConfig


def frequencies(theta: float | Tensor, dim: int) -> Tensor:
    """Returns theta^(-2i / dim) for i = 0 ... dim / 2 - 1 (Su et al. 2021, equation 15): (..., dim / 2)."""
    exponents = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    return 1.0 / (theta**exponents)


def scaled_frequencies(theta: float, dim: int, scaling: RopeScaling | None) -> Tensor:
    """Returns the frequencies, (dim / 2), where they do not depend on the length of the sequence."""
    plain = frequencies(theta, dim)
    if scaling is None:
        return plain
    match scaling.kind:
        case "linear":
            return plain / scaling.factor
        case "yarn":
            return _yarn(theta, dim, scaling)
        case "llama3":
            return _llama3(plain, scaling)
        case "dynamic" | "longrope":
            raise ValueError(f"the frequencies of {scaling.kind!r} scaling depend on the length")


def frequencies_at(theta: float, dim: int, scaling: RopeScaling, lengths: Tensor) -> Tensor:
    """Returns the frequencies for sequences of given lengths: (...) -> (..., dim / 2).

    Raises:
        ValueError: The scaling does not depend on the length.
    """
    length, original = lengths.unsqueeze(-1), scaling.original_context
    if scaling.kind == "dynamic":
        stretched = scaling.factor * length.clamp_min(original) / original - (scaling.factor - 1)
        return frequencies(theta * stretched ** (dim / (dim - 2)), dim)
    if scaling.kind == "longrope":
        divisors = torch.tensor([scaling.short_factors, scaling.long_factors], dtype=torch.float32)
        plain = theta ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)
        short, long = 1.0 / (divisors * plain)
        return torch.where(length > original, long, short)
    raise ValueError(f"the frequencies of {scaling.kind!r} scaling do not depend on the length")


def _yarn(theta: float, dim: int, scaling: RopeScaling) -> Tensor:
    """Divides the frequencies that turn seldom, keeps those that turn often, blends between (Peng et al. 2023)."""

    def dimension(turns: float) -> float:
        """The dimension that turns so often within the original context."""
        return dim * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # as published: no division by zero
    divided = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)  # (dim / 2)
    turns = theta ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)
    kept = 1 - divided
    return 1.0 / (scaling.factor * turns) * (1 - kept) + 1.0 / turns * kept


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Divides long wavelengths, keeps short ones, blends between (Grattafiori et al. 2024)."""
    low, high, original = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
    wavelength = 2 * math.pi / plain
    share = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - share) * plain / scaling.factor + share * plain


class RotaryTable(nn.Module):
    """Cosines and sines of the rotary angles, computed in float32.

    Where the frequencies are fixed, the table grows on demand; where they depend on the length of the sequence, each
    position has the frequencies of the sequence that it belongs to. It holds no weights and is not saved.

    Args:
        config: The network.
        local: The table of windowed layers, where they have frequencies of their own.
    """

    def __init__(self, config: TransformerConfig, local: bool = False) -> None:
        super().__init__()
        self.theta = config.local_rope_theta or config.rope_theta if local else config.rope_theta
        self.scaling = config.local_rope_scaling if local else config.rope_scaling
        self.dim = config.rotary_dim or config.head_dim
        self.sign = -1.0 if config.rope_reversed else 1.0
        self.attention_factor = self.scaling.attention_factor if self.scaling is not None else 1.0
        self.depends_on_length = self.scaling is not None and self.scaling.depends_on_length
        self._cos = self._sin = torch.empty(0)

    def forward(self, positions: Tensor, end: int, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Looks up cosines and sines.

        Args:
            positions: Any shape.
            end: Above every position.
            lengths: Length of the sequence that each position belongs to, broadcast to the positions; None means `end`.

        Returns:
            Two tensors of shape (*positions.shape, 1, dim / 2).
        """
        if self.depends_on_length:
            return self._at_length(positions, torch.tensor(end) if lengths is None else lengths)
        if end > len(self._cos) or self._cos.device != positions.device:
            self._grow(max(end, 2 * len(self._cos)), positions.device)
        return self._cos[positions].unsqueeze(-2), self._sin[positions].unsqueeze(-2)

    def _grow(self, length: int, device: torch.device) -> None:
        angles = torch.outer(torch.arange(length).float(), scaled_frequencies(self.theta, self.dim, self.scaling))
        self._cos = (angles.cos() * self.attention_factor).to(device)  # (length, dim / 2)
        self._sin = (angles.sin() * (self.attention_factor * self.sign)).to(device)

    def _at_length(self, positions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        assert self.scaling is not None
        turning = frequencies_at(self.theta, self.dim, self.scaling, lengths.cpu()).to(positions.device)
        angles = positions.unsqueeze(-1).float() * turning  # (..., dim / 2)
        cos, sin = angles.cos() * self.attention_factor, angles.sin() * (self.attention_factor * self.sign)
        return cos.unsqueeze(-2), sin.unsqueeze(-2)

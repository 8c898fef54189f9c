"""The small building blocks with weights: linear maps, norms, feed-forward parts, rotary tables."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.models import ops
from zhixing.models.config import Activation, TransformerConfig


class Linear(nn.Linear):
    """A linear map, computed by the fastest product that this device has."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        return ops.linear(x, self.weight, self.bias)


class Norm(nn.Module):
    """Root-mean-square or layer normalisation over the last dimension, with or without a learned scale."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: TransformerConfig, size: int | None = None) -> None:
        super().__init__()
        size = size or config.width
        self.kind, self.eps, self.size = config.norm, config.norm_eps, size
        self.register_parameter("weight", nn.Parameter(torch.ones(size)) if config.norm_weight else None)
        shifted = config.norm == "layer" and config.norm_weight
        self.register_parameter("bias", nn.Parameter(torch.zeros(size)) if shifted else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (..., size)."""
        if self.kind == "rms":
            return ops.rms_norm(x, self.weight, self.eps)
        return F.layer_norm(x, (self.size,), self.weight, self.bias, self.eps)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Applies a named non-linearity."""
    match activation:
        case "relu2":
            return ops.squared_relu(x)
        case "silu":
            return F.silu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "gelu":
            return F.gelu(x)
        case "relu":
            return F.relu(x)


class FeedForward(nn.Module):
    """The position-wise part: down(act(up(x))), or down(act(gate(x)) * up(x)) when gated (Shazeer 2020)."""

    gate: Linear | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation, self.biased = config.activation, config.mlp_bias
        self.gate = Linear(config.width, config.mlp_width, bias=config.mlp_bias) if config.gated else None
        self.up = Linear(config.width, config.mlp_width, bias=config.mlp_bias)
        self.down = Linear(config.mlp_width, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, time, width) to the same shape."""
        if self.activation == "relu2" and self.gate is None and not self.biased:
            return ops.squared_relu_feed_forward(x, self.up.weight, self.down.weight)
        if self.gate is None:
            hidden = activate(self.up(x), self.activation)
        else:
            hidden = activate(self.gate(x), self.activation) * self.up(x)
        y: Tensor = self.down(hidden)
        return y


class RotaryTable(nn.Module):
    """Cosines and sines of the rotary angles, grown on demand and computed in float32.

    The table holds no weights; it is not part of the saved model.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.theta, self.head_dim = config.rope_theta, config.head_dim
        self.sign = -1.0 if config.rope_reversed else 1.0
        self._cos = self._sin = torch.empty(0)

    def forward(self, positions: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of shape (*positions.shape, 1, head_dim / 2), for positions below `end`."""
        if end > len(self._cos) or self._cos.device != positions.device:
            self._grow(max(end, 2 * len(self._cos)), positions.device)
        return self._cos[positions].unsqueeze(-2), self._sin[positions].unsqueeze(-2)

    def _grow(self, length: int, device: torch.device) -> None:
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        frequencies = 1.0 / (self.theta**exponents)  # (head_dim / 2)
        angles = torch.outer(torch.arange(length).float(), frequencies)  # (length, head_dim / 2)
        self._cos = angles.cos().to(device)
        self._sin = (angles.sin() * self.sign).to(device)

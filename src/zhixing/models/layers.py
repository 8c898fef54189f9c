"""The small building blocks with weights: linear maps, norms, feed-forward parts."""

from __future__ import annotations

from collections.abc import Sequence

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

    @classmethod
    def joined(cls, x: Tensor, maps: Sequence[Linear]) -> Tensor:
        """Maps one input by several maps, whose outputs lie side by side: (..., in) -> (..., sum of outs)."""
        y = ops.joined_linear(x, [each.weight for each in maps])
        return y if maps[0].bias is None else y + torch.cat([each.bias for each in maps])


def side_by_side(x: Tensor, maps: Sequence[Linear]) -> Tensor:
    """Maps one input by several maps as one product; the first that is more than a plain map says how."""
    kind = next((type(each) for each in maps if type(each) is not Linear), Linear)
    return kind.joined(x, maps)


def read_side_by_side(x: Tensor, maps: Sequence[Linear]) -> Tensor:
    """The same without gradient: one product only where the weights lie in one matrix, for a copy costs more."""
    plain = all(type(each) is Linear and type(each.weight) is nn.Parameter for each in maps)
    if plain and ops.adjacent([each.weight for each in maps]) is not None:
        return Linear.joined(x, maps)
    return torch.cat([each(x) for each in maps], dim=-1)


class Embedding(nn.Embedding):
    """A table of vectors."""

    def reset_parameters(self) -> None:
        """Fills the table at random. Without memory there is nothing to fill, and PyTorch would take two seconds to
        load what draws no numbers."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Norm(nn.Module):
    """Root-mean-square or layer normalisation over the last dimension, with or without a learned scale."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: TransformerConfig, size: int | None = None) -> None:
        super().__init__()
        size = size or config.width
        self.kind, self.eps, self.size, self.offset = config.norm, config.norm_eps, size, config.norm_offset
        neutral = torch.full((size,), 1.0 - config.norm_offset)
        self.register_parameter("weight", nn.Parameter(neutral) if config.norm_weight else None)
        shifted = config.norm == "layer" and config.norm_weight
        self.register_parameter("bias", nn.Parameter(torch.zeros(size)) if shifted else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (..., size)."""
        if self.offset and self.weight is not None:
            # In float32 throughout, as Gemma does it: close to one, bfloat16 has few steps left for the distance.
            scale = self.weight.float() + self.offset
            if self.kind == "rms":
                return ops.rms_norm(x.float(), scale, self.eps).to(x.dtype)
            bias = None if self.bias is None else self.bias.float()
            return F.layer_norm(x.float(), (self.size,), scale, bias, self.eps).to(x.dtype)
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
        if (
            self.activation == "relu2"
            and self.gate is None
            and not self.biased
            and type(self.up) is type(self.down) is Linear
        ):
            return ops.squared_relu_feed_forward(x, self.up.weight, self.down.weight)
        if self.gate is None and self.activation in ("gelu", "gelu_tanh") and type(self.up) is Linear:
            hidden = ops.linear_gelu(x, self.up.weight, self.up.bias, tanh=self.activation == "gelu_tanh")
        elif self.gate is None:
            hidden = activate(self.up(x), self.activation)
        elif self.training and self.activation in ops.GATES:
            hidden = ops.gated(side_by_side(x, (self.gate, self.up)), self.activation)
        elif self.activation == "silu" and type(self.gate) is type(self.up) is Linear:
            gate, up = ((part.weight, part.bias) for part in (self.gate, self.up))
            hidden = ops.linear_silu_gated(x, gate, up)
        else:
            hidden = activate(self.gate(x), self.activation) * self.up(x)
        y: Tensor = self.down(hidden)
        return y

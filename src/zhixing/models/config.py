"""One frozen description of a Transformer, from which `models.transformer` builds it.

Every field is orthogonal to the others; a published architecture is a point in this space (see `families`).
Fields that only training reads (dropout, initialisation) are here too, because they belong to the network's definition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from zhixing.core.errors import BadInput

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu"]


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """A decoder-only Transformer.

    Attributes:
        vocab_size: Rows of the embedding table and of the output head.
        width: Size of the residual stream.
        layers: Number of blocks.
        heads: Query heads.
        kv_heads: Key and value heads; fewer than `heads` is grouped-query attention (Ainslie et al. 2023).
        head_dim: Size of one head.
        mlp_width: Hidden size of the feed-forward part.
        context: Longest sequence that the model was made for, in tokens.
        norm: Root-mean-square (Zhang & Sennrich 2019) or layer normalisation (Ba et al. 2016).
        norm_eps: Added to the mean square (or variance) before the root.
        norm_weight: Whether norms carry a learned scale (and, for layer norm, a shift).
        embedding_norm: Normalise the token embeddings before the first block.
        position: Rotary (Su et al. 2021), learned absolute, or none.
        rope_theta: Base of the rotary frequencies.
        rope_reversed: Rotate by the negative angle, as NanoChat does.
        qk_norm: Normalise queries and keys per head (Henry et al. 2020), before or after the rotation.
        activation: Non-linearity of the feed-forward part; `relu2` is squared ReLU (So et al. 2021).
        gated: Multiply the activation by a second projection (Shazeer 2020: SwiGLU and its kin).
        attention_bias: Biases on the query, key and value projections.
        attention_output_bias: Bias on the attention's output projection.
        mlp_bias: Biases on the feed-forward projections.
        tied: The output head shares the embedding table.
        logit_softcap: Cap `c` of the logits, `c * tanh(logits / c)` (Gemma 2); None leaves them as they are.
        dropout: Share of residual-branch and embedding values zeroed in training.
        attention_dropout: Share of attention weights zeroed in training.
        init_std: Standard deviation of the initial weights; None means `1 / sqrt(fan_in)` per matrix.
        zero_init_outputs: Start the projections that write to the residual stream at zero.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    context: int
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    norm_weight: bool = True
    embedding_norm: bool = False
    position: Literal["rotary", "learned", "none"] = "rotary"
    rope_theta: float = 10_000.0
    rope_reversed: bool = False
    qk_norm: Literal["none", "before_rotary", "after_rotary"] = "none"
    activation: Activation = "silu"
    gated: bool = True
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    logit_softcap: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float | None = 0.02
    zero_init_outputs: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "context")
        for name in sizes:
            value = getattr(self, name)
            if value < 1:
                raise BadInput(f"model.{name} must be at least 1, got {value}")
        if self.heads % self.kv_heads:
            raise BadInput(
                f"model.heads ({self.heads}) must be a multiple of model.kv_heads ({self.kv_heads})",
                remedy="choose kv_heads that divides heads",
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise BadInput(
                f"rotary positions need an even model.head_dim, got {self.head_dim}",
                remedy="choose another width or number of heads, or set head_dim",
            )
        if self.position == "rotary" and not 0 < self.rope_theta < math.inf:
            raise BadInput(f"model.rope_theta must be above 0, got {self.rope_theta}")
        if not 0 <= self.norm_eps < 1:
            raise BadInput(f"the norms' epsilon must be at least 0 and below 1, got {self.norm_eps}")
        if self.logit_softcap is not None and not self.logit_softcap > 0:
            raise BadInput(f"model.logit_softcap must be above 0, got {self.logit_softcap}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"model.{name} must be at least 0 and below 1, got {getattr(self, name)}")

    def parameter_count(self) -> int:
        """Returns the number of learned values, a tied table counted once."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        attention += self.attention_bias * self.head_dim * (self.heads + 2 * self.kv_heads)
        attention += self.attention_output_bias * self.width
        mlp = (3 if self.gated else 2) * self.width * self.mlp_width
        mlp += self.mlp_bias * (self.mlp_width * (2 if self.gated else 1) + self.width)
        one_norm = self.norm_weight * self.width * (2 if self.norm == "layer" else 1)
        qk = 2 * self.head_dim * (self.qk_norm != "none") * self.norm_weight
        tables = self.vocab_size * self.width * (1 if self.tied else 2)
        tables += self.context * self.width * (self.position == "learned")
        norms = (2 * self.layers + 1 + self.embedding_norm) * one_norm
        return self.layers * (attention + mlp + qk) + norms + tables

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""
        return f"{self.layers} layers, {self.width} wide, {self.heads} heads"

    def flops_per_token(self, context: int) -> float:
        """Returns the floating-point operations of one training step, per token.

        Six per weight that takes part in a matrix product (two forward, four backward) and 12 * heads * head_dim *
        context per layer for attention (Chowdhery et al. 2022, appendix B), the causal half counted in full, as is
        usual, so that the figure compares with other reports.
        """
        matrices = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        matrices += (3 if self.gated else 2) * self.width * self.mlp_width
        products = self.layers * matrices + self.vocab_size * self.width
        return 6.0 * products + 12.0 * self.layers * self.heads * self.head_dim * context

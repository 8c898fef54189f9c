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
class RopeScaling:
    """How rotary frequencies are changed so that a model reaches further than it was first trained.

    Attributes:
        kind: `linear` divides all frequencies (Chen et al. 2023); `dynamic` raises the base with the length of the
            sequence (NTK-aware); `yarn` divides low frequencies and keeps high ones (Peng et al. 2023); `llama3`
            likewise with other bounds (Grattafiori et al. 2024); `longrope` divides each frequency by a factor of its
            own, one set for short sequences and one for long (Ding et al. 2024).
        factor: How many times further; 1 where `kind` has factors of its own.
        original_context: Length that the unscaled frequencies were made for.
        attention_factor: Multiplies cosines and sines (yarn, longrope).
        low_freq_factor: Wavelengths above `original_context / low_freq_factor` are divided in full (llama3).
        high_freq_factor: Wavelengths below `original_context / high_freq_factor` stay (llama3).
        beta_fast: Dimensions that turn more often than this within the original context stay (yarn).
        beta_slow: Dimensions that turn less often than this are divided in full (yarn).
        truncate: Round the bounds that follow from the two betas to whole dimensions (yarn).
        short_factors: Divisors for sequences up to the original context, one per frequency (longrope).
        long_factors: Divisors for longer sequences (longrope).
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3", "longrope"]
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies change with the length of the sequence, and not only with the position."""
        return self.kind in ("dynamic", "longrope")

    def check(self, rotary_dim: int, theta: float) -> None:
        """Refuses values that give no frequencies.

        Raises:
            BadInput: Naming the value.
        """
        if not 0 < self.factor < math.inf:
            raise BadInput(f"the rope scaling's factor must be above 0, got {self.factor}")
        if not 0 < self.attention_factor < math.inf:
            raise BadInput(f"the rope scaling's attention_factor must be above 0, got {self.attention_factor}")
        if self.kind != "linear" and self.original_context < 1:
            raise BadInput(f"rope scaling of type {self.kind!r} needs the original context length")
        if self.kind == "dynamic" and (rotary_dim <= 2 or self.factor < 1):
            raise BadInput(
                "rope scaling of type 'dynamic' needs a factor of at least 1 and more than two rotated dimensions,"
                f" got {self.factor} and {rotary_dim}"
            )
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise BadInput(
                "the rope scaling's low_freq_factor must be above 0 and below high_freq_factor,"
                f" got {self.low_freq_factor} and {self.high_freq_factor}"
            )
        if self.kind == "yarn" and not (self.beta_fast > 0 and self.beta_slow > 0 and theta > 1):
            raise BadInput(
                "rope scaling of type 'yarn' needs betas above 0 and a rope_theta above 1,"
                f" got {self.beta_fast}, {self.beta_slow} and {theta}"
            )
        if self.kind == "longrope":
            for name in ("short_factors", "long_factors"):
                factors = getattr(self, name)
                if len(factors) != rotary_dim // 2 or not all(0 < value < math.inf for value in factors):
                    raise BadInput(
                        f"the rope scaling's {name.removesuffix('s')} must be {rotary_dim // 2} numbers above 0"
                        f" (half of the rotated dimensions), got {len(factors)}"
                    )


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
        norm_offset: Added to the learned scale: with 1, as in Gemma, the stored weights are distances from one.
        norm_placement: Where a block normalises: what its parts read (`pre`), what they write before it is added to the
            residual stream (`post`, OLMo 2), both (`sandwich`, Gemma 2), or the stream after each addition (`residual`,
            Vaswani et al. 2017; BERT).
        parallel_residual: Attention and feed-forward read the same stream, and both are added to it (GPT-NeoX).
        embedding_norm: Normalise the token embeddings before the first block.
        scale_embeddings: Multiply the token embeddings by sqrt(width) (Vaswani et al. 2017, section 3.4; Gemma).
        position: Rotary (Su et al. 2021), learned absolute, sinusoidal (Vaswani et al. 2017), buckets of relative
            distances (Raffel et al. 2020, T5), or none.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: Change of the frequencies for long contexts; None leaves them as they are.
        rope_reversed: Rotate by the negative angle, as NanoChat does.
        rotary_dim: Leading dimensions of each head that are rotated; None means all (GPT-NeoX rotates a quarter).
        rotary_layers: Per layer, whether it rotates; empty means all do (in SmolLM3 every fourth does not).
        window: Tokens that a windowed layer sees, itself included (Beltagy et al. 2020); None means no windows.
        window_layers: Per layer, whether it is windowed; empty means that all are.
        local_rope_theta: Base of the rotary frequencies in windowed layers; None means as elsewhere (Gemma 3).
        local_rope_scaling: Scaling in windowed layers, where they have a base of their own.
        qk_norm: Normalise queries and keys (Henry et al. 2020), before or after the rotation.
        qk_norm_scope: Normalise each head by itself, or all heads of the projection together (OLMo 2).
        attention_scale: Factor on the attention scores; None means 1 / sqrt(head_dim).
        attention_softcap: Cap of the scaled attention scores, `c * tanh(scores / c)` (Gemma 2).
        activation: Non-linearity of the feed-forward part; `relu2` is squared ReLU (So et al. 2021).
        gated: Multiply the activation by a second projection (Shazeer 2020: SwiGLU and its kin).
        attention_bias: Biases on the query, key and value projections.
        attention_output_bias: Bias on the attention's output projection.
        mlp_bias: Biases on the feed-forward projections.
        tied: The output head shares the embedding table.
        logit_softcap: Cap `c` of the logits, `c * tanh(logits / c)` (Gemma 2); None leaves them as they are.
        dropout: Share of residual-branch and embedding values zeroed in training.
        attention_dropout: Share of attention weights zeroed in training.
        causal: Each position sees only those before it (a decoder), or all (an encoder).
        position_offset: Rows at the front of the learned positions that no token has (RoBERTa).
        token_types: Kinds of segments with an embedding of their own (BERT's two sentences); 0 means none.
        embedding_width: Size of the token embeddings, where it is not `width` (ELECTRA).
        relative_buckets: Buckets of relative distances.
        relative_distance: Distance from which on all share the last bucket.
        cross_width: Width of the states of another network that every block reads, too, between its attention and its
            feed-forward part (Vaswani et al. 2017); None: it reads none.
        head_bias: The head adds a bias to the logits (BART, Marian).
        logit_scale: Factor on what the head reads, where its weights are shared with the embeddings (T5).
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
    norm_offset: float = 0.0
    norm_placement: Literal["pre", "post", "sandwich", "residual"] = "pre"
    parallel_residual: bool = False
    embedding_norm: bool = False
    scale_embeddings: bool = False
    position: Literal["rotary", "learned", "sinusoidal", "relative", "none"] = "rotary"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rope_reversed: bool = False
    rotary_dim: int | None = None
    rotary_layers: tuple[bool, ...] = ()
    window: int | None = None
    window_layers: tuple[bool, ...] = ()
    local_rope_theta: float | None = None
    local_rope_scaling: RopeScaling | None = None
    qk_norm: Literal["none", "before_rotary", "after_rotary"] = "none"
    qk_norm_scope: Literal["head", "projection"] = "head"
    attention_scale: float | None = None
    attention_softcap: float | None = None
    activation: Activation = "silu"
    gated: bool = True
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    logit_softcap: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    causal: bool = True
    position_offset: int = 0
    token_types: int = 0
    embedding_width: int | None = None
    relative_buckets: int = 32
    relative_distance: int = 128
    cross_width: int | None = None
    head_bias: bool = False
    logit_scale: float | None = None
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
        if self.position == "rotary":
            self._check_rotary()
        self._check_layers()
        if not 0 <= self.norm_eps < 1:
            raise BadInput(f"the norms' epsilon must be at least 0 and below 1, got {self.norm_eps}")
        self._check_both_sides()
        for name in ("logit_softcap", "attention_softcap", "attention_scale", "logit_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BadInput(f"model.{name} must be above 0, got {value}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"model.{name} must be at least 0 and below 1, got {getattr(self, name)}")

    def _check_both_sides(self) -> None:
        """Checks what encoders and the decoders behind them have, and other networks do not."""
        if self.cross_width is not None and self.cross_width < 1:
            raise BadInput(f"model.cross_width must be at least 1, got {self.cross_width}")
        if self.parallel_residual and (self.cross_width is not None or self.norm_placement == "residual"):
            raise BadInput("model.parallel_residual goes neither with cross-attention nor with norms in the stream")
        if self.position == "sinusoidal" and self.width % 2:
            raise BadInput(f"sinusoidal positions need an even model.width, got {self.width}")
        if self.position == "relative":
            least = 2 if self.causal else 4
            if self.relative_buckets < least or self.relative_distance <= self.relative_buckets // 2:
                raise BadInput(
                    f"relative positions need model.relative_buckets of at least {least} and a model.relative_distance"
                    f" above half of that, got {self.relative_buckets} and {self.relative_distance}"
                )
            if self.window is not None or self.attention_softcap is not None:
                raise BadInput("relative positions go neither with windows nor with capped scores")

    def _check_rotary(self) -> None:
        if self.rotary_dim is None and self.head_dim % 2:
            raise BadInput(
                f"rotary positions need an even model.head_dim, got {self.head_dim}",
                remedy="choose another width or number of heads, or set head_dim",
            )
        if self.rotary_dim is not None and (self.rotary_dim % 2 or not 2 <= self.rotary_dim <= self.head_dim):
            raise BadInput(
                f"model.rotary_dim must be even, and from 2 to head_dim ({self.head_dim}), got {self.rotary_dim}"
            )
        local = (self.local_rope_theta, self.local_rope_scaling)
        for theta, scaling in ((self.rope_theta, self.rope_scaling), local):
            if theta is not None and not 0 < theta < math.inf:
                raise BadInput(f"model.rope_theta must be above 0, got {theta}")
            if theta is not None and scaling is not None:
                scaling.check(self.rotary_dim or self.head_dim, theta)

    def _check_layers(self) -> None:
        for name in ("rotary_layers", "window_layers"):
            given = len(getattr(self, name))
            if given not in (0, self.layers):
                raise BadInput(f"model.{name} is given for {given} layers, but there are {self.layers}")
        if self.window is not None and self.window < 1:
            raise BadInput(f"model.window must be at least 1, got {self.window}")
        if self.window is None and any(self.window_layers):
            raise BadInput("model.window_layers names windowed layers, but model.window is not given")

    def layer_window(self, layer: int) -> int | None:
        """Returns how many tokens a layer sees, or None when it sees all before it."""
        windowed = not self.window_layers or self.window_layers[layer]
        return self.window if windowed else None

    def layer_rotates(self, layer: int) -> bool:
        """Tells whether a layer has rotary positions."""
        return self.position == "rotary" and (not self.rotary_layers or self.rotary_layers[layer])

    def layer_is_local(self, layer: int) -> bool:
        """Tells whether a layer rotates by the frequencies of windowed layers, where those differ."""
        return self.local_rope_theta is not None and self.layer_window(layer) is not None

    def parameter_count(self) -> int:
        """Returns the number of learned values, a tied table counted once."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        attention += self.attention_bias * self.head_dim * (self.heads + 2 * self.kv_heads)
        attention += self.attention_output_bias * self.width
        mlp = (3 if self.gated else 2) * self.width * self.mlp_width
        mlp += self.mlp_bias * (self.mlp_width * (2 if self.gated else 1) + self.width)
        one_norm = self.norm_weight * self.width * (2 if self.norm == "layer" else 1)
        whole = self.qk_norm_scope == "projection"
        qk = self.head_dim * (self.heads + self.kv_heads if whole else 2) * (2 if self.norm == "layer" else 1)
        qk *= (self.qk_norm != "none") * self.norm_weight
        tables = self.vocab_size * self.width * (1 if self.tied else 2)
        tables += (self.context + self.position_offset) * self.width * (self.position == "learned")
        tables += self.relative_buckets * self.heads * (self.position == "relative") + self.vocab_size * self.head_bias
        parts = 2 if self.cross_width is None else 3
        per_block = 2 * parts if self.norm_placement == "sandwich" else parts
        norms = (per_block * self.layers + (self.norm_placement != "residual") + self.embedding_norm) * one_norm
        return self.layers * (attention + self._cross_parameters() + mlp + qk) + norms + tables

    def _cross_parameters(self) -> int:
        """Returns the learned values of one layer's cross-attention."""
        if self.cross_width is None:
            return 0
        matrices = self.head_dim * (2 * self.heads * self.width + 2 * self.kv_heads * self.cross_width)
        biases = self.attention_bias * self.head_dim * (self.heads + 2 * self.kv_heads)
        return matrices + biases + self.attention_output_bias * self.width

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
        if self.cross_width is not None:  # with as many states as tokens
            matrices += self.head_dim * (2 * self.heads * self.width + 2 * self.kv_heads * self.cross_width)
        products = self.layers * matrices + self.vocab_size * self.width
        return 6.0 * products + 12.0 * self.layers * self.heads * self.head_dim * context

"""Gemma 2 (Riviere et al. 2024): norms before and behind each part, stored as distances from one; scaled embeddings;
a window in every other layer; soft-capped attention scores and logits.
"""

from __future__ import annotations

from typing import Any

from zhixing.core.errors import BadInput
from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import (
    attention_bias_field,
    common_fields,
    fixing,
    layer_types,
    layout_names,
    read_attention_bias,
    read_common,
    read_windows,
    require_divisible,
)
from zhixing.models.config import TransformerConfig

GEMMA: dict[str, Any] = {
    "norm_offset": 1.0, "norm_placement": "sandwich", "scale_embeddings": True, "mlp_bias": False,
}  # fmt: skip
"""What Gemma 2 and 3 have otherwise than Llama."""

OPEN = ["window", "window_layers", "attention_scale", "logit_softcap"]
FIXED = fixing([*OPEN, "attention_softcap"], **GEMMA)
SANDWICH = {
    "attention_norm": "input_layernorm", "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm", "mlp_post_norm": "post_feedforward_layernorm",
}  # fmt: skip


def read_gemma(reader: ConfigReader, context: int, rope: bool = True) -> dict[str, Any]:
    """Reads what Gemma 2 and 3 have in common."""
    reader.expect("use_bidirectional_attention", False)
    reader.take("hidden_act")  # hidden_activation counts, and has a default
    reader.take("sliding_window_size")  # an old name that stands beside sliding_window
    fields = read_common(
        reader, context=context, kv_heads=4, head_dim=256, tied=True, activation="gelu_pytorch_tanh",
        activation_key="hidden_activation", rope=rope,
    )  # fmt: skip
    scalar = reader.number("query_pre_attn_scalar", 256)
    if scalar <= 0:
        reader.refuse("query_pre_attn_scalar", "is not above 0")
    fields["attention_scale"] = None if scalar == fields["head_dim"] else scalar**-0.5
    return {**fields, **read_attention_bias(reader)}


def gemma_fields(config: TransformerConfig, family: str, rope: bool = True) -> dict[str, Any]:
    """Writes them."""
    require_divisible(config, family)
    scalar = config.head_dim if config.attention_scale is None else round(config.attention_scale**-2)
    if config.attention_scale is not None and abs(config.attention_scale**-2 - scalar) > 1e-6 * scalar:
        raise BadInput(
            f"the family {family!r} needs an attention_scale of 1 / sqrt(n), n a whole number,"
            f" got {config.attention_scale}"
        )
    return {
        **common_fields(config, "hidden_activation", rope),
        **attention_bias_field(config, family),
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


def _read(reader: ConfigReader) -> TransformerConfig:
    fields = read_gemma(reader, context=8192)
    layers = fields["layers"]
    window = reader.optional_size("sliding_window", 4096)
    return TransformerConfig(
        **fields, **FIXED, **read_windows(reader, layers, window, [layer % 2 == 0 for layer in range(layers)]),
        attention_softcap=reader.optional_number("attn_logit_softcapping", 50.0),
        logit_softcap=reader.optional_number("final_logit_softcapping", 30.0),
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {**gemma_fields(config, "gemma2"), "attn_logit_softcapping": config.attention_softcap}


GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    examples="Gemma 2 2B, 9B, 27B",
    read_config=_read,
    write_config=_write,
    names=layout_names(norms=SANDWICH),
    fixed=FIXED,
    defaults={"activation": "gelu_tanh", "tied": True, "attention_softcap": 50.0, "logit_softcap": 30.0},
)

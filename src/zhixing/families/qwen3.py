"""Qwen3 (Yang et al. 2025): Llama's layout with queries and keys normalised per head before the rotation."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family, Names
from zhixing.families.llama import BLOCK_NAMES, OUTER_NAMES, common_fields, common_sizes
from zhixing.families.llama import FIXED as LLAMA_FIXED
from zhixing.models.config import TransformerConfig

FIXED: dict[str, Any] = {**LLAMA_FIXED, "qk_norm": "before_rotary"}


def _read(reader: ConfigReader) -> TransformerConfig:
    reader.expect("hidden_act", "silu")
    reader.expect("attention_bias", False)
    reader.expect("use_sliding_window", False)
    reader.take("sliding_window")  # both are inert while use_sliding_window is false
    reader.take("max_window_layers")
    layer_types = reader.take("layer_types", [])
    if not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types):
        reader.expect("layer_types", [])
    sizes = common_sizes(reader)
    sizes["head_dim"] = reader.size("head_dim", 128)
    return TransformerConfig(
        **sizes, **FIXED, rope_theta=reader.rope_theta(10_000.0),
        tied=reader.flag("tie_word_embeddings", False),
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {**common_fields(config), "hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}


QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    read_config=_read,
    write_config=_write,
    names=Names(
        [
            *BLOCK_NAMES,
            *OUTER_NAMES,
            ("blocks.{i}.attention.query_norm.weight", "model.layers.{i}.self_attn.q_norm.weight"),
            ("blocks.{i}.attention.key_norm.weight", "model.layers.{i}.self_attn.k_norm.weight"),
        ]
    ),
    fixed=FIXED,
)

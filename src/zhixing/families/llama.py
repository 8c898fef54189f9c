"""Llama (Touvron et al. 2023): RMS norms, rotary positions, grouped heads, SwiGLU, no biases."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import MOST_LAYERS, ConfigReader, Family, Names
from zhixing.models.config import TransformerConfig

BLOCK_NAMES = [
    ("blocks.{i}.attention_norm.weight", "model.layers.{i}.input_layernorm.weight"),
    ("blocks.{i}.attention.query.weight", "model.layers.{i}.self_attn.q_proj.weight"),
    ("blocks.{i}.attention.key.weight", "model.layers.{i}.self_attn.k_proj.weight"),
    ("blocks.{i}.attention.value.weight", "model.layers.{i}.self_attn.v_proj.weight"),
    ("blocks.{i}.attention.output.weight", "model.layers.{i}.self_attn.o_proj.weight"),
    ("blocks.{i}.mlp_norm.weight", "model.layers.{i}.post_attention_layernorm.weight"),
    ("blocks.{i}.mlp.gate.weight", "model.layers.{i}.mlp.gate_proj.weight"),
    ("blocks.{i}.mlp.up.weight", "model.layers.{i}.mlp.up_proj.weight"),
    ("blocks.{i}.mlp.down.weight", "model.layers.{i}.mlp.down_proj.weight"),
]
"""Weight names inside a layer, shared by the families that follow Llama's layout."""

OUTER_NAMES = [
    ("embedding.weight", "model.embed_tokens.weight"),
    ("final_norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
]
"""Weight names outside the layers, likewise."""


def common_sizes(reader: ConfigReader) -> dict[str, Any]:
    """Reads the sizes that every family in Llama's layout has."""
    width, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    return {
        "vocab_size": reader.size("vocab_size"),
        "width": width,
        "layers": reader.size("num_hidden_layers", most=MOST_LAYERS),
        "heads": heads,
        "kv_heads": reader.size("num_key_value_heads", heads),
        "head_dim": reader.size("head_dim", max(1, width // heads)),
        "mlp_width": reader.size("intermediate_size"),
        "context": reader.size("max_position_embeddings", 2048),
        "norm_eps": reader.number("rms_norm_eps", 1e-6),
        "attention_dropout": reader.number("attention_dropout", 0.0),
    }


def common_fields(config: TransformerConfig) -> dict[str, Any]:
    """Writes the fields that every family in Llama's layout has."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.tied,
    }


FIXED: dict[str, Any] = {
    "norm": "rms", "norm_weight": True, "embedding_norm": False, "position": "rotary", "rope_reversed": False,
    "qk_norm": "none", "activation": "silu", "gated": True, "logit_softcap": None,
    "attention_bias": False, "attention_output_bias": False, "mlp_bias": False,
}  # fmt: skip


def _read(reader: ConfigReader) -> TransformerConfig:
    reader.expect("hidden_act", "silu")
    reader.expect("attention_bias", False)
    reader.expect("mlp_bias", False)
    return TransformerConfig(
        **common_sizes(reader), **FIXED, rope_theta=reader.rope_theta(10_000.0),
        tied=reader.flag("tie_word_embeddings", False),
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {**common_fields(config), "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    read_config=_read,
    write_config=_write,
    names=Names(BLOCK_NAMES + OUTER_NAMES),
    fixed=FIXED,
    ignored=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
)

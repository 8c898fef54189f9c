"""GPT-2 (Radford et al. 2019): layer norms, learned positions, biases everywhere, tied head.

Its published weights are transposed (they come from a one-dimensional convolution), with query, key and value fused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.families.base import (
    MOST_LAYERS,
    ConfigReader,
    Family,
    Names,
    Weights,
    activation_name,
    join_rows,
    split_rows,
)
from zhixing.families.common import fixing, require_whole_heads
from zhixing.models.config import TransformerConfig

FIXED = fixing(
    norm="layer", position="learned", gated=False, attention_bias=True, attention_output_bias=True, mlp_bias=True
)


def _read(reader: ConfigReader) -> TransformerConfig:
    reader.expect("add_cross_attention", False)
    return _read_sizes(reader)


def _read_sizes(reader: ConfigReader) -> TransformerConfig:
    reader.expect("scale_attn_weights", True)
    reader.expect("scale_attn_by_inverse_layer_idx", False)
    reader.take("reorder_and_upcast_attn")  # a matter of precision only
    reader.take("n_ctx")  # an old name of n_positions
    width, heads = reader.size("n_embd", 768), reader.size("n_head", 12)
    dropout = reader.number("resid_pdrop", 0.1)
    reader.take("embd_pdrop")  # training only; one rate serves both here
    return TransformerConfig(
        vocab_size=reader.size("vocab_size", 50257), width=width, heads=heads, kv_heads=heads,
        layers=reader.size("n_layer", 12, most=MOST_LAYERS), head_dim=max(1, width // heads),
        mlp_width=reader.size("n_inner", 4 * width),
        context=reader.size("n_positions", 1024), norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        activation=reader.activation("activation_function", "gelu_new"), dropout=dropout,
        attention_dropout=reader.number("attn_pdrop", 0.1),
        tied=reader.flag("tie_word_embeddings", True), **FIXED,
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    require_whole_heads(config, "gpt2", grouped=False)
    mlp_width = None if config.mlp_width == 4 * config.width else config.mlp_width
    activation = "gelu_new" if config.activation == "gelu_tanh" else activation_name(config.activation)
    return {
        "vocab_size": config.vocab_size, "n_embd": config.width, "n_layer": config.layers, "n_head": config.heads,
        "n_inner": mlp_width, "n_positions": config.context, "layer_norm_epsilon": config.norm_eps,
        "activation_function": activation, "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout, "attn_pdrop": config.attention_dropout, "tie_word_embeddings": config.tied,
    }  # fmt: skip


TRANSPOSED = (
    "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight", "crossattention.c_attn.weight",
    "crossattention.c_proj.weight", "crossattention.q_attn.weight",
)  # fmt: skip
PARTS = ("query", "key", "value")


def _transposed(weights: Weights) -> Weights:
    return {
        name: tensor.t().contiguous() if name.endswith(TRANSPOSED) and tensor.dim() == 2 else tensor
        for name, tensor in weights.items()
    }


def _split(published: Weights, config: TransformerConfig) -> Weights:
    """Undoes the transposition and the fusion."""
    return split_rows(_transposed(published), "c_attn", dict.fromkeys(PARTS, config.width))


def _fuse(named: Weights, config: TransformerConfig) -> Weights:
    return _transposed(join_rows(named, "c_attn", PARTS))


def _names() -> list[tuple[str, str]]:
    pairs = [
        ("embedding.weight", "transformer.wte.weight"),
        ("positions.weight", "transformer.wpe.weight"),
        ("head.weight", "lm_head.weight"),
    ]
    parts = {
        "attention_norm": "ln_1", "attention.query": "attn.query", "attention.key": "attn.key",
        "attention.value": "attn.value", "attention.output": "attn.c_proj", "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        pairs += [
            (f"blocks.{{i}}.{ours}.{kind}", f"transformer.h.{{i}}.{theirs}.{kind}") for ours, theirs in parts.items()
        ]
        pairs.append((f"final_norm.{kind}", f"transformer.ln_f.{kind}"))
    return pairs


NAMES = _names()

GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    examples="GPT-2 124M to 1.5B, DistilGPT-2",
    read_config=_read,
    write_config=_write,
    names=Names(NAMES),
    fixed=FIXED,
    split=_split,
    defaults={"activation": "gelu_tanh", "norm_eps": 1e-5, "tied": True},
    fuse=_fuse,
    prefix="transformer.",
    ignored=r".*\.h\.\d+\.attn\.(masked_)?bias",
)


CROSS = "crossattention.c_attn"
CROSS_PARTS = ("crossattention.key", "crossattention.value")


def _read_with_source(reader: ConfigReader) -> TransformerConfig:
    reader.expect("add_cross_attention", True)
    reader.expect("cross_attention_hidden_size", None)
    config = _read_sizes(reader)
    return replace(config, cross_width=config.width)


def _write_with_source(config: TransformerConfig) -> dict[str, Any]:
    if config.cross_width != config.width:
        raise BadInput(f"GPT-2 reads states of its own width, {config.width}, got {config.cross_width}")
    return {**_write(config), "add_cross_attention": True, "is_decoder": True}


def _split_with_source(published: Weights, config: TransformerConfig) -> Weights:
    return split_rows(_split(published, config), CROSS, dict.fromkeys(CROSS_PARTS, config.width))


def _fuse_with_source(named: Weights, config: TransformerConfig) -> Weights:
    # First of all, because a key of cross-attention is no part of what self-attention joins.
    return _fuse(join_rows(named, CROSS, CROSS_PARTS), config)


CROSS_NAMES = {
    "cross_norm": "ln_cross_attn", "cross_attention.query": "crossattention.q_attn",
    "cross_attention.key": "crossattention.key", "cross_attention.value": "crossattention.value",
    "cross_attention.output": "crossattention.c_proj",
}  # fmt: skip

GPT2_READER = replace(
    GPT2,
    read_config=_read_with_source,
    write_config=_write_with_source,
    names=Names(
        [
            *NAMES,
            *(
                (f"blocks.{{i}}.{ours}.{kind}", f"transformer.h.{{i}}.{theirs}.{kind}")
                for ours, theirs in CROSS_NAMES.items()
                for kind in ("weight", "bias")
            ),
        ]
    ),
    split=_split_with_source,
    fuse=_fuse_with_source,
    optional=frozenset({"cross_width"}),
    ignored=r".*\.h\.\d+\.(attn|crossattention)\.(masked_)?bias",
)
"""GPT-2 as the decoder behind another network: with cross-attention in every layer. By itself it writes nothing."""

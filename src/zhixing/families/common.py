"""What the families in Llama's layout share: most of them differ from it in two or three fields.

A family file takes from here the names of the weights and the fields of the configuration, and adds what is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.families.base import MOST_LAYERS, ConfigReader, Names, activation_name
from zhixing.families.rope import published_context, read_rope, rope_fields
from zhixing.models.config import TransformerConfig

PLAIN: dict[str, Any] = {
    "norm": "rms", "norm_weight": True, "norm_offset": 0.0, "norm_placement": "pre", "parallel_residual": False,
    "embedding_norm": False, "scale_embeddings": False, "position": "rotary", "rope_reversed": False,
    "rotary_dim": None, "rotary_layers": (), "window": None, "window_layers": (), "local_rope_theta": None,
    "local_rope_scaling": None, "qk_norm": "none", "qk_norm_scope": "head", "attention_scale": None,
    "attention_softcap": None, "gated": True, "logit_softcap": None,
}  # fmt: skip
"""Llama's value of every field that some family has otherwise."""

NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
"""Norms of a block, ours and Llama's."""

LINEAR = {
    "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}  # fmt: skip
"""Linear maps of a block, ours and Llama's."""

QK_NORMS = {"attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm"}
"""Norms of queries and keys, where a family has them."""


def fixing(open_fields: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    """Returns `PLAIN` without the fields that a family leaves open, and with those that it has otherwise."""
    return {key: value for key, value in {**PLAIN, **changes}.items() if key not in open_fields}


def block_names(parts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the pairs of weight and bias names of a block's parts."""
    return [
        (f"blocks.{{i}}.{ours}.{kind}", f"model.layers.{{i}}.{theirs}.{kind}")
        for ours, theirs in parts.items()
        for kind in ("weight", "bias")
    ]


def layout_names(norms: Mapping[str, str] = NORMS, linear: Mapping[str, str] = LINEAR) -> Names:
    """Returns Llama's table of names, with the norms and linear maps given."""
    outer = [
        ("embedding.weight", "model.embed_tokens.weight"),
        ("final_norm.weight", "model.norm.weight"),
        ("final_norm.bias", "model.norm.bias"),
        ("head.weight", "lm_head.weight"),
    ]
    return Names([*block_names({**norms, **linear}), *outer])


def read_common(
    reader: ConfigReader,
    *,
    context: int = 2048,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    norm_eps: float = 1e-6,
    theta: float = 10_000.0,
    tied: bool = False,
    activation: str = "silu",
    activation_key: str = "hidden_act",
    rope: bool = True,
) -> dict[str, Any]:
    """Reads the fields that every family in Llama's layout has.

    Args:
        reader: The configuration.
        context: The family's value where `max_position_embeddings` is absent; so for the others.
        kv_heads: None means as many as heads.
        head_dim: None means the width divided by the heads.
        norm_eps: Of `rms_norm_eps`.
        theta: Of `rope_theta`.
        tied: Of `tie_word_embeddings`.
        activation: Published name of the non-linearity.
        activation_key: The field that it stands in.
        rope: Read the rotary fields too; False where the family has them in another form.
    """
    width, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    context = reader.size("max_position_embeddings", context)
    fields = {
        "vocab_size": reader.size("vocab_size"),
        "width": width,
        "layers": reader.size("num_hidden_layers", most=MOST_LAYERS),
        "heads": heads,
        "kv_heads": reader.optional_size("num_key_value_heads", kv_heads) or heads,
        "head_dim": reader.optional_size("head_dim", head_dim) or max(1, width // heads),
        "mlp_width": reader.size("intermediate_size"),
        "context": context,
        "norm_eps": reader.number("rms_norm_eps", norm_eps),
        "activation": reader.activation(activation_key, activation),
        "attention_dropout": reader.number("attention_dropout", 0.0),
        "tied": reader.flag("tie_word_embeddings", tied),
    }
    return {**fields, **(read_rope(reader, context, theta) if rope else {})}


def common_fields(config: TransformerConfig, activation_key: str = "hidden_act", rope: bool = True) -> dict[str, Any]:
    """Writes the fields that every family in Llama's layout has; the inverse of `read_common`."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": published_context(config),
        "rms_norm_eps": config.norm_eps,
        activation_key: activation_name(config.activation),
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.tied,
        **(rope_fields(config) if rope else {}),
    }


def read_attention_bias(reader: ConfigReader) -> dict[str, Any]:
    """Reads the one field that stands for the biases of all four projections of attention."""
    biased = reader.flag("attention_bias", False)
    return {"attention_bias": biased, "attention_output_bias": biased}


def attention_bias_field(config: TransformerConfig, family: str) -> dict[str, bool]:
    """Writes it, refusing biases on some of the projections only."""
    if config.attention_bias != config.attention_output_bias:
        raise BadInput(
            f"the family {family!r} has biases on all projections of attention or on none",
            remedy="set model.attention_bias and model.attention_output_bias alike, or choose another model.family",
        )
    return {"attention_bias": config.attention_bias}


def require_divisible(config: TransformerConfig, family: str) -> None:
    """Refuses a width that is not a multiple of the heads, which some architectures do not open."""
    if config.width % config.heads:
        raise BadInput(
            f"the family {family!r} needs a width that is a multiple of the heads, got {config.width} and"
            f" {config.heads}",
            where="model",
            remedy="choose heads that divide the width",
        )


def require_whole_heads(config: TransformerConfig, family: str, grouped: bool = True) -> None:
    """Refuses heads that do not make up the width, and grouped ones where the architecture has none."""
    if config.head_dim * config.heads != config.width or not (grouped or config.kv_heads == config.heads):
        raise BadInput(
            f"the family {family!r} needs {'' if grouped else 'as many kv_heads as heads, and '}width = heads *"
            f" head_dim; this is {config.heads} heads of {config.head_dim}, {config.kv_heads} kv_heads, and a width of"
            f" {config.width}",
            where="model",
            remedy="leave model.kv_heads and model.head_dim out, and choose heads that divide the width",
        )


def read_windows(reader: ConfigReader, layers: int, window: int | None, usual: Sequence[bool]) -> dict[str, Any]:
    """Reads which layers see a window only, from `layer_types` or from the family's usual pattern.

    Args:
        reader: The configuration.
        layers: Their number.
        window: Tokens that such a layer sees, or None.
        usual: Per layer, whether it is windowed where `layer_types` is absent.
    """
    kinds = reader.take("layer_types")
    if kinds is None:
        flags = list(usual)
    else:
        known = ("sliding_attention", "full_attention")
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
            reader.refuse("layer_types", f"is not supported here (only {layers} of {', '.join(known)})")
        flags = [kind == "sliding_attention" for kind in kinds]
    if any(flags) and window is None:
        raise BadInput("there are sliding_attention layers, but no sliding_window is in use", where=reader.where)
    if not any(flags):
        return {"window": None, "window_layers": ()}
    return {"window": window, "window_layers": () if all(flags) else tuple(flags)}


def layer_types(config: TransformerConfig) -> list[str]:
    """Writes `layer_types`."""
    windows = [config.layer_window(layer) for layer in range(config.layers)]
    return ["full_attention" if window is None else "sliding_attention" for window in windows]

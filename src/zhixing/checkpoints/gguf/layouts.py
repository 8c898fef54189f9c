"""The architectures of GGUF files in Llama's layout, each with its metadata keys and tensor names.

What the parts mean is in `architectures`; those with layer norms are in `older_layouts`. Sources:
gguf-py/gguf/tensor_mapping.py, the conversion scripts and src/models of ggml-org/llama.cpp.
"""

from __future__ import annotations

from typing import Any

from zhixing.checkpoints.gguf.architectures import (
    Architecture,
    Config,
    MetadataReader,
    Written,
    both_kinds,
    rotary_halves,
    rotary_pairs,
)
from zhixing.checkpoints.gguf.rope import TENSORS, read_rope, share_of, write_rope
from zhixing.core.errors import BadInput
from zhixing.families.base import MOST_LAYERS, Names, Weights

OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
LINEAR = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


def _names(*parts: dict[str, str]) -> Names:
    inner = {f"blk.{{i}}.{ours}": f"model.layers.{{i}}.{theirs}" for part in parts for ours, theirs in part.items()}
    return Names(both_kinds({**inner, **OUTER}))


def read_sizes(reader: MetadataReader) -> Config:
    """Reads the sizes that every architecture in Llama's layout has."""
    width, heads = reader.size("embedding_length"), reader.same_size("attention.head_count")
    head_dim = reader.size("attention.key_length", max(1, width // heads))
    if reader.size("attention.value_length", head_dim) != head_dim:
        raise BadInput("keys and values of different lengths are not supported", where=reader.where)
    return {
        "hidden_size": width,
        "num_hidden_layers": reader.size("block_count", most=MOST_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": reader.same_size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": reader.same_size("feed_forward_length"),
        "max_position_embeddings": reader.size("context_length"),
        "rms_norm_eps": reader.number("attention.layer_norm_rms_epsilon", 1e-6),
        "tie_word_embeddings": "output.weight" not in reader.tensors,
        "hidden_act": "silu",
    }


def write_sizes(config: Config, activation: str = "silu", activation_key: str = "hidden_act") -> Config:
    """Writes the same sizes, refusing what every architecture here has in one way only."""
    require(config, activation_key, activation)
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "vocab_size": config["vocab_size"],
    }


def require(config: Config, key: str, *allowed: Any) -> None:
    """Refuses a field that an architecture of GGUF has no word for.

    Raises:
        BadInput: It has another value.
    """
    if config.get(key, allowed[0]) not in allowed:
        raise BadInput(
            f"GGUF cannot express {key} = {config[key]!r} for a model of type {config['model_type']!r}"
            f" (only {', '.join(map(repr, allowed))})",
            remedy="save this model as a folder instead",
        )


def _plain(model_type: str) -> Any:
    def read(reader: MetadataReader) -> Config:
        sizes = read_sizes(reader)
        return {"model_type": model_type, **sizes, "rope_parameters": read_rope(reader, sizes["head_dim"])}

    return read


def _write_plain(config: Config) -> Written:
    require(config, "sliding_window", None)
    rope, tensors = write_rope(config, config["head_dim"])
    return {**write_sizes(config), **rope}, tensors


def _read_llama(reader: MetadataReader) -> Config:
    config = _plain("llama")(reader)
    window = reader.take("attention.sliding_window")
    if window is not None:
        return {**config, "model_type": "mistral", "sliding_window": reader.size("attention.sliding_window")}
    biased = "blk.0.attn_q.bias" in reader.tensors
    return {**config, "attention_bias": biased, "mlp_bias": "blk.0.ffn_up.bias" in reader.tensors}


def _reorder(order: Any) -> Any:
    def reordered(weights: Weights, config: Config) -> Weights:
        heads = {".attn_q.": config["num_attention_heads"], ".attn_k.": config["num_key_value_heads"]}
        result: Weights = {}
        for name, tensor in weights.items():
            count = next((count for part, count in heads.items() if part in name), None)
            # What does not divide goes on as it is: its shape is refused by name.
            result[name] = order(tensor, count) if count and len(tensor) % (2 * count) == 0 else tensor
        return result

    return reordered


def _write_llama(config: Config) -> Written:
    window = config.get("sliding_window")
    metadata, tensors = _write_plain({**config, "sliding_window": None})
    return metadata if window is None else {**metadata, "attention.sliding_window": window}, tensors


LLAMA = Architecture(
    name="llama",
    families=("llama", "mistral"),
    read=_read_llama,
    write=_write_llama,
    names=_names(NORMS, LINEAR),
    split=_reorder(rotary_halves),
    fuse=_reorder(rotary_pairs),
    ignored=rf"blk\.\d+\.attn_rot_embd\.weight|{TENSORS}",
)


def _read_smollm3(reader: MetadataReader) -> Config:
    return {**_plain("smollm3")(reader), "no_rope_layer_interval": 4}


def _write_smollm3(config: Config) -> Written:
    layers = config["num_hidden_layers"]
    require(config, "no_rope_layers", [int((layer + 1) % 4 != 0) for layer in range(layers)])
    require(config, "attention_bias", False)
    require(config, "mlp_bias", False)
    return _write_plain(config)


SMOLLM3 = Architecture(
    name="smollm3",
    families=("smollm3",),
    read=_read_smollm3,
    write=_write_smollm3,
    names=_names(NORMS, LINEAR),
    split=_reorder(rotary_halves),
    fuse=_reorder(rotary_pairs),
)

QWEN2 = Architecture(
    name="qwen2", families=("qwen2",), read=_plain("qwen2"), write=_write_plain, names=_names(NORMS, LINEAR)
)


def _write_unbiased(config: Config) -> Written:
    require(config, "attention_bias", False)
    return _write_plain(config)


QWEN3 = Architecture(
    name="qwen3",
    families=("qwen3",),
    read=_plain("qwen3"),
    write=_write_unbiased,
    names=_names(NORMS, LINEAR, QK_NORMS),
)

OLMO2 = Architecture(
    name="olmo2",
    families=("olmo2",),
    read=_plain("olmo2"),
    write=_write_unbiased,
    names=_names(
        {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"},
        LINEAR,
        QK_NORMS,
    ),
)

SANDWICH = {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
GEMMA_PERIODS = {"gemma2": 2, "gemma3": 6}
"""Every so many layers one sees everything, the last of each group."""
GEMMA_LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, which alone divide scores by the root of width / heads instead of the heads' size."""


def _offset(step: float) -> Any:
    def shifted(weights: Weights, config: Config) -> Weights:
        # llama.cpp keeps Gemma's norms as they multiply, the published weights are distances from one.
        return {name: tensor + step if name.endswith("norm.weight") else tensor for name, tensor in weights.items()}

    return shifted


def _read_gemma(reader: MetadataReader, model_type: str) -> Config:
    sizes = read_sizes(reader)
    del sizes["hidden_act"]
    layers, period = sizes["num_hidden_layers"], GEMMA_PERIODS[reader.prefix]
    largest = layers == GEMMA_LARGEST[reader.prefix]
    pattern = reader.take("attention.sliding_window_pattern", period)
    if isinstance(pattern, list):
        windowed = [bool(flag) for flag in pattern]
    else:
        period = reader.size("attention.sliding_window_pattern", period)
        windowed = [(layer + 1) % period != 0 for layer in range(layers)]
    return {
        "model_type": model_type,
        **sizes,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": sizes["hidden_size"] // sizes["num_attention_heads"] if largest else sizes["head_dim"],
        "sliding_window": reader.size("attention.sliding_window", 4096),
        "layer_types": ["sliding_attention" if flag else "full_attention" for flag in windowed],
    }


def _read_gemma2(reader: MetadataReader) -> Config:
    config = _read_gemma(reader, "gemma2")
    return {
        **config,
        "rope_parameters": read_rope(reader, config["head_dim"]),
        "attn_logit_softcapping": reader.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": reader.number("final_logit_softcapping", 30.0),
    }


def _read_gemma3(reader: MetadataReader) -> Config:
    config = _read_gemma(reader, "gemma3_text")
    whole = read_rope(reader, config["head_dim"], 1_000_000.0)
    local = {"rope_type": "default", "rope_theta": reader.number("rope.freq_base_swa", 10_000.0)}
    config["rope_parameters"] = {"full_attention": whole, "sliding_attention": local}
    if reader.take("final_logit_softcapping") is not None:
        config["final_logit_softcapping"] = reader.number("final_logit_softcapping", 0.0)
    return config


def _write_gemma(config: Config, name: str) -> Config:
    layers, period = config["num_hidden_layers"], GEMMA_PERIODS[name]
    kinds = ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(layers)]
    require(config, "layer_types", kinds)
    require(config, "attention_bias", False)
    require(config, "tie_word_embeddings", True)
    scalar = config["head_dim"]
    if layers == GEMMA_LARGEST[name]:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    require(config, "query_pre_attn_scalar", scalar)
    sizes = write_sizes(config, "gelu_pytorch_tanh", "hidden_activation")
    window = config["sliding_window"] or config["max_position_embeddings"]
    return {**sizes, "attention.sliding_window": window}


def _write_gemma2(config: Config) -> Written:
    rope, tensors = write_rope(config, config["head_dim"])
    caps = {key: config[key] for key in ("attn_logit_softcapping", "final_logit_softcapping")}
    if None in caps.values():
        raise BadInput("llama.cpp always caps the scores and logits of Gemma 2; this model has no caps")
    return {**_write_gemma(config, "gemma2"), **rope, **{key: float(cap) for key, cap in caps.items()}}, tensors


def _write_gemma3(config: Config) -> Written:
    parameters = config["rope_parameters"]
    local, whole = parameters["sliding_attention"], parameters["full_attention"]
    if local["rope_type"] != "default" or local["rope_theta"] != 10_000.0:
        raise BadInput("llama.cpp rotates the windowed layers of Gemma 3 by the base 10000, without scaling")
    rope, tensors = write_rope({"rope_parameters": whole}, config["head_dim"])
    cap = config.get("final_logit_softcapping")
    capped = {} if cap is None else {"final_logit_softcapping": float(cap)}
    return {**_write_gemma(config, "gemma3"), **rope, **capped}, tensors


GEMMA2 = Architecture(
    name="gemma2",
    families=("gemma2",),
    read=_read_gemma2,
    write=_write_gemma2,
    names=_names(SANDWICH, LINEAR),
    split=_offset(-1.0),
    fuse=_offset(1.0),
)
GEMMA3 = Architecture(
    name="gemma3",
    families=("gemma3_text",),
    read=_read_gemma3,
    write=_write_gemma3,
    names=_names(SANDWICH, LINEAR, QK_NORMS),
    split=_offset(-1.0),
    fuse=_offset(1.0),
)


def _read_phi3(reader: MetadataReader) -> Config:
    sizes = read_sizes(reader)
    head_dim = sizes.pop("head_dim")
    rotated = reader.size("rope.dimension_count", head_dim)
    rope = read_rope(reader, rotated)
    original = reader.size("rope.scaling.original_context_length", sizes["max_position_embeddings"])
    window = reader.take("attention.sliding_window", 0)  # 0 stands for none
    if rope["rope_type"] == "default":
        reader.take("rope.scaling.attn_factor")
    return {
        "model_type": "phi3",
        **sizes,
        "rope_parameters": rope,
        "partial_rotary_factor": share_of(rotated, head_dim),
        "original_max_position_embeddings": original,
        "sliding_window": reader.size("attention.sliding_window") if window else None,
    }


def _write_phi3(config: Config) -> Written:
    sizes = write_sizes(config)
    rotated = int(sizes["attention.key_length"] * config["partial_rotary_factor"])
    rope, tensors = write_rope(config, rotated)
    original = {"rope.scaling.original_context_length": config["original_max_position_embeddings"]}
    window = {"attention.sliding_window": config["sliding_window"] or 0}
    return {**sizes, **original, **rope, **window}, tensors


PHI3 = Architecture(
    name="phi3",
    families=("phi3",),
    read=_read_phi3,
    write=_write_phi3,
    names=_names(
        NORMS,
        {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj"},
        {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"},
    ),
)

"""The architectures of GGUF files that are known, each with its metadata keys and tensor names.

What the parts mean is in `architectures`. Sources: gguf-py/gguf/tensor_mapping.py and the conversion scripts of
ggml-org/llama.cpp.
"""

from __future__ import annotations

from typing import Any

from zhixing.checkpoints.gguf.architectures import Architecture, Config, MetadataReader, rotary_halves, rotary_pairs
from zhixing.core.errors import BadInput, unknown_name
from zhixing.families.base import MOST_LAYERS, Names, Weights

OUTER = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
]
LAYER = [
    ("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight"),
    ("blk.{i}.attn_q.weight", "model.layers.{i}.self_attn.q_proj.weight"),
    ("blk.{i}.attn_k.weight", "model.layers.{i}.self_attn.k_proj.weight"),
    ("blk.{i}.attn_v.weight", "model.layers.{i}.self_attn.v_proj.weight"),
    ("blk.{i}.attn_output.weight", "model.layers.{i}.self_attn.o_proj.weight"),
    ("blk.{i}.ffn_norm.weight", "model.layers.{i}.post_attention_layernorm.weight"),
    ("blk.{i}.ffn_gate.weight", "model.layers.{i}.mlp.gate_proj.weight"),
    ("blk.{i}.ffn_up.weight", "model.layers.{i}.mlp.up_proj.weight"),
    ("blk.{i}.ffn_down.weight", "model.layers.{i}.mlp.down_proj.weight"),
]
QK_NORMS = [
    ("blk.{i}.attn_q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight"),
    ("blk.{i}.attn_k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight"),
]


def _same(weights: Weights, config: Config) -> Weights:
    return weights


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
    }


def write_sizes(config: Config) -> Config:
    """Writes the same sizes."""
    return {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "vocab_size": config["vocab_size"],
    }


def read_rope(reader: MetadataReader, head_dim: int) -> dict[str, Any]:
    """Reads the rotary positions' base and scaling, as `rope_parameters`."""
    reader.expect("rope.dimension_count", head_dim)
    return {"rope_type": "default", "rope_theta": reader.number("rope.freq_base", 10_000.0)}


def write_rope(config: Config) -> Config:
    """Writes them back."""
    return {"rope.freq_base": float(config["rope_theta"]), "rope.dimension_count": config["head_dim"]}


def _read_llama(reader: MetadataReader) -> Config:
    sizes = read_sizes(reader)
    rope = read_rope(reader, sizes["head_dim"])
    return {"model_type": "llama", **sizes, "rope_parameters": rope, "hidden_act": "silu"}


def _write_llama(config: Config) -> Config:
    return {**write_sizes(config), **write_rope(config)}


def _llama_split(weights: Weights, config: Config) -> Weights:
    return _reorder(weights, config, rotary_halves)


def _llama_fuse(weights: Weights, config: Config) -> Weights:
    return _reorder(weights, config, rotary_pairs)


def _reorder(weights: Weights, config: Config, order: Any) -> Weights:
    heads = {".attn_q.": config["num_attention_heads"], ".attn_k.": config["num_key_value_heads"]}
    result: Weights = {}
    for name, tensor in weights.items():
        count = next((count for part, count in heads.items() if part in name), None)
        # What does not divide goes on as it is: its shape is refused by name.
        result[name] = order(tensor, count) if count and len(tensor) % (2 * count) == 0 else tensor
    return result


LLAMA = Architecture(
    name="llama",
    families=("llama",),
    read=_read_llama,
    write=_write_llama,
    names=Names(OUTER + LAYER),
    split=_llama_split,
    fuse=_llama_fuse,
    ignored=r"blk\.\d+\.attn_rot_embd\.weight",
)


def _read_qwen3(reader: MetadataReader) -> Config:
    sizes = read_sizes(reader)
    rope = read_rope(reader, sizes["head_dim"])
    return {"model_type": "qwen3", **sizes, "rope_parameters": rope, "hidden_act": "silu"}


QWEN3 = Architecture(
    name="qwen3",
    families=("qwen3",),
    read=_read_qwen3,
    write=_write_llama,
    names=Names(OUTER + LAYER + QK_NORMS),
    split=_same,
    fuse=_same,
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in (LLAMA, QWEN3)}
"""Every known architecture, by what `general.architecture` says."""


def architecture_named(name: object, where: str) -> Architecture:
    """Returns an architecture by the name that a file gives.

    Raises:
        BadInput: It is not known, or the file names none.
    """
    if not isinstance(name, str):
        raise BadInput("the file does not say its architecture (general.architecture)", where=where)
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES, where=where)
    return ARCHITECTURES[name]

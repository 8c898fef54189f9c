"""The architectures of GGUF files with layer norms (GPT-2, GPT-NeoX), and the list of all that are known."""

from __future__ import annotations

from collections.abc import Callable

from zhixing.checkpoints.gguf.architectures import Architecture, Config, MetadataReader, Written, both_kinds
from zhixing.checkpoints.gguf.layouts import (
    GEMMA2,
    GEMMA3,
    LLAMA,
    OLMO2,
    PHI3,
    QWEN2,
    QWEN3,
    SMOLLM3,
    require,
)
from zhixing.checkpoints.gguf.rope import read_rope, share_of, write_rope
from zhixing.core.errors import BadInput, unknown_name
from zhixing.families.base import MOST_LAYERS, Names, Weights


def _read_gpt2(reader: MetadataReader) -> Config:
    return {
        "model_type": "gpt2",
        "n_embd": reader.size("embedding_length"),
        "n_layer": reader.size("block_count", most=MOST_LAYERS),
        "n_head": reader.same_size("attention.head_count"),
        "n_inner": reader.same_size("feed_forward_length"),
        "n_positions": reader.size("context_length"),
        "layer_norm_epsilon": reader.number("attention.layer_norm_epsilon", 1e-5),
        "activation_function": "gelu_new",
        "tie_word_embeddings": "output.weight" not in reader.tensors,
    }


def _write_gpt2(config: Config) -> Written:
    require(config, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    return {
        "block_count": config["n_layer"],
        "context_length": config["n_positions"],
        "embedding_length": config["n_embd"],
        "feed_forward_length": config["n_inner"] or 4 * config["n_embd"],
        "attention.head_count": config["n_head"],
        "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
        "vocab_size": config["vocab_size"],
    }, {}


TRANSPOSED = (".attn_qkv.weight", ".attn_output.weight", ".ffn_up.weight", ".ffn_down.weight")


def _transposed(weights: Weights, config: Config) -> Weights:
    """GPT-2's published matrices stand on their sides."""
    return {
        name: tensor.t() if name.endswith(TRANSPOSED) and tensor.dim() == 2 else tensor
        for name, tensor in weights.items()
    }


GPT2 = Architecture(
    name="gpt2",
    families=("gpt2",),
    read=_read_gpt2,
    write=_write_gpt2,
    names=Names(
        both_kinds(
            {
                "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
                "output": "lm_head", "blk.{i}.attn_norm": "transformer.h.{i}.ln_1",
                "blk.{i}.attn_qkv": "transformer.h.{i}.attn.c_attn",
                "blk.{i}.attn_output": "transformer.h.{i}.attn.c_proj", "blk.{i}.ffn_norm": "transformer.h.{i}.ln_2",
                "blk.{i}.ffn_up": "transformer.h.{i}.mlp.c_fc", "blk.{i}.ffn_down": "transformer.h.{i}.mlp.c_proj",
            }
        )
    ),
    split=_transposed,
    fuse=_transposed,
)  # fmt: skip


def _read_neox(reader: MetadataReader) -> Config:
    width, heads = reader.size("embedding_length"), reader.same_size("attention.head_count")
    rotated = reader.size("rope.dimension_count", max(1, width // heads))
    return {
        "model_type": "gpt_neox",
        "hidden_size": width,
        "num_hidden_layers": reader.size("block_count", most=MOST_LAYERS),
        "num_attention_heads": heads,
        "intermediate_size": reader.same_size("feed_forward_length"),
        "max_position_embeddings": reader.size("context_length"),
        "layer_norm_eps": reader.number("attention.layer_norm_epsilon", 1e-5),
        "use_parallel_residual": reader.flag("use_parallel_residual", True),
        "rope_parameters": read_rope(reader, rotated),
        "rotary_pct": share_of(rotated, max(1, width // heads)),
        "hidden_act": "gelu",
        "tie_word_embeddings": "output.weight" not in reader.tensors,
    }


def _write_neox(config: Config) -> Written:
    # llama.cpp computes GELU by its tanh form for every model; the published ones use the exact form.
    require(config, "hidden_act", "gelu", "gelu_new", "gelu_pytorch_tanh")
    require(config, "attention_bias", True)
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    rope, tensors = write_rope(config, int(head_dim * config["rotary_pct"]))
    return {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.layer_norm_epsilon": float(config["layer_norm_eps"]),
        "use_parallel_residual": config["use_parallel_residual"],
        "vocab_size": config["vocab_size"],
        **rope,
    }, tensors


def _regroup(published: bool) -> Callable[[Weights, Config], Weights]:
    """Orders the rows of fused projections: head by head as published, or all queries, then keys, then values."""

    def regrouped(weights: Weights, config: Config) -> Weights:
        heads, width = config["num_attention_heads"], config["hidden_size"]
        result: Weights = {}
        for name, tensor in weights.items():
            if ".attn_qkv." in name and tensor.dim() and len(tensor) == 3 * width and width % heads == 0:
                first, second = (3, heads) if published else (heads, 3)
                rows = tensor.view(first, second, width // heads, *tensor.shape[1:])
                tensor = rows.transpose(0, 1).reshape(tensor.shape)
            result[name] = tensor
        return result

    return regrouped


NEOX = Architecture(
    name="gptneox",
    families=("gpt_neox",),
    read=_read_neox,
    write=_write_neox,
    names=Names(
        both_kinds(
            {
                "token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out",
                "blk.{i}.attn_norm": "gpt_neox.layers.{i}.input_layernorm",
                "blk.{i}.attn_qkv": "gpt_neox.layers.{i}.attention.query_key_value",
                "blk.{i}.attn_output": "gpt_neox.layers.{i}.attention.dense",
                "blk.{i}.ffn_norm": "gpt_neox.layers.{i}.post_attention_layernorm",
                "blk.{i}.ffn_up": "gpt_neox.layers.{i}.mlp.dense_h_to_4h",
                "blk.{i}.ffn_down": "gpt_neox.layers.{i}.mlp.dense_4h_to_h",
            }
        )
    ),
    split=_regroup(published=True),
    fuse=_regroup(published=False),
    head_needed=True,
)  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, PHI3, OLMO2, SMOLLM3, GPT2, NEOX)
}
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


def architecture_for(family: str) -> Architecture:
    """Returns the architecture that a family's models are written as.

    Raises:
        BadInput: GGUF has none.
    """
    for architecture in ARCHITECTURES.values():
        if family in architecture.families:
            return architecture
    known = sorted(family for architecture in ARCHITECTURES.values() for family in architecture.families)
    raise BadInput(f"models of the family {family!r} cannot be written as GGUF", remedy=f"known: {', '.join(known)}")

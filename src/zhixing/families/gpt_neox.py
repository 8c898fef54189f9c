"""GPT-NeoX (Black et al. 2022): layer norms, attention and feed-forward side by side, a quarter of each head rotated,
biases. Its published weights interleave query, key and value head by head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
from zhixing.families.common import attention_bias_field, fixing, require_whole_heads
from zhixing.families.rope import part_rotated, published_context, read_rope, rope_fields, rotated_part
from zhixing.models.config import TransformerConfig

FIXED = fixing(["parallel_residual", "rotary_dim"], norm="layer", gated=False, mlp_bias=True)


def _read(reader: ConfigReader) -> TransformerConfig:
    width, heads = reader.size("hidden_size", 6144), reader.size("num_attention_heads", 64)
    context, head_dim = reader.size("max_position_embeddings", 2048), max(1, width // heads)
    biased = reader.flag("attention_bias", True)
    return TransformerConfig(
        vocab_size=reader.size("vocab_size", 50_432), width=width, heads=heads, kv_heads=heads, head_dim=head_dim,
        layers=reader.size("num_hidden_layers", 44, most=MOST_LAYERS),
        mlp_width=reader.size("intermediate_size", 24_576), norm_eps=reader.number("layer_norm_eps", 1e-5),
        activation=reader.activation("hidden_act", "gelu"), dropout=reader.number("hidden_dropout", 0.0),
        attention_dropout=reader.number("attention_dropout", 0.0), tied=reader.flag("tie_word_embeddings", False),
        parallel_residual=reader.flag("use_parallel_residual", True), attention_bias=biased,
        attention_output_bias=biased, rotary_dim=rotated_part(reader, head_dim, 0.25, "rotary_pct"),
        **read_rope(reader, context, keys=["rotary_emb_base", "rope_theta"]), **FIXED,
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    require_whole_heads(config, "gpt_neox", grouped=False)
    return {
        "vocab_size": config.vocab_size, "hidden_size": config.width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "intermediate_size": config.mlp_width,
        "max_position_embeddings": published_context(config), "layer_norm_eps": config.norm_eps,
        "hidden_act": activation_name(config.activation), "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout, "tie_word_embeddings": config.tied,
        "use_parallel_residual": config.parallel_residual, **attention_bias_field(config, "gpt_neox"),
        "rotary_pct": part_rotated(config), "rotary_emb_base": config.rope_theta, **rope_fields(config, partial=True),
    }  # fmt: skip


PARTS = ("query", "key", "value")
FUSED = ".query_key_value."


def _order(config: TransformerConfig) -> Tensor:
    """Rows of the published tensor in the order of ours: (part, head, dim) out of (head, part, dim)."""
    rows = torch.arange(3 * config.width).view(config.heads, 3, config.head_dim)
    return rows.transpose(0, 1).flatten()


def _split(published: Weights, config: TransformerConfig) -> Weights:
    order = _order(config)
    sorted_rows = {
        name: tensor[order] if FUSED in name and tensor.dim() and len(tensor) == len(order) else tensor
        for name, tensor in published.items()
    }
    return split_rows(sorted_rows, FUSED.strip("."), dict.fromkeys(PARTS, config.width))


def _fuse(named: Weights, config: TransformerConfig) -> Weights:
    back = _order(config).argsort()
    joined = join_rows(named, FUSED.strip("."), PARTS)
    return {name: tensor[back] if FUSED in name else tensor for name, tensor in joined.items()}


def _names() -> Names:
    pairs = [
        ("embedding.weight", "gpt_neox.embed_in.weight"),
        ("head.weight", "embed_out.weight"),
        ("head.weight", "lm_head.weight"),  # as newer versions name it
    ]
    parts = {
        "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
        "attention.query": "attention.query", "attention.key": "attention.key", "attention.value": "attention.value",
        "attention.output": "attention.dense", "mlp.up": "mlp.dense_h_to_4h", "mlp.down": "mlp.dense_4h_to_h",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        pairs += [
            (f"blocks.{{i}}.{ours}.{kind}", f"gpt_neox.layers.{{i}}.{theirs}.{kind}") for ours, theirs in parts.items()
        ]
        pairs.append((f"final_norm.{kind}", f"gpt_neox.final_layer_norm.{kind}"))
    return Names(pairs)


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    examples="Pythia 14M to 12B, GPT-NeoX 20B, Dolly",
    read_config=_read,
    write_config=_write,
    names=_names(),
    fixed=FIXED,
    defaults={
        "activation": "gelu",
        "norm_eps": 1e-5,
        "attention_bias": True,
        "attention_output_bias": True,
        "parallel_residual": True,
    },
    split=_split,
    fuse=_fuse,
    prefix="gpt_neox.",
    ignored=r".*\.attention\.(masked_)?bias|.*\.rotary_emb\.inv_freq",
)

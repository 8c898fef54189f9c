"""GPT-2 (Radford et al. 2019): layer norms, learned positions, biases everywhere, tied head.

Its published weights are transposed (they come from a one-dimensional convolution), with query, key and value fused.
"""

from __future__ import annotations

from typing import Any

import torch

from zhixing.core.errors import BadInput
from zhixing.families.base import MOST_LAYERS, ConfigReader, Family, Names, Weights
from zhixing.models.config import TransformerConfig

FIXED: dict[str, Any] = {
    "norm": "layer", "norm_weight": True, "embedding_norm": False, "position": "learned", "qk_norm": "none",
    "gated": False, "logit_softcap": None,
    "attention_bias": True, "attention_output_bias": True, "mlp_bias": True,
}  # fmt: skip
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}


def _read(reader: ConfigReader) -> TransformerConfig:
    reader.expect("scale_attn_weights", True)
    reader.expect("scale_attn_by_inverse_layer_idx", False)
    reader.expect("add_cross_attention", False)
    reader.take("reorder_and_upcast_attn")  # a matter of precision only
    reader.take("n_ctx")  # an old name of n_positions
    activation = reader.take("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        reader.expect("activation_function", *ACTIVATIONS)
    width, heads = reader.size("n_embd", 768), reader.size("n_head", 12)
    dropout = reader.number("resid_pdrop", 0.1)
    reader.take("embd_pdrop")  # training only; one rate serves both here
    return TransformerConfig(
        vocab_size=reader.size("vocab_size", 50257), width=width, heads=heads, kv_heads=heads,
        layers=reader.size("n_layer", 12, most=MOST_LAYERS), head_dim=max(1, width // heads),
        mlp_width=reader.size("n_inner", 4 * width),
        context=reader.size("n_positions", 1024), norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        activation=ACTIVATIONS[activation], dropout=dropout, attention_dropout=reader.number("attn_pdrop", 0.1),  # type: ignore[arg-type]
        tied=reader.flag("tie_word_embeddings", True), **FIXED,
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    if config.kv_heads != config.heads or config.head_dim * config.heads != config.width:
        raise BadInput(
            f"the family 'gpt2' needs as many kv_heads as heads, and width = heads * head_dim; this is {config.heads}"
            f" heads of {config.head_dim}, {config.kv_heads} kv_heads, and a width of {config.width}",
            where="model",
            remedy="leave model.kv_heads and model.head_dim out, and choose heads that divide the width",
        )
    names = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
    if config.activation not in names:
        raise BadInput(
            f"the family 'gpt2' has no activation {config.activation!r}", remedy=f"known: {', '.join(names)}"
        )
    return {
        "vocab_size": config.vocab_size, "n_embd": config.width, "n_layer": config.layers, "n_head": config.heads,
        "n_inner": config.mlp_width, "n_positions": config.context, "layer_norm_epsilon": config.norm_eps,
        "activation_function": names[config.activation], "resid_pdrop": config.dropout, "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout, "tie_word_embeddings": config.tied,
    }  # fmt: skip


TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PARTS = ("query", "key", "value")


def _split(published: Weights) -> Weights:
    """Undoes the transposition and the fusion; also accepts the names without the leading `transformer.`."""
    result: Weights = {}
    for full_name, tensor in published.items():
        name = full_name.removeprefix("transformer.")
        if name.endswith(TRANSPOSED) and tensor.dim() == 2:
            tensor = tensor.t().contiguous()
        # What is not of the right shape goes on as it is, and is refused by name.
        if ".attn.c_attn." in name and tensor.dim() and tensor.shape[0] and tensor.shape[0] % 3 == 0:
            for part, piece in zip(PARTS, tensor.chunk(3, dim=0), strict=True):
                result[name.replace("c_attn", part)] = piece.contiguous()
        else:
            result[name] = tensor
    return result


def _fuse(named: Weights) -> Weights:
    result: Weights = {}
    for name, tensor in named.items():
        if ".attn.query." in name:
            pieces = [named[name.replace("query", part)] for part in PARTS]
            name, tensor = name.replace("query", "c_attn"), torch.cat(pieces, dim=0)
        elif ".attn.key." in name or ".attn.value." in name:
            continue
        if name.endswith(TRANSPOSED):
            tensor = tensor.t().contiguous()
        result[name if name.startswith("lm_head") else f"transformer.{name}"] = tensor
    return result


def _names() -> Names:
    pairs = [("embedding.weight", "wte.weight"), ("positions.weight", "wpe.weight"), ("head.weight", "lm_head.weight")]
    parts = {
        "attention_norm": "ln_1", "attention.query": "attn.query", "attention.key": "attn.key",
        "attention.value": "attn.value", "attention.output": "attn.c_proj", "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        pairs += [(f"blocks.{{i}}.{ours}.{kind}", f"h.{{i}}.{theirs}.{kind}") for ours, theirs in parts.items()]
        pairs.append((f"final_norm.{kind}", f"ln_f.{kind}"))
    return Names(pairs)


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    read_config=_read,
    write_config=_write,
    names=_names(),
    fixed=FIXED,
    split=_split,
    fuse=_fuse,
    ignored=r"h\.\d+\.attn\.(masked_)?bias",
)

"""T5 (Raffel et al. 2020), its version 1.1 and Flan-T5 (Chung et al. 2022).

Norms without shifts before the parts, no biases, distances in buckets that all layers of a side share, scores without a
scale. T5 shares one table for sources, targets and the head, whose input it scales; version 1.1 has a head of its own
and gated feed-forward parts.
"""

from __future__ import annotations

from typing import Any

from zhixing.core.errors import BadInput
from zhixing.families.base import ACTIVATIONS, MOST_LAYERS, ConfigReader, activation_name
from zhixing.families.seq2seq import Pairs, Seq2SeqFamily, layers, tables
from zhixing.models.config import TransformerConfig
from zhixing.models.network import UNBOUNDED
from zhixing.models.transformer_seq2seq import TransformerSeq2SeqConfig

BOTH: dict[str, Any] = {
    "norm": "rms", "norm_placement": "pre", "position": "relative", "attention_scale": 1.0, "context": UNBOUNDED,
}  # fmt: skip
"""What both sides have. Distances reach any length, so nothing bounds it."""


def _read(reader: ConfigReader) -> TransformerSeq2SeqConfig:
    width, heads = reader.size("d_model", 512), reader.size("num_heads", 8)
    kind = str(reader.take("feed_forward_proj", "relu"))
    gated, name = kind.startswith("gated-"), kind.removeprefix("gated-")
    if name not in ACTIVATIONS:
        reader.refuse("feed_forward_proj", f"is not supported here (only gated- or plain {', '.join(ACTIVATIONS)})")
    # "gated-gelu" has always meant the approximation by tanh.
    activation = "gelu_tanh" if kind == "gated-gelu" else ACTIVATIONS[name]
    reader.expect("is_gated_act", gated, gated)
    reader.take("dense_act_fn")  # said again
    own_head = not reader.flag("tie_word_embeddings", True)
    scaled = reader.flag("scale_decoder_outputs", not own_head)
    for key in ("n_positions", "initializer_factor", "output_past"):  # of training, or without effect
        reader.take(key)
    dropout = reader.number("dropout_rate", 0.1)
    both: dict[str, Any] = {
        **BOTH,
        "vocab_size": reader.size("vocab_size", 32128), "width": width, "heads": heads, "kv_heads": heads,
        "head_dim": reader.size("d_kv", 64), "mlp_width": reader.size("d_ff", 2048),
        "norm_eps": reader.number("layer_norm_epsilon", 1e-6), "activation": activation, "gated": gated,
        "relative_buckets": reader.size("relative_attention_num_buckets", 32),
        "relative_distance": reader.size("relative_attention_max_distance", 128),
        "dropout": dropout, "attention_dropout": dropout, "tied": True,
    }  # fmt: skip
    depth = reader.size("num_layers", 6, most=MOST_LAYERS)
    decoder_depth = reader.optional_size("num_decoder_layers", depth) or depth
    start = reader.take("decoder_start_token_id", reader.values.get("pad_token_id") or 0)
    return TransformerSeq2SeqConfig(
        encoder=TransformerConfig(**both, layers=depth, causal=False),
        decoder=TransformerConfig(
            **{**both, "tied": not own_head},
            layers=decoder_depth,
            cross_width=width,
            logit_scale=width**-0.5 if scaled else None,
        ),
        start=start,
    )


def _write(config: TransformerSeq2SeqConfig) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    if decoder.logit_scale not in (None, decoder.width**-0.5):
        raise BadInput(f"T5's head reads states times {decoder.width**-0.5} or as they are, not {decoder.logit_scale}")
    name = activation_name(decoder.activation)
    kind = "gated-gelu" if decoder.gated and decoder.activation == "gelu_tanh" else "gated-" * decoder.gated + name
    return {
        "vocab_size": encoder.vocab_size, "d_model": encoder.width, "d_kv": encoder.head_dim,
        "d_ff": encoder.mlp_width, "num_layers": encoder.layers, "num_decoder_layers": decoder.layers,
        "num_heads": encoder.heads, "relative_attention_num_buckets": encoder.relative_buckets,
        "relative_attention_max_distance": encoder.relative_distance, "dropout_rate": encoder.dropout,
        "layer_norm_epsilon": encoder.norm_eps, "feed_forward_proj": kind,
        "tie_word_embeddings": decoder.tied, "scale_decoder_outputs": decoder.logit_scale is not None,
    }  # fmt: skip


def _attention(ours: str, theirs: str) -> dict[str, str]:
    letters = {"query": "q", "key": "k", "value": "v", "output": "o"}
    return {f"{ours}.{part}": f"{theirs}.{letter}" for part, letter in letters.items()}


def _names(config: TransformerSeq2SeqConfig) -> Pairs:
    pairs = tables(config)
    for side in ("encoder", "decoder"):
        last = 1 if side == "encoder" else 2
        inner = {"up": "wi_1", "gate": "wi_0"} if config.decoder.gated else {"up": "wi"}
        parts = {
            "attention_norm": "layer.0.layer_norm",
            **_attention("attention", "layer.0.SelfAttention"),
            "mlp_norm": f"layer.{last}.layer_norm",
            "mlp.down": f"layer.{last}.DenseReluDense.wo",
            **{f"mlp.{ours}": f"layer.{last}.DenseReluDense.{theirs}" for ours, theirs in inner.items()},
        }
        if side == "decoder":
            parts |= {"cross_norm": "layer.1.layer_norm", **_attention("cross_attention", "layer.1.EncDecAttention")}
        pairs += layers(side, parts, f"{side}.block.{{i}}")
        pairs.append((f"{side}.final_norm.weight", f"{side}.final_layer_norm.weight"))
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        pairs.append((f"{side}.relative.table.weight", bias))
    return pairs


T5 = Seq2SeqFamily(
    name="t5",
    architecture="T5ForConditionalGeneration",
    trunk="T5Model",
    examples="T5, T5 v1.1, Flan-T5",
    read_config=_read,
    write_config=_write,
    names=_names,
    ignored=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
)

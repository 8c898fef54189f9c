"""BART (Lewis et al. 2020) and Marian (Junczys-Dowmunt et al. 2018), the Transformer of "Attention Is All You Need".

Both have its layers (norms in the stream, biases everywhere) and a bias on the logits. BART learns its positions, whose
table begins with two rows that no token has, and normalises its embeddings; Marian adds sinusoids.
"""

from __future__ import annotations

from typing import Any, Literal

from zhixing.families.base import MOST_LAYERS, ConfigReader, activation_name
from zhixing.families.seq2seq import Pairs, Seq2SeqFamily, layers, tables
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer_seq2seq import TransformerSeq2SeqConfig

BOTH: dict[str, Any] = {
    "norm": "layer", "norm_eps": 1e-5, "norm_placement": "residual", "gated": False, "attention_bias": True,
    "attention_output_bias": True, "mlp_bias": True,
}  # fmt: skip
"""What both sides of both families have."""

OF_TRAINING = ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "classif_dropout", "init_std")
REPEATED = ("num_hidden_layers", "extra_pos_embeddings", "force_bos_token_to_be_generated", "output_past", "save_step")
"""Fields that say again what others say, or that only old programs wrote."""

Position = Literal["learned", "sinusoidal"]


def _read(reader: ConfigReader, position: Position, usual: dict[str, Any]) -> TransformerSeq2SeqConfig:
    learned = position == "learned"
    reader.expect("normalize_before", False)
    reader.expect("add_final_layer_norm", False)
    reader.expect("normalize_embedding", learned, learned)
    reader.expect("static_position_embeddings", not learned, not learned)
    for key in (*OF_TRAINING, *REPEATED, "add_bias_logits"):
        reader.take(key)
    reader.expect("tie_word_embeddings", True)
    shared = reader.flag("share_encoder_decoder_embeddings", True) if not learned else True
    width, vocab = reader.size("d_model", 1024), reader.size("vocab_size", usual["vocab_size"])
    both: dict[str, Any] = {
        **BOTH,
        "width": width, "position": position, "position_offset": 2 if learned else 0, "embedding_norm": learned,
        "context": reader.size("max_position_embeddings", 1024),
        "scale_embeddings": reader.flag("scale_embedding", False),
        "activation": reader.activation("activation_function", "gelu"), "dropout": reader.number("dropout", 0.1),
        "attention_dropout": reader.number("attention_dropout", 0.0), "tied": True,
    }  # fmt: skip
    sides: dict[str, dict[str, Any]] = {}
    for side in ("encoder", "decoder"):
        heads = reader.size(f"{side}_attention_heads", 16)
        sides[side] = {
            "layers": reader.size(f"{side}_layers", 12, most=MOST_LAYERS), "heads": heads, "kv_heads": heads,
            "head_dim": max(1, width // heads), "mlp_width": reader.size(f"{side}_ffn_dim", 4096),
        }  # fmt: skip
    target = vocab if learned else reader.optional_size("decoder_vocab_size", vocab) or vocab
    start = reader.take("decoder_start_token_id", usual["start"])
    return TransformerSeq2SeqConfig(
        encoder=TransformerConfig(**both, **sides["encoder"], vocab_size=vocab, causal=False),
        decoder=TransformerConfig(
            **both, **sides["decoder"], vocab_size=vocab if shared else target, cross_width=width, head_bias=True
        ),
        start=start,
        shared=shared,
    )


def _write(config: TransformerSeq2SeqConfig) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    return {
        "vocab_size": encoder.vocab_size, "d_model": encoder.width, "max_position_embeddings": encoder.context,
        "encoder_layers": encoder.layers, "encoder_attention_heads": encoder.heads,
        "encoder_ffn_dim": encoder.mlp_width, "decoder_layers": decoder.layers,
        "decoder_attention_heads": decoder.heads, "decoder_ffn_dim": decoder.mlp_width,
        "activation_function": activation_name(encoder.activation), "dropout": encoder.dropout,
        "attention_dropout": encoder.attention_dropout, "scale_embedding": encoder.scale_embeddings,
    }  # fmt: skip


def _write_marian(config: TransformerSeq2SeqConfig) -> dict[str, Any]:
    values = {**_write(config), "share_encoder_decoder_embeddings": config.shared}
    return {**values, "decoder_vocab_size": config.decoder.vocab_size}


def _attention(ours: str, theirs: str) -> dict[str, str]:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    return {f"{ours}.{part}": f"{theirs}.{name}" for part, name in names.items()}


def _names(config: TransformerSeq2SeqConfig) -> Pairs:
    pairs = [*tables(config), ("decoder.head_bias", "final_logits_bias")]
    for side in ("encoder", "decoder"):
        parts = {
            **_attention("attention", "self_attn"), "attention_norm": "self_attn_layer_norm", "mlp.up": "fc1",
            "mlp.down": "fc2", "mlp_norm": "final_layer_norm",
        }  # fmt: skip
        if side == "decoder":
            parts |= {**_attention("cross_attention", "encoder_attn"), "cross_norm": "encoder_attn_layer_norm"}
        pairs += layers(side, parts, f"{side}.layers.{{i}}")
        pairs.append((f"{side}.positions.weight", f"{side}.embed_positions.weight"))
        pairs += [
            (f"{side}.embedding_norm.{kind}", f"{side}.layernorm_embedding.{kind}") for kind in ("weight", "bias")
        ]
    return pairs


BART = Seq2SeqFamily(
    name="bart",
    architecture="BartForConditionalGeneration",
    trunk="BartModel",
    examples="BART, DistilBART",
    read_config=lambda reader: _read(reader, "learned", {"vocab_size": 50265, "start": 2}),
    write_config=_write,
    names=_names,
    begin=True,
    ignored=r"(en|de)coder\.version",
    prefix="model.",
)

MARIAN = Seq2SeqFamily(
    name="marian",
    architecture="MarianMTModel",
    trunk="MarianModel",
    examples="Opus-MT; the Transformer of Vaswani et al. (2017) trained here",
    read_config=lambda reader: _read(reader, "sinusoidal", {"vocab_size": 58101, "start": 58100}),
    write_config=_write_marian,
    names=_names,
    ignored=r"(en|de)coder\.embed_positions\.weight",
    prefix="model.",
)

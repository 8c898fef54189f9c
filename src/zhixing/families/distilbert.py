"""DistilBERT (Sanh et al. 2019): BERT's network with half of the layers, without segments."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import MOST_LAYERS, ConfigReader
from zhixing.families.encoders import ACTIVATIONS, FIXED, PUBLISHED_ACTIVATIONS, EncoderFamily, both, layer_names
from zhixing.models.config import TransformerConfig

PARTS = {
    "attention.query": "attention.q_lin", "attention.key": "attention.k_lin", "attention.value": "attention.v_lin",
    "attention.output": "attention.out_lin", "attention_norm": "sa_layer_norm", "mlp.up": "ffn.lin1",
    "mlp.down": "ffn.lin2", "mlp_norm": "output_layer_norm",
}  # fmt: skip


def _read(reader: ConfigReader) -> TransformerConfig:
    activation = reader.take("activation", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        reader.expect("activation", *ACTIVATIONS)
    reader.take("sinusoidal_pos_embds")  # how the table of positions was filled, which is saved as any other
    reader.take("qa_dropout")
    width, heads = reader.size("dim", 768), reader.size("n_heads", 12)
    return TransformerConfig(
        vocab_size=reader.size("vocab_size", 30522), width=width, heads=heads, kv_heads=heads,
        layers=reader.size("n_layers", 6, most=MOST_LAYERS), head_dim=max(1, width // heads),
        mlp_width=reader.size("hidden_dim", 4 * width), context=reader.size("max_position_embeddings", 512),
        norm_eps=1e-12, activation=ACTIVATIONS[activation], dropout=reader.number("dropout", 0.1),  # type: ignore[arg-type]
        attention_dropout=reader.number("attention_dropout", 0.1), tied=reader.flag("tie_word_embeddings", True),
        **FIXED,
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size, "dim": config.width, "n_layers": config.layers, "n_heads": config.heads,
        "hidden_dim": config.mlp_width, "max_position_embeddings": config.context,
        "activation": PUBLISHED_ACTIVATIONS[config.activation], "dropout": config.dropout,
        "attention_dropout": config.attention_dropout, "tie_word_embeddings": config.tied,
    }  # fmt: skip


DISTILBERT = EncoderFamily(
    name="distilbert",
    prefix="distilbert.",
    architectures={
        "none": "DistilBertModel",
        "masked": "DistilBertForMaskedLM",
        "classify": "DistilBertForSequenceClassification",
        "tag": "DistilBertForTokenClassification",
        "span": "DistilBertForQuestionAnswering",
    },
    read_config=_read,
    write_config=_write,
    names=[
        ("encoder.embedding.weight", "embeddings.word_embeddings.weight"),
        ("encoder.positions.weight", "embeddings.position_embeddings.weight"),
        *both("encoder.embedding_norm", "embeddings.LayerNorm"),
        *layer_names(PARTS, "transformer.layer.{i}"),
    ],
    heads={
        "masked": [
            *both("head.dense", "vocab_transform"),
            *both("head.norm", "vocab_layer_norm"),
            ("head.bias", "vocab_projector.bias"),
            ("head.decoder.weight", "vocab_projector.weight"),
        ],
        "classify": [*both("head.dense", "pre_classifier"), *both("head.out", "classifier")],
        "tag": both("head.out", "classifier"),
        "span": both("head.out", "qa_outputs"),
    },
    activation="relu",
    head_dropout=("seq_classif_dropout", "dropout"),
)

"""BERT (Devlin et al. 2019): norms behind each addition, learned positions, two segments; and RoBERTa's reading of it.

RoBERTa (Liu et al. 2019) has the same network: its positions begin two rows further, and its heads have other names.
"""

from __future__ import annotations

from typing import Any

from zhixing.families.base import MOST_LAYERS, ConfigReader
from zhixing.families.encoders import (
    ACTIVATIONS,
    FIXED,
    PUBLISHED_ACTIVATIONS,
    EncoderFamily,
    both,
    layer_names,
)
from zhixing.models.config import TransformerConfig

PARTS = {
    "attention.query": "attention.self.query", "attention.key": "attention.self.key",
    "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm", "mlp.up": "intermediate.dense", "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}  # fmt: skip

NAMES = [
    ("encoder.embedding.weight", "embeddings.word_embeddings.weight"),
    ("encoder.positions.weight", "embeddings.position_embeddings.weight"),
    ("encoder.types.weight", "embeddings.token_type_embeddings.weight"),
    *both("encoder.embedding_norm", "embeddings.LayerNorm"),
    *layer_names(PARTS, "encoder.layer.{i}"),
]
"""Weight names shared by BERT, RoBERTa and ELECTRA."""

OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Names in checkpoints that were converted from TensorFlow."""


def read_sizes(reader: ConfigReader, offset: int = 0) -> dict[str, Any]:
    """Reads the sizes that BERT, RoBERTa and ELECTRA have in common.

    Args:
        reader: The config.json.
        offset: Rows of the positions that no token has.
    """
    reader.expect("position_embedding_type", "absolute")
    activation = reader.take("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        reader.expect("hidden_act", *ACTIVATIONS)
    width, heads = reader.size("hidden_size", 768), reader.size("num_attention_heads", 12)
    reader.take("embedding_size")
    return {
        **FIXED,
        "vocab_size": reader.size("vocab_size", 30522), "width": width, "heads": heads, "kv_heads": heads,
        "layers": reader.size("num_hidden_layers", 12, most=MOST_LAYERS), "head_dim": max(1, width // heads),
        "mlp_width": reader.size("intermediate_size", 3072),
        "context": max(1, reader.size("max_position_embeddings", 512) - offset), "position_offset": offset,
        "norm_eps": reader.number("layer_norm_eps", 1e-12), "activation": ACTIVATIONS[activation],
        "token_types": reader.size("type_vocab_size", 2), "dropout": reader.number("hidden_dropout_prob", 0.1),
        "attention_dropout": reader.number("attention_probs_dropout_prob", 0.1),
        "tied": reader.flag("tie_word_embeddings", True),
    }  # fmt: skip


def write_sizes(config: TransformerConfig) -> dict[str, Any]:
    """Writes what `read_sizes` reads."""
    return {
        "vocab_size": config.vocab_size, "hidden_size": config.width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "intermediate_size": config.mlp_width,
        "hidden_act": PUBLISHED_ACTIVATIONS[config.activation], "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout, "type_vocab_size": config.token_types,
        "max_position_embeddings": config.context + config.position_offset, "layer_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
    }  # fmt: skip


BERT = EncoderFamily(
    name="bert",
    prefix="bert.",
    architectures={
        "none": "BertModel",
        "masked": "BertForMaskedLM",
        "classify": "BertForSequenceClassification",
        "tag": "BertForTokenClassification",
        "span": "BertForQuestionAnswering",
    },
    read_config=lambda reader: TransformerConfig(**read_sizes(reader)),
    write_config=write_sizes,
    names=NAMES,
    heads={
        "masked": [
            *both("head.dense", "cls.predictions.transform.dense"),
            *both("head.norm", "cls.predictions.transform.LayerNorm"),
            ("head.bias", "cls.predictions.bias"),
            ("head.bias", "cls.predictions.decoder.bias"),  # the same values under a second name
            ("head.decoder.weight", "cls.predictions.decoder.weight"),
        ],
        "classify": [*both("head.dense", "bert.pooler.dense"), *both("head.out", "classifier")],
        "tag": both("head.out", "classifier"),
        "span": both("head.out", "qa_outputs"),
    },
    extra=r"pooler\.dense\.(weight|bias)|cls\.seq_relationship\.(weight|bias)",
    old_names=OLD_NAMES,
)


def _read_roberta(reader: ConfigReader) -> TransformerConfig:
    padding = reader.values.get("pad_token_id", 1)
    offset = padding + 1 if isinstance(padding, int) and 0 <= padding < 1000 else 2
    return TransformerConfig(**read_sizes(reader, offset))


def _write_roberta(config: TransformerConfig) -> dict[str, Any]:
    # The published layout derives the offset of the positions from the padding token.
    return {**write_sizes(config), "pad_token_id": config.position_offset - 1}


ROBERTA_TWO_LAYERS = [*both("head.dense", "classifier.dense"), *both("head.out", "classifier.out_proj")]

ROBERTA = EncoderFamily(
    name="roberta",
    prefix="roberta.",
    architectures={
        "none": "RobertaModel",
        "masked": "RobertaForMaskedLM",
        "classify": "RobertaForSequenceClassification",
        "tag": "RobertaForTokenClassification",
        "span": "RobertaForQuestionAnswering",
    },
    read_config=_read_roberta,
    write_config=_write_roberta,
    names=NAMES,
    heads={
        "masked": [
            *both("head.dense", "lm_head.dense"),
            *both("head.norm", "lm_head.layer_norm"),
            ("head.bias", "lm_head.bias"),
            ("head.bias", "lm_head.decoder.bias"),
            ("head.decoder.weight", "lm_head.decoder.weight"),
        ],
        "classify": ROBERTA_TWO_LAYERS,
        "tag": both("head.out", "classifier"),
        "span": both("head.out", "qa_outputs"),
    },
    extra=r"pooler\.dense\.(weight|bias)",
)

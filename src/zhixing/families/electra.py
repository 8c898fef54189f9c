"""ELECTRA (Clark et al. 2020): BERT's network token embeddings of a size of their own, and a discriminating head."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader
from zhixing.families.bert import NAMES, OLD_NAMES, ROBERTA_TWO_LAYERS, read_sizes, write_sizes
from zhixing.families.encoders import EncoderFamily, both
from zhixing.models.config import TransformerConfig


def _read(reader: ConfigReader) -> TransformerConfig:
    reader.expect("hidden_act", "gelu")  # the published heads always use it, whatever the layers do
    reader.take("summary_last_dropout")  # of a head for multiple choice, which is not here
    sizes = read_sizes(reader)
    width = reader.size("embedding_size", 128)
    return TransformerConfig(**sizes, embedding_width=None if width == sizes["width"] else width)


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {**write_sizes(config), "embedding_size": config.embedding_width or config.width}


ELECTRA = EncoderFamily(
    name="electra",
    prefix="electra.",
    architectures={
        "none": "ElectraModel",
        "masked": "ElectraForMaskedLM",
        "replaced": "ElectraForPreTraining",
        "classify": "ElectraForSequenceClassification",
        "tag": "ElectraForTokenClassification",
        "span": "ElectraForQuestionAnswering",
    },
    read_config=_read,
    write_config=_write,
    names=[*NAMES, *both("encoder.projection", "embeddings_project")],
    heads={
        "masked": [
            *both("head.dense", "generator_predictions.dense"),
            *both("head.norm", "generator_predictions.LayerNorm"),
            ("head.bias", "generator_lm_head.bias"),
            ("head.decoder.weight", "generator_lm_head.weight"),
        ],
        "replaced": [
            *both("head.dense", "discriminator_predictions.dense"),
            *both("head.out", "discriminator_predictions.dense_prediction"),
        ],
        "classify": ROBERTA_TWO_LAYERS,
        "tag": both("head.out", "classifier"),
        "span": both("head.out", "qa_outputs"),
    },
    activation="gelu",
    old_names=OLD_NAMES,
)

"""The folder of a recurrent encoder with its head: `model_type` "zhixing-rnn-encoder"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from zhixing.checkpoints.own.recurrent import fill
from zhixing.core.errors import BadInput
from zhixing.families.base import MOST_LAYERS, ConfigReader
from zhixing.models.heads import EncoderModel, HeadActivation, HeadConfig, HeadKind, PoolingMode
from zhixing.models.recurrent import CELLS
from zhixing.models.recurrent_encoder import RecurrentEncoder, RecurrentEncoderConfig, recurrent_encoder_model

NAME = "zhixing-rnn-encoder"
SIZES = ("cell", "vocab_size", "embedding", "hidden", "layers", "bidirectional")
"""Fields of config.json that say what an encoder is built from."""
PROBLEMS = ("single", "multi", "regression")


def read_recurrent_encoder(values: Mapping[str, Any], folder: Path, dtype: torch.dtype) -> EncoderModel:
    """Reads a recurrent encoder from its folder.

    Args:
        values: The content of config.json; what is not understood is refused by name.
        folder: Where the weights are.
        dtype: Number type of the weights in memory.

    Raises:
        MissingResource: The weights are missing.
        BadInput: A field or a weight is wrong.
    """
    where = str(folder / "config.json")
    reader = ConfigReader(values, where)
    config = read_sizes(reader)
    head = _read_head(ConfigReader(reader.mapping("head"), f"{where}: head"))
    reader.finish()
    with torch.device("meta"):
        model = recurrent_encoder_model(config, head).to(dtype)
    return fill(model, folder, dtype)


def read_sizes(reader: ConfigReader) -> RecurrentEncoderConfig:
    """Reads what an encoder is built from, also where it is a part of another network."""
    reader.expect("cell", *CELLS)
    return RecurrentEncoderConfig(
        vocab_size=reader.size("vocab_size", most=1 << 24),
        cell=reader.take("cell", required=True),
        embedding=reader.size("embedding"),
        hidden=reader.size("hidden"),
        layers=reader.size("layers", most=MOST_LAYERS),
        bidirectional=reader.flag("bidirectional", True),
    )


def _read_head(reader: ConfigReader) -> HeadConfig:
    labels = reader.take("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise BadInput(f"the labels must be a list of texts, got {labels!r}", where=reader.where)
    choices = {
        "kind": get_args(HeadKind), "problem": PROBLEMS, "activation": get_args(HeadActivation),
        "summary": get_args(PoolingMode), "pooling": get_args(PoolingMode),
    }  # fmt: skip
    plain = HeadConfig()
    chosen: dict[str, Any] = {}
    for key, known in choices.items():
        usual = getattr(plain, key)
        reader.expect(key, usual, *known)
        chosen[key] = reader.take(key, usual)
    chosen |= {key: reader.flag(key, False) for key in ("crf", "normalise")}
    reader.finish()
    return HeadConfig(labels=tuple(labels), **chosen)


def recurrent_encoder_values(model: EncoderModel) -> dict[str, Any]:
    """Returns the content of config.json."""
    assert isinstance(model.encoder, RecurrentEncoder)
    sizes = dataclasses.asdict(model.encoder.config)
    head = dataclasses.asdict(model.head_config)
    del head["dropout"]
    return {"model_type": NAME, **{key: sizes[key] for key in SIZES}, "head": {**head, "labels": list(head["labels"])}}

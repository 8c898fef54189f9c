"""The folder of a recurrent encoder-decoder: `model_type` "zhixing-rnn-seq2seq"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from zhixing.checkpoints.own.recurrent import fill
from zhixing.checkpoints.own.recurrent_encoder import SIZES, read_sizes
from zhixing.families.base import ConfigReader
from zhixing.models.recurrent_attention import Score
from zhixing.models.recurrent_seq2seq import Kind, RecurrentEncoderDecoder, RecurrentSeq2SeqConfig

NAME = "zhixing-rnn-seq2seq"


def read_recurrent_seq2seq(values: Mapping[str, Any], folder: Path, dtype: torch.dtype) -> RecurrentEncoderDecoder:
    """Reads a recurrent encoder-decoder from its folder.

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
    inner = ConfigReader(reader.mapping("encoder"), f"{where}: encoder")
    encoder = read_sizes(inner)
    inner.finish()
    reader.expect("attention", *get_args(Kind))
    reader.expect("score", *get_args(Score))
    config = RecurrentSeq2SeqConfig(
        encoder=encoder,
        vocab_size=reader.size("vocab_size", most=1 << 24),
        embedding=reader.size("embedding"),
        hidden=reader.size("hidden"),
        start=reader.take("decoder_start_token_id", required=True),
        attention=reader.take("attention", required=True),
        score=reader.take("score", required=True),
        input_feeding=reader.flag("input_feeding", False),
        shared=reader.flag("shared", False),
        tied=reader.flag("tied", False),
    )
    reader.finish()
    with torch.device("meta"):
        model = RecurrentEncoderDecoder(config).to(dtype)
    return fill(model, folder, dtype)


def recurrent_seq2seq_values(model: RecurrentEncoderDecoder) -> dict[str, Any]:
    """Returns the content of config.json."""
    sizes = dataclasses.asdict(model.config)
    outer = ("vocab_size", "embedding", "hidden", "attention", "score", "input_feeding", "shared", "tied")
    return {
        "model_type": NAME, "is_encoder_decoder": True, "decoder_start_token_id": model.config.start,
        "encoder": {key: sizes["encoder"][key] for key in SIZES}, **{key: sizes[key] for key in outer},
    }  # fmt: skip

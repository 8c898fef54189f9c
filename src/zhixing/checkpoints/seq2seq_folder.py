"""Model folders of encoder-decoders: T5, BART, Marian, and recurrent ones in a layout of our own.

Their tokenizers are in `checkpoints.seq2seq_tokenizers`. Decoders are in `checkpoints.folder`, encoders in
`checkpoints.encoder_folder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zhixing.checkpoints.companions import GENERATION, read_generation
from zhixing.checkpoints.folder import read_values
from zhixing.checkpoints.own.recurrent_seq2seq import NAME as RECURRENT
from zhixing.checkpoints.own.recurrent_seq2seq import read_recurrent_seq2seq, recurrent_seq2seq_values
from zhixing.checkpoints.seq2seq_tokenizers import Tokenizers, open_tokenizers, read_tokenizers
from zhixing.checkpoints.tensor_files import TensorFile, open_weights
from zhixing.checkpoints.tensors import (
    MAX_SHARD_SIZE,
    check_match,
    check_types,
    shape_of,
    stream,
    write_tensors,
    write_weights,
)
from zhixing.core.device import check_memory
from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.files import atomic_folder, read_json, write_json
from zhixing.families.base import Weights
from zhixing.families.registry import SEQ2SEQ, seq2seq_named
from zhixing.families.seq2seq import Seq2SeqFamily
from zhixing.models.encoder_decoder import EncoderDecoder
from zhixing.models.network import UNBOUNDED
from zhixing.models.recurrent_seq2seq import RecurrentEncoderDecoder
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder, TransformerSeq2SeqConfig

OF_GENERATION = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "num_beams", "max_length", "min_length", "length_penalty", "early_stopping",
    "no_repeat_ngram_size", "repetition_penalty", "bad_words_ids",
)  # fmt: skip
"""Fields about writing that old folders keep in config.json, where there is no generation_config.json."""


@dataclass
class Seq2SeqFolder:
    """An encoder-decoder read from a folder, with everything that belongs to it.

    Attributes:
        model: The network, in evaluation mode.
        tokenizers: Of sources and of targets; None where the folder has none.
        family: The published layout; None for a recurrent one, which has none.
        path: The folder.
        generation: How it writes unless told otherwise: the content of generation_config.json.
        details: How it was opened, in sentences for those who ask.
        notes: What the user should know, in sentences.
    """

    model: EncoderDecoder
    tokenizers: Tokenizers | None
    family: Seq2SeqFamily | None
    path: Path
    generation: dict[str, Any]
    details: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_seq2seq(folder: Path) -> bool:
    """Tells whether a folder's config.json is of a known family of encoder-decoders."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else {}
    return isinstance(values, dict) and values.get("model_type") in (*SEQ2SEQ, RECURRENT)


def tokenizers_in(folder: Path) -> Tokenizers | None:
    """Reads the tokenizers of an encoder-decoder's folder without its weights; None where there is none.

    Raises:
        MissingResource: A file is missing.
        BadInput: One is damaged.
    """
    kind = str(read_values(folder).get("model_type"))
    return read_tokenizers(folder, seq2seq_named(kind) if kind in SEQ2SEQ else None)


def longest_of(folder: Path) -> int | None:
    """Returns how many tokens an encoder-decoder reads and writes at most, by config.json alone; None: any number.

    Raises:
        MissingResource: A file is missing.
        BadInput: The configuration is not understood.
    """
    values = read_values(folder)
    kind = str(values.get("model_type"))
    if kind not in SEQ2SEQ:
        return None  # a recurrent one
    config = seq2seq_named(kind).config_from(values, str(folder / "config.json"))
    longest = min(config.context, config.source_context)
    return None if longest == UNBOUNDED else longest


def load_seq2seq(folder: Path, dtype: torch.dtype = torch.float32) -> Seq2SeqFolder:
    """Opens the folder of an encoder-decoder.

    Args:
        folder: In the Hugging Face layout.
        dtype: Number type of the weights in memory.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, the architecture is not known, or the parts do not fit together.
    """
    values = read_values(folder)
    kind = str(values.get("model_type"))
    family: Seq2SeqFamily | None = None
    notes: list[str] = []
    model: EncoderDecoder
    if kind == RECURRENT:
        model = read_recurrent_seq2seq(values, folder, dtype)
    elif kind in SEQ2SEQ:
        family = seq2seq_named(kind)
        model, notes = _load_published(family, values, folder, dtype)
    else:
        raise unknown_name("encoder-decoder", kind, [*SEQ2SEQ, RECURRENT], where=str(folder / "config.json"))
    generation = _generation(folder, values)
    tokenizers = open_tokenizers(folder, family, model.config)
    return Seq2SeqFolder(model.eval(), tokenizers, family, folder, generation, notes=notes)


def _generation(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Reads generation_config.json, or what config.json says in its place."""
    if not (folder / GENERATION).exists():
        return {key: values[key] for key in OF_GENERATION if values.get(key) is not None}
    return read_generation(folder)


def _load_published(
    family: Seq2SeqFamily, values: Mapping[str, Any], folder: Path, dtype: torch.dtype
) -> tuple[TransformerEncoderDecoder, list[str]]:
    config = family.config_from(values, str(folder / "config.json"))
    files, notes = open_weights(folder)
    notes += check_types(files)
    shapes = {name: shape_of(entry) for file in files for name, entry in file.entries.items()}
    config = _with_own_head(family, config, values, shapes)
    with torch.device("meta"):
        model = TransformerEncoderDecoder(config).to(dtype)
    expected = {name: tensor.shape for name, tensor in model.named_parameters()}
    found = family.weights_from(shapes, config, str(folder))
    bias = "decoder.head_bias"
    if bias in expected and bias not in found:  # a network without its head, or a file that leaves zeros out
        found[bias] = torch.empty(expected[bias], device="meta")
    check_match(expected, found, str(folder))
    check_memory(sum(shape.numel() for shape in expected.values()) * dtype.itemsize, "this model", where=str(folder))
    model = model.to_empty(device="cpu")
    _fill(model, files, family, folder)
    return model, notes


def _fill(model: TransformerEncoderDecoder, files: list[TensorFile], family: Seq2SeqFamily, folder: Path) -> None:
    """Copies the weights in, one at a time; a second copy of shared values must be the same."""
    parameters = dict(model.named_parameters())
    if model.decoder.head_bias is not None:
        model.decoder.head_bias.data.zero_()
    copied: set[str] = set()
    for file in files:
        for name, tensor in stream(file):
            for ours, piece in family.weights_from({name: tensor}, model.config, str(folder)).items():
                if ours in copied and not torch.equal(parameters[ours].data, piece.to(parameters[ours].dtype)):
                    raise BadInput(
                        f"the tensor {name!r} differs from another one that it should share its values with",
                        where=str(file.path),
                        remedy="config.json says that both are tied; mend it, or the file",
                    )
                parameters[ours].data.copy_(piece)
                copied.add(ours)


def _with_own_head(
    family: Seq2SeqFamily, config: TransformerSeq2SeqConfig, values: Mapping[str, Any], shapes: Mapping[str, Any]
) -> TransformerSeq2SeqConfig:
    """Notices a head of its own that config.json hides: newer `transformers` writes that T5's head is always tied."""
    hidden = family.name == "t5" and "lm_head.weight" in shapes and values.get("scale_decoder_outputs") is False
    if not hidden or not config.decoder.tied:
        return config
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied=False))


def save_seq2seq(
    folder: Path,
    model: EncoderDecoder,
    tokenizers: Tokenizers | None,
    family: str,
    *,
    card: str = "",
    weights: Weights | None = None,
    generation: Mapping[str, Any] | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Writes the folder of an encoder-decoder; `transformers` opens published layouts unchanged.

    Args:
        folder: Where to; replaced if it exists, and there whole or not at all.
        model: The network.
        tokenizers: Of sources and targets, or None.
        family: The published layout; without meaning for a recurrent one.
        card: Text of README.md.
        weights: Weights to write instead of the model's own.
        generation: What generation_config.json shall say besides the special tokens.
        max_shard_size: Bytes of weights in one file; larger models are written in several, with an index.
    """
    state = weights if weights is not None else dict(model.named_parameters())
    tensors = {name: tensor.detach() for name, tensor in state.items()}
    special = {} if tokenizers is None else tokenizers.special
    settings = {**special, "decoder_start_token_id": model.config.start, **(generation or {})}
    with atomic_folder(folder) as temporary:
        if isinstance(model, TransformerEncoderDecoder):
            layout = seq2seq_named(family)
            values = layout.config_to(model.config)
            write_weights(temporary, layout.weights_to(tensors, model.config), max_shard_size)
        else:
            assert isinstance(model, RecurrentEncoderDecoder)
            values = recurrent_seq2seq_values(model)
            write_tensors(temporary / "model.safetensors", tensors, {"format": "pt"})
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            values[key] = settings.get(key)
        if values.get("model_type") in ("bart", "marian"):
            # Without the field, transformers puts its own token at the end of every text that is cut.
            values["forced_eos_token_id"] = settings.get("forced_eos_token_id")
        values["dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        write_json(temporary / "config.json", values)
        write_json(temporary / GENERATION, {k: v for k, v in settings.items() if v is not None})
        if tokenizers is not None:
            tokenizers.save(temporary)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")

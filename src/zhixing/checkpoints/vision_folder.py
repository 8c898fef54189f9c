"""The folder of a network that describes images: both sides' weights, the tokenizer, and how images are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zhixing.checkpoints.companions import GENERATION, read_generation
from zhixing.checkpoints.image_folder import fill, read_processor, write_processor
from zhixing.checkpoints.model_tokenizer import tokenizer_of
from zhixing.checkpoints.tensors import write_weights
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import atomic_folder, read_json, write_json
from zhixing.data.images import ImageProcessor
from zhixing.families import vision_encoder_decoder as layout
from zhixing.families.base import Weights
from zhixing.models.vision_encoder_decoder import VisionEncoderDecoder, VisionEncoderDecoderConfig
from zhixing.tokenization.tokenizer import Tokenizer


@dataclass
class VisionFolder:
    """A network that describes images, read from a folder, with everything that belongs to it.

    Attributes:
        model: The network, in evaluation mode.
        tokenizer: Of its texts, or None.
        processor: What makes pixel values of images.
        path: The folder.
        generation: How it writes unless told otherwise: the content of generation_config.json.
        unused: Weights of the layout that nothing here uses; they are written back with the rest.
        notes: What the user should know, in sentences.
    """

    model: VisionEncoderDecoder
    tokenizer: Tokenizer | None
    processor: ImageProcessor
    path: Path
    generation: dict[str, Any] = field(default_factory=dict)
    unused: Weights = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def describes_images(folder: Path) -> bool:
    """Tells whether a folder's config.json is of a network that describes images."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else {}
    return isinstance(values, dict) and values.get("model_type") == layout.NAME


def read_description(folder: Path) -> tuple[VisionEncoderDecoderConfig, ImageProcessor, list[str]]:
    """Reads what a network is, without its weights.

    Returns:
        Its configuration, what makes pixel values of images, and what the user should know.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, or it is another kind of network.
    """
    where = folder / "config.json"
    if not where.is_file():
        raise MissingResource("not a model folder: it has no config.json", where=str(folder))
    values = read_json(where)
    if not isinstance(values, Mapping) or values.get("model_type") != layout.NAME:
        kind = values.get("model_type") if isinstance(values, Mapping) else None
        raise BadInput(
            f"this model ({kind or 'of no known kind'}) does not describe images",
            where=str(where),
            remedy=f"choose one whose model_type is {layout.NAME!r}",
        )
    config = layout.config_from(values, str(where), read_generation(folder).get("decoder_start_token_id"))
    processor, notes = read_processor(folder, config.encoder.image_size)
    return config, processor, notes


def load_vision(folder: Path, dtype: torch.dtype = torch.float32) -> VisionFolder:
    """Opens the folder of a network that describes images.

    Args:
        folder: In the Hugging Face layout.
        dtype: Number type of the weights in memory.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, or the parts do not fit together.
    """
    config, processor, notes = read_description(folder)
    generation = read_generation(folder)
    with torch.device("meta"):
        empty = VisionEncoderDecoder(config).to(dtype)
    filled = fill(empty, folder, dtype, lambda published: layout.weights_from(published, config, str(folder)))
    return VisionFolder(
        filled.model, tokenizer_of(folder, config.vocab_size), processor, folder, generation, filled.unused,
        [*notes, *filled.notes],
    )  # fmt: skip


def save_vision(
    folder: Path,
    model: VisionEncoderDecoder,
    tokenizer: Tokenizer | None,
    processor: ImageProcessor,
    *,
    card: str = "",
    generation: Mapping[str, Any] | None = None,
    unused: Weights | None = None,
    weights: Weights | None = None,
) -> None:
    """Writes the folder of a network that describes images, which `transformers` opens unchanged.

    Args:
        folder: Where to; replaced if it exists, and there whole or not at all.
        model: The network.
        tokenizer: Of its texts, or None.
        processor: What makes pixel values of images.
        card: Text of README.md.
        generation: generation_config.json of the model that this one was made from, which is kept; without it, the
            tokenizer's end of text ends the writing, which is by beams of one.
        unused: Weights of the layout that nothing here uses.
        weights: Weights to write instead of the model's own.
    """
    state = weights if weights is not None else dict(model.named_parameters())
    published = layout.weights_to({name: tensor.detach() for name, tensor in state.items()}, model.config)
    end = tokenizer.end_of_text_id if tokenizer is not None else None
    if generation is None:
        # A text begins behind the start token, which counts as one of the context's.
        generation = {"do_sample": False, "max_length": model.config.context, "eos_token_id": end, "pad_token_id": end}
        generation = {key: value for key, value in generation.items() if value is not None}
    special = {key: generation.get(key) for key in ("eos_token_id", "pad_token_id")}
    values = layout.config_to(model.config) | special
    values["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
    writes = {**generation, "decoder_start_token_id": model.config.start}
    with atomic_folder(folder) as temporary:
        write_json(temporary / "config.json", values)
        write_json(temporary / GENERATION, writes)
        write_processor(temporary, processor)
        if tokenizer is not None:
            tokenizer.save(temporary)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        write_weights(temporary, {**(unused or {}), **published})

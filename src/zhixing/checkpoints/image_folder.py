"""The folder of an image encoder, with or without labels: config.json, model.safetensors, preprocessor_config.json.

What writes text about images is in `checkpoints.folder`'s reach, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from zhixing.checkpoints.tensor_files import open_weights
from zhixing.checkpoints.tensors import check_match, check_types, stream, write_weights
from zhixing.core.device import check_memory
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import atomic_folder, read_json, write_json
from zhixing.data.images import ImageProcessor
from zhixing.families import image_processing, vit
from zhixing.families.base import Weights
from zhixing.models.vit import ImageClassifier

Built = TypeVar("Built", bound=nn.Module)


@dataclass
class ImageFolder:
    """An image encoder read from a folder.

    Attributes:
        model: The network, in evaluation mode.
        processor: What makes pixel values of images.
        path: The folder.
        unused: Weights of the layout that nothing here uses; they are written back with the rest.
        notes: What the user should know, in sentences.
    """

    model: ImageClassifier
    processor: ImageProcessor
    path: Path
    unused: Weights = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_image_encoder(folder: Path) -> bool:
    """Tells whether a folder's config.json is of an image encoder."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else {}
    return isinstance(values, dict) and values.get("model_type") == vit.NAME


def load_image_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> ImageFolder:
    """Opens the folder of an image encoder.

    Args:
        folder: In the Hugging Face layout.
        dtype: Number type of the weights in memory.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, or the parts do not fit together.
    """
    where = folder / "config.json"
    if not where.is_file():
        raise MissingResource("not a model folder: it has no config.json", where=str(folder))
    values = read_json(where)
    if not isinstance(values, Mapping) or values.get("model_type") != vit.NAME:
        raise BadInput("this is not the config.json of an image encoder (model_type 'vit')", where=str(where))
    layout = vit.layout_from(values, str(where))
    processor, notes = read_processor(folder, layout.config.image_size)
    with torch.device("meta"):
        empty = ImageClassifier(layout.config, layout.labels).to(dtype)
    filled = fill(empty, folder, dtype, lambda published: vit.weights_from(published, str(folder)))
    return ImageFolder(filled.model, processor, folder, filled.unused, [*notes, *filled.notes])


@dataclass
class Filled(Generic[Built]):
    """A network with its weights, in evaluation mode, those of the layout that it does not use, and what is to be said.

    Attributes:
        model: The network.
        unused: Weights that nothing here uses.
        notes: What the user should know, in sentences.
    """

    model: Built
    unused: Weights
    notes: list[str]


def fill(
    empty: Built, folder: Path, dtype: torch.dtype, weights_from: Callable[[Weights], tuple[Weights, Weights]]
) -> Filled[Built]:
    """Gives a network that reads images, built without memory, the weights of its folder.

    Args:
        empty: The network, on the meta device.
        folder: Where the weights are.
        dtype: Number type of the weights in memory.
        weights_from: From published names to ours, and what is not used.

    Raises:
        MissingResource: There are no weights, or there is too little memory.
        BadInput: They are not the weights of this network.
    """
    files, notes = open_weights(folder)
    notes += check_types(files)
    check_memory(sum(p.numel() for p in empty.parameters()) * dtype.itemsize, "this model", where=str(folder))
    weights, unused = weights_from({name: tensor for file in files for name, tensor in stream(file)})
    check_match({name: p.shape for name, p in empty.named_parameters()}, weights, str(folder))
    model = empty.to_empty(device="cpu")
    model.load_state_dict(weights)
    return Filled(model.eval(), unused, notes)


def read_processor(folder: Path, size: tuple[int, int]) -> tuple[ImageProcessor, list[str]]:
    """Reads preprocessor_config.json.

    Args:
        folder: The model folder.
        size: Height and width of the images that the network reads.

    Returns:
        The processor, and what the user should know.

    Raises:
        BadInput: It is damaged, or gives images of another size.
    """
    path = folder / image_processing.FILE
    if not path.is_file():
        note = f"{folder}: no {image_processing.FILE}; images are resized to {size[0]} x {size[1]}, from -1 to 1"
        return ImageProcessor(size), [note]
    values = read_json(path)
    if not isinstance(values, Mapping):
        raise BadInput("not a mapping", where=str(path))
    processor = image_processing.processor_from(values, str(path))
    if processor.size != size:
        raise BadInput(
            f"images are resized to {processor.size[0]} x {processor.size[1]}, but the network reads"
            f" {size[0]} x {size[1]}",
            where=str(path),
            remedy="set 'size' to the image_size of config.json",
        )
    return processor, []


def write_processor(folder: Path, processor: ImageProcessor) -> None:
    """Writes preprocessor_config.json into a folder that exists."""
    write_json(folder / image_processing.FILE, image_processing.processor_to(processor))


def save_image_encoder(
    folder: Path,
    model: ImageClassifier,
    processor: ImageProcessor,
    *,
    card: str = "",
    unused: Weights | None = None,
) -> None:
    """Writes the folder of an image encoder, which `transformers` opens unchanged.

    Args:
        folder: Where to; replaced if it exists, and there whole or not at all.
        model: The network.
        processor: What makes pixel values of images.
        card: Text of README.md.
        unused: Weights of the layout that nothing here uses.
    """
    state = {name: tensor.detach() for name, tensor in model.named_parameters()}
    values = vit.config_to(model.config, model.labels)
    values["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
    with atomic_folder(folder) as temporary:
        write_json(temporary / "config.json", values)
        write_processor(temporary, processor)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        write_weights(temporary, {**(unused or {}), **vit.weights_to(state, bool(model.labels))})

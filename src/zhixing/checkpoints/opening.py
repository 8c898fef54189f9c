"""One way to open a model, whatever it is kept in: a folder in the Hugging Face layout, an adapter on another model, or
a GGUF file."""

from __future__ import annotations

from pathlib import Path

import torch

from zhixing.checkpoints.adapters import base_reference, is_adapter, open_adapter
from zhixing.checkpoints.encoder_folder import is_encoder, load_encoder
from zhixing.checkpoints.folder import ModelFolder, check_folder, load_folder, read_config
from zhixing.checkpoints.gguf.header import is_gguf
from zhixing.checkpoints.image_folder import is_image_encoder, load_image_encoder
from zhixing.checkpoints.references import resolve_base
from zhixing.checkpoints.seq2seq_folder import is_seq2seq, load_seq2seq
from zhixing.checkpoints.vision_folder import describes_images, load_vision
from zhixing.models.config import TransformerConfig


def open_model(path: Path, dtype: torch.dtype = torch.float32, compact: bool | None = None) -> ModelFolder:
    """Opens a model.

    Args:
        path: A model folder or a GGUF file, as `references.resolve` returns it.
        dtype: Number type of the weights in memory.
        compact: For a GGUF file: keep its weights packed (see `load_gguf`). None chooses by the free memory; a folder's
            weights are never packed.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, or holds what is not supported.
    """
    if is_gguf(path):
        from zhixing.checkpoints.gguf.read import load_gguf

        return load_gguf(path, dtype, compact)
    if is_adapter(path):
        return open_adapter(path, dtype)
    return load_folder(path, dtype)


def check_model(path: Path) -> list[str]:
    """Checks whether a model can be used here: configuration, names and shapes of the weights, tokenizer.

    The weights themselves are not read, except an encoder's, an encoder-decoder's and those of networks of our own.

    Returns:
        What the user should know, in sentences.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, or holds what is not supported.
    """
    if is_gguf(path):
        return open_model(path, compact=True).notes
    if is_image_encoder(path):
        return load_image_encoder(path).notes
    if is_adapter(path):
        return open_adapter(path).notes
    if describes_images(path):
        return load_vision(path).notes
    if is_seq2seq(path):
        return load_seq2seq(path).notes
    return load_encoder(path).notes if is_encoder(path) else check_folder(path)


def configuration_of(path: Path) -> TransformerConfig:
    """Returns the configuration of a decoder; the weights of a folder are not read.

    Raises:
        MissingResource: A file is missing.
        BadInput: It is another kind of model, or one that is not supported.
    """
    if is_adapter(path):
        return configuration_of(resolve_base(base_reference(path), path))
    return open_model(path, compact=True).transformer.config if is_gguf(path) else read_config(path)[1]

"""One way to open a model, whatever it is kept in: a folder in the Hugging Face layout, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

import torch

from zhixing.checkpoints.folder import ModelFolder, load_folder
from zhixing.checkpoints.gguf.header import is_gguf


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
    return load_folder(path, dtype)

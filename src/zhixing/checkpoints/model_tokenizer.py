"""A tokenizer by the name of its model: whatever a model may be called, or the path of a tokenizer alone."""

from __future__ import annotations

from pathlib import Path

from zhixing.checkpoints.gguf.header import is_gguf, open_gguf
from zhixing.checkpoints.references import is_remote, resolve
from zhixing.core.errors import MissingResource
from zhixing.tokenization.tokenizer import Tokenizer


def open_tokenizer(ref: str | Path) -> Tokenizer:
    """Opens a tokenizer.

    Args:
        ref: A model's reference (see `references`), a folder with a tokenizer, or a tokenizer file of any known format.

    Raises:
        MissingResource: It is not there, or the model has no tokenizer.
        BadInput: It is damaged or of an unknown kind.
    """
    path = resolve(ref) if isinstance(ref, str) and is_remote(ref) else Path(ref).expanduser()
    if is_gguf(path):
        from zhixing.checkpoints.gguf.vocabulary import read_tokenizer

        found = read_tokenizer(open_gguf(path))
        if found is None:
            raise MissingResource("this model has no tokenizer", where=str(path))
        return found.tokenizer
    inner = path / "model"
    return Tokenizer.load(inner if (inner / "config.json").is_file() else path)

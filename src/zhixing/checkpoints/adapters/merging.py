"""Adapters folded into the weights of their base: one model folder like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zhixing.checkpoints.adapters.folder import is_adapter, load_adapter
from zhixing.checkpoints.folder import ModelFolder, save_folder
from zhixing.core.errors import BadInput
from zhixing.models.adapters import activate, merge, prompted
from zhixing.tokenization.tokenizer import Tokenizer


def merge_adapters(base: Path, adapters: Sequence[tuple[Path, float]], out: Path) -> ModelFolder:
    """Writes a model with one or several adapters folded in.

    Args:
        base: The model that they belong to.
        adapters: Their folders, each with the share that it counts with (1 is all of it).
        out: The new folder; replaced if it exists.

    Returns:
        The merged model.

    Raises:
        MissingResource: Something is not there.
        BadInput: A folder holds no adapter, or one that belongs to another model.
    """
    from zhixing.checkpoints.opening import open_model

    opened = open_model(base, compact=False)
    if opened.family is None:
        raise BadInput("this model has no published layout", where=str(base))
    shares: dict[str, float] = {}
    for number, (folder, share) in enumerate(adapters):
        if not is_adapter(folder):
            raise BadInput("this is no adapter (no adapter_config.json)", where=str(folder))
        name = f"adapter{number}"
        opened.notes += load_adapter(opened.transformer, opened.family, folder, name)
        if prompted(opened.transformer) is not None:
            raise BadInput(
                "learned prompt tokens are inputs and no weights: they cannot be folded in",
                where=str(folder),
                remedy="name the adapter's folder itself as the model",
            )
        shares[name] = share
        own = any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "tokenizer.model"))
        opened.tokenizer = Tokenizer.load(folder) if own else opened.tokenizer
    activate(opened.transformer, shares)
    merge(opened.transformer)
    save_folder(out, opened.model, opened.tokenizer, opened.family.name, generation=opened.generation)
    return opened

"""Adapters folded into the weights of their base: one model folder like any other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from zhixing.checkpoints.adapters.folder import is_adapter, load_adapter, made_from, replaced_modules
from zhixing.checkpoints.folder import ModelFolder, save_folder
from zhixing.checkpoints.places import check_place
from zhixing.core.errors import BadInput
from zhixing.models.adapters import activate, merge, prompted
from zhixing.tokenization.tokenizer import Tokenizer


def merge_adapters(base: Path, adapters: Sequence[tuple[Path, float]], out: Path) -> ModelFolder:
    """Writes a model with one or several adapters folded in.

    Each adds its share of what it would change by itself. That of DoRA is the difference which turning and lengthening
    every row of the base makes, so that the order of adapters does not matter.

    Args:
        base: The model that they belong to.
        adapters: Their folders, each with the share that it counts with (1 is all of it).
        out: The new folder; an earlier model there is replaced.

    Returns:
        The merged model.

    Raises:
        MissingResource: Something is not there.
        BadInput: A folder holds no adapter, or one that belongs to another model; a share is no number; two adapters
            were trained with tokens, or tables, that exclude each other; or the new model would be written over what it
            is made from, or over other things.
    """
    from zhixing.checkpoints.card import merged_card
    from zhixing.checkpoints.opening import open_model

    check_place(out, [*made_from(base), *(folder for folder, _ in adapters)], file=False, replace=True)
    opened = open_model(base, compact=False)
    if opened.family is None:
        raise BadInput("this model has no published layout", where=str(base))
    shares: dict[str, float] = {}
    tokenizer: Tokenizer | None = None
    whole: Path | None = None
    for number, (folder, share) in enumerate(adapters):
        if not is_adapter(folder):
            raise BadInput("this is no adapter (no adapter_config.json)", where=str(folder))
        if not math.isfinite(share):
            raise BadInput(f"an adapter's share is {share}", where=str(folder), remedy="give a number; 1 is all of it")
        if replaced_modules(folder):
            if whole is not None:
                raise BadInput(
                    f"this adapter brings whole tables of its own, and so does {whole}: only one's can be in the model",
                    where=str(folder),
                    remedy="merge one of them alone",
                )
            whole = folder
            if share != 1:
                opened.notes.append(f"{folder}: its whole tables (new tokens) take no part by shares: they are all in")
        name = f"adapter{number}"
        opened.notes += load_adapter(opened.transformer, opened.family, folder, name)
        if prompted(opened.transformer) is not None:
            raise BadInput(
                "learned prompt tokens are inputs and no weights: they cannot be folded in",
                where=str(folder),
                remedy="use it with peft",
            )
        shares[name] = share
        if any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "tokenizer.model")):
            tokenizer = _with_all_tokens(tokenizer, Tokenizer.load(folder), folder)
    opened.tokenizer = tokenizer or opened.tokenizer
    activate(opened.transformer, shares)
    merge(opened.transformer)
    save_folder(
        out, opened.model, opened.tokenizer, opened.family.name, card=merged_card(base, adapters),
        generation=opened.generation,
    )  # fmt: skip
    return opened


def _with_all_tokens(one: Tokenizer | None, other: Tokenizer, folder: Path) -> Tokenizer:
    """Returns, of the tokenizers of two adapters, the one that has all tokens of both."""
    if one is None or one.vocabulary.items() <= other.vocabulary.items():
        return other
    if other.vocabulary.items() <= one.vocabulary.items():
        return one
    raise BadInput(
        "this adapter was trained with other tokens than the one before it, and neither tokenizer has all of them",
        where=str(folder),
        remedy="tune both with the same tokenizer.add_tokens, or merge one of them alone",
    )

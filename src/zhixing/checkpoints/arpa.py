"""ARPA files and model folders: an n-gram model out to SRILM's and KenLM's format, and theirs in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhixing.checkpoints.folder import ModelFolder, save_folder
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.ngram.arpa import END, UNK, read_arpa, word_names, write_arpa
from zhixing.models.ngram.network import NgramNetwork
from zhixing.tokenization.definition import Definition
from zhixing.tokenization.tokenizer import Tokenizer

CARD = """# {name}

An n-gram model of order {order}, read from the ARPA file `{name}` by Zhixing. Its back-off probabilities are the
file's; how they were estimated, and from what text, is known to whoever made the file.
"""


def export_arpa(opened: ModelFolder, path: Path) -> None:
    """Writes an n-gram model as an ARPA file; .gz compresses it.

    Args:
        opened: The model folder.
        path: The file.

    Raises:
        BadInput: It is no n-gram model.
        MissingResource: It has no tokenizer, or the file cannot be written.
    """
    model = ngram_of(opened)
    write_arpa(model.tables, token_names(need_tokenizer(opened), model.config.vocab_size), path)


def import_arpa(path: Path, folder: Path, tokenizer: Tokenizer | None = None) -> list[str]:
    """Reads an ARPA file into a model folder.

    Args:
        path: The file; .gz is expanded.
        folder: Where to; replaced if it exists.
        tokenizer: Whose tokens the file's words are, spelled as `export_arpa` spells them. Without one, the words
            become a vocabulary of their own, and texts are split at white space.

    Returns:
        What the reader should know, in sentences.

    Raises:
        BadInput: The file is broken, or does not fit the tokenizer.
        MissingResource: It is not there, or the folder cannot be written.
    """
    if tokenizer is None:
        read = read_arpa(path)
        tables, tokenizer = read.tables, Tokenizer(word_definition(read.words), where=str(path))
    else:
        read = read_arpa(path, token_names(tokenizer, tokenizer.vocab_size), tokenizer.end_of_text_id)
        tables = read.tables
        if tokenizer.begin_id is not None and tokenizer.begin_id != tables.begin:
            tables = dataclasses.replace(tables, begin_token=tokenizer.begin_id)
    card = CARD.format(name=path.name, order=tables.order)
    save_folder(folder, NgramNetwork(tables), tokenizer, "ngram", card=card)
    return read.notes


def ngram_of(opened: ModelFolder) -> NgramNetwork:
    """Returns the n-gram model of a folder.

    Raises:
        BadInput: It is another kind of model.
    """
    if not isinstance(opened.model, NgramNetwork):
        raise BadInput(
            f"this needs an n-gram model, which the model is not ({opened.model.config.describe()})",
            where=str(opened.path),
            remedy="train one with model.family: ngram",
        )
    return opened.model


def need_tokenizer(opened: ModelFolder) -> Tokenizer:
    """Returns the tokenizer of a folder.

    Raises:
        MissingResource: It has none.
    """
    if opened.tokenizer is None:
        raise MissingResource(
            "the model has no tokenizer", where=str(opened.path), remedy="put its tokenizer.json beside it"
        )
    return opened.tokenizer


def token_names(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """Returns how each token is spelled in an ARPA file."""
    pieces: list[str | None] = [None] * vocab_size
    for piece, index in tokenizer.vocabulary.items():
        pieces[index] = piece
    return word_names(pieces, tokenizer.unknown_id)


def word_definition(words: Sequence[str]) -> Definition:
    """Returns a tokenizer whose tokens are words between white space."""
    special = [word for word in words if word in (END, UNK)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added: list[dict[str, Any]] = [{"id": words.index(word), "content": word, **flags} for word in special]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: index for index, word in enumerate(words)}, "unk_token": UNK},
    }  # fmt: skip

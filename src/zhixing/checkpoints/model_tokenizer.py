"""A model's tokenizer: by whatever the model may be called, by the path of a tokenizer alone, or beside the weights."""

from __future__ import annotations

from pathlib import Path

from zhixing.checkpoints.gguf.header import is_gguf, open_gguf
from zhixing.checkpoints.references import is_remote, resolve
from zhixing.core.errors import BadInput, MissingResource
from zhixing.tokenization.tokenizer import Tokenizer


def open_tokenizer(ref: str | Path) -> Tokenizer:
    """Opens a tokenizer; of an encoder-decoder with one for each side, that of the sources.

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
    folder = inner if (inner / "config.json").is_file() else path
    return _of_sources(folder) or Tokenizer.load(folder)


def _of_sources(folder: Path) -> Tokenizer | None:
    """Opens what reads sources, of an encoder-decoder's folder, which may have two tokenizers; else returns None."""
    from zhixing.checkpoints.seq2seq_folder import is_seq2seq, tokenizers_in

    found = tokenizers_in(folder) if folder.is_dir() and is_seq2seq(folder) else None
    return None if found is None else found.source


FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
"""Files by which a folder shows that it holds a tokenizer, in any known format."""


def has_tokenizer(folder: Path) -> bool:
    """Tells whether a folder holds a tokenizer in any known format."""
    return any((folder / name).exists() for name in FILES)


def tokenizer_of(folder: Path, vocab_size: int) -> Tokenizer | None:
    """Opens the tokenizer beside a model's weights, if there is one.

    Args:
        folder: The model folder.
        vocab_size: Tokens that the model knows.

    Raises:
        BadInput: It is damaged, or has tokens that the model does not know.
    """
    tokenizer = Tokenizer.load(folder) if has_tokenizer(folder) else None
    if tokenizer is not None and tokenizer.vocab_size > vocab_size:
        raise BadInput(
            f"the tokenizer has {tokenizer.vocab_size} tokens but the model only {vocab_size}",
            where=str(folder),
            remedy="the tokenizer belongs to another model: put the right tokenizer.json here",
        )
    return tokenizer

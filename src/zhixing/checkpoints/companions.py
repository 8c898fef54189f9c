"""What lies beside a model's weights: its tokenizer, and how it writes unless told otherwise. No weights are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.checkpoints.gguf.header import GGUFFile, is_gguf, open_model_file
from zhixing.checkpoints.gguf.vocabulary import read_tokenizer
from zhixing.checkpoints.model_tokenizer import tokenizer_of
from zhixing.core.errors import BadInput
from zhixing.core.files import read_json
from zhixing.tokenization.tokenizer import Tokenizer

GENERATION = "generation_config.json"
"""A folder's file of settings for writing."""

SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty",
}  # fmt: skip
"""Recommended settings that a GGUF file may carry (general.sampling.*), by their name in a generation_config.json."""


@dataclass(frozen=True)
class Companions:
    """What belongs to a model beside its weights.

    Attributes:
        tokenizer: Its tokenizer, or None.
        generation: The content of its generation_config.json.
        notes: What the user should know, in sentences.
    """

    tokenizer: Tokenizer | None
    generation: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def companions_of(path: Path, vocab_size: int) -> Companions:
    """Reads what lies beside the weights of a model folder, or inside a GGUF file.

    Raises:
        BadInput: Something of it is damaged, or does not fit the model.
    """
    return companions_in(open_model_file(path)) if is_gguf(path) else companions_beside(path, vocab_size)


def companions_in(file: GGUFFile) -> Companions:
    """Reads a GGUF file's tokenizer and its settings for writing."""
    found = read_tokenizer(file)
    given = {theirs: file.metadata.get(f"general.sampling.{ours}") for ours, theirs in SAMPLING.items()}
    settings = {key: value for key, value in given.items() if isinstance(value, int | float)}
    if found is None:
        return Companions(None, settings)
    return Companions(found.tokenizer, {**settings, **found.generation()}, found.notes)


def companions_beside(folder: Path, vocab_size: int) -> Companions:
    """Reads a folder's tokenizer, if there is one, and its generation_config.json."""
    return Companions(tokenizer_of(folder, vocab_size), read_generation(folder))


def read_generation(folder: Path) -> dict[str, Any]:
    """Reads generation_config.json; empty where there is none.

    Raises:
        BadInput: It is not a mapping.
    """
    path = folder / GENERATION
    generation = read_json(path) if path.exists() else {}
    if not isinstance(generation, dict):
        raise BadInput(f"{GENERATION} is not a mapping", where=str(path))
    return generation

"""The recipe that `quickstart` makes up for whatever text it is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zhixing.core.recipe import Recipe, apply_override, build_recipe
from zhixing.data.problems import Problems
from zhixing.data.sources import find_sources, standard_library_paths
from zhixing.workflows.console import say

BYTES_PER_TOKEN_TARGET = 200
"""One vocabulary entry for so many bytes of text, between the bounds below: rarer tokens would not be learned."""

SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 512, 4096


def quickstart_recipe(paths: Sequence[str], minutes: float, changes: Sequence[str]) -> Recipe:
    """Builds a recipe for a small model from the amount of text that is there.

    Args:
        paths: Text; Python's own library sources when empty.
        minutes: How long to train.
        changes: Overrides, `section.key=value`.
    """
    if not paths:
        paths = standard_library_paths()
        say("No text given: reading the Python standard library's own sources")
    found = sum(source.size for source in find_sources(paths, Problems()))
    vocabulary = min(LARGEST_VOCABULARY, max(SMALLEST_VOCABULARY, found // BYTES_PER_TOKEN_TARGET // 256 * 256))
    values = {
        "name": "quickstart",
        "data": {"paths": [str(path) for path in paths]},
        "tokenizer": {"kind": "byte-bpe", "vocab_size": vocabulary},
        # Narrow and short: in two minutes, more tokens teach more than more parameters (docs/log.md).
        "model": {"family": "nanochat", "depth": 4, "width": 128, "heads": 2, "context": 128, "rope_theta": 1000},
        # Without decay the embedding and the head learn the text by heart (docs/log.md).
        "optimizer": {"attention_scale": 1.5, "weight_decay": 0.3},
        "train": {"minutes": minutes, "batch_size": 16, "evaluation_tokens": 100_000},
    }
    for change in changes:
        apply_override(values, change)
        if change.split("=")[0].strip() in ("train.steps", "train.tokens"):
            values["train"]["minutes"] = None  # type: ignore[index]
    return build_recipe(values, "--set")


def free_folder(folder: Path) -> Path:
    """Returns the folder, or the first of NAME-2, NAME-3, ... that does not exist: no run is ever overwritten."""
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    if candidate != folder:
        say(f"{folder} exists and is kept; this run goes to {candidate}")
    return candidate

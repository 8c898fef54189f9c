"""The figure by which finished runs are compared, with its examples, and what the run cost.

The measure follows from the objective; it is computed from the model folder and the held-out data of the run, and kept
in the run folder, for a finished run does not change.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zhixing.checkpoints.folder import load_folder
from zhixing.core.errors import BadInput
from zhixing.core.files import atomic_write, read_json
from zhixing.core.recipe import Recipe, load_recipe
from zhixing.data.shards import open_shards
from zhixing.evaluation.metrics.base import FloatArray, Score
from zhixing.evaluation.metrics.language import from_sums
from zhixing.evaluation.metrics.registry import score
from zhixing.evaluation.run_folder import read_run, section
from zhixing.evaluation.stretches import stretch_for, stretch_sums
from zhixing.models.network import UNBOUNDED
from zhixing.training.objectives import record_objective
from zhixing.workflows.predictions import kept_predictions
from zhixing.workflows.pretrain import held_out_documents

KEPT = "stretches.json"
"""The sums of a language model's stretches, in its run folder."""


@dataclass(frozen=True)
class Cost:
    """What a model is and what it took.

    Attributes:
        flops: Floating-point operations of training; 0 where they are not counted.
        shape: Its sizes in words.
    """

    flops: float
    shape: str


def run_score(folder: Path) -> Score:
    """Returns the measure of a finished run on its held-out data.

    Raises:
        BadInput: There is no measure for the run's objective.
    """
    recipe = load_recipe(folder / "recipe.yaml")
    if record_objective(recipe.train.objective) is not None:
        scores = section(read_run(folder).facts, "evaluation").get("scores")
        if not isinstance(scores, list) or not scores:
            raise BadInput(
                f"runs with the objective {recipe.train.objective!r} have no measure to compare them by",
                where=str(folder),
            )
        predictions, references = kept_predictions(folder)
        return score([str(scores[0]["measure"])], predictions, references, resamples=0)[0]
    sums = _stretches(folder, recipe)
    signature = f"examples: stretches of about {round(float(np.median(sums[:, 2])))} bytes"
    return from_sums(sums.tolist(), ("bits_per_byte",), signature=signature)[0]


def _stretches(folder: Path, recipe: Recipe) -> FloatArray:
    path = folder / KEPT
    if path.is_file():
        return np.asarray(read_json(path), dtype=np.float64).reshape(-1, 3)
    opened = load_folder(folder / "model")
    assert opened.tokenizer is not None
    shards = open_shards(folder / "shards", fingerprint=opened.tokenizer.fingerprint)
    start = shards.facts.separator_id
    documents = held_out_documents(
        shards.validation, opened.tokenizer, start, recipe.train.evaluation_tokens, recipe.data.split
    )
    window = None if opened.model.config.context == UNBOUNDED else recipe.train.block
    stretch = stretch_for(int(shards.validation.byte_count))
    sums = stretch_sums(opened.model, opened.tokenizer, documents, start=start, window=window, stretch=stretch)
    atomic_write(path, json.dumps(sums.tolist()))
    return sums


def run_cost(folder: Path) -> Cost:
    """Returns what a finished run's model is, and what training it took."""
    recipe = load_recipe(folder / "recipe.yaml")
    if record_objective(recipe.train.objective) is not None:
        model = section(read_run(folder).facts, "model")
        sizes = [f"{model[key]} {word}" for key, word in (("layers", "layers"), ("width", "wide")) if key in model]
        return Cost(0.0, ", ".join([str(model.get("family", "")), *sizes]))
    config = load_folder(folder / "model").model.config
    tokens = read_run(folder).summary()["tokens"] or 0
    return Cost(config.flops_per_token(recipe.train.block or 1) * tokens, config.describe())

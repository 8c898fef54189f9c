"""Completes a recipe: what follows from `model.depth`, the machine and the data is filled in, and only what was null.

The result is what the run folder keeps, so a resumed run derives nothing again.
"""

from __future__ import annotations

from pathlib import Path

from zhixing.checkpoints.vectors import open_vectors
from zhixing.core.device import check_memory, choose_device
from zhixing.core.errors import BadInput
from zhixing.core.progress import human_count
from zhixing.core.recipe import MOST_STEPS, ModelRecipe, Recipe
from zhixing.families import family_named
from zhixing.models.config import TransformerConfig
from zhixing.models.recurrent import CELLS, RecurrentConfig
from zhixing.tokenization.train import DEFAULT_VOCAB_SIZE, LEARNERS
from zhixing.training.networks import model_config, network_config
from zhixing.training.objectives import check_objective, record_objective
from zhixing.training.resolve_counting import FAMILY as COUNTED
from zhixing.training.resolve_counting import resolve_counting
from zhixing.training.resolve_machine import check_length, resolve_machine
from zhixing.training.resolve_records import RECORD_FIELDS, refuse, resolve_records

__all__ = ["check_resolved", "fill_intervals", "model_config", "resolve"]

BATCH_TOKENS = 4096
"""Tokens in a default micro-batch."""

RECURRENT_DEPTH = 2
RECURRENT_RATE = 1e-2
SMALL_VOCABULARY = 256
"""Stands in for a vocabulary whose size is not known yet, where sizes do not depend on it."""

BASE_WIDTH = 256
"""The width at which the default AdamW rates were tuned; they scale by (BASE_WIDTH / width)^0.5."""


def resolve(recipe: Recipe) -> Recipe:
    """Returns a copy of the recipe with everything filled in that does not depend on the data.

    Steps stay open when the run is given in minutes or operations: a step must be measured, or the vocabulary known.
    """
    if record_objective(recipe.train.objective) is not None:
        return resolve_records(recipe)
    refuse(recipe, RECORD_FIELDS, "records")
    if recipe.model.family == COUNTED:
        return resolve_counting(recipe)
    done = recipe.model_copy(deep=True)
    if done.tokenizer.vocab_size is None and done.tokenizer.path is None and done.tokenizer.kind in LEARNERS:
        done.tokenizer.vocab_size = DEFAULT_VOCAB_SIZE
    model, train, optimizer = done.model, done.train, done.optimizer
    if model.embeddings is not None:
        _fit_embeddings(model, model.embeddings)
    if model.family in CELLS:
        _resolve_recurrent(done)
    config = network_config(model, vocab_size=max(2, done.tokenizer.vocab_size or SMALL_VOCABULARY))
    model.width, model.tied = config.width, config.tied
    if isinstance(config, RecurrentConfig):
        model.hidden = config.hidden
    else:
        family_named(model.family).config_to(config)  # what could not be saved in the end is refused now
        model.heads, model.kv_heads, model.head_dim = config.heads, config.kv_heads, config.head_dim
        model.mlp_width, model.rope_theta, model.logit_softcap = (
            config.mlp_width,
            config.rope_theta,
            config.logit_softcap,
        )
    train.block = train.block or model.context
    if train.block > model.context:
        raise BadInput(
            f"train.block ({train.block}) is longer than model.context ({model.context})",
            where="train.block",
            remedy="lower the one or raise the other",
        )
    train.batch_size = train.batch_size or max(1, BATCH_TOKENS // train.block)
    narrow = (BASE_WIDTH / config.width) ** 0.5
    if optimizer.name == "muon":
        optimizer.matrix_learning_rate = optimizer.matrix_learning_rate or 0.02
        optimizer.learning_rate = optimizer.learning_rate or 0.01 * narrow
        optimizer.head_learning_rate = optimizer.head_learning_rate or 0.004 * narrow
    else:
        optimizer.learning_rate = optimizer.learning_rate or 1e-3 * narrow
    check_objective(done)
    if train.best not in (None, "loss"):
        raise BadInput(
            f"the measure of running text is its loss, not {train.best!r}", where="train.best", remedy="leave it out"
        )
    if choose_device(train.device).type == "cpu":
        _check_memory(done, config)
    resolve_machine(train)
    given = check_length(train, "steps", "tokens", "minutes", "flops")
    if not given:
        train.steps = 1000
    if train.tokens is not None:
        steps = train.tokens // (train.batch_size * train.accumulate * train.block)
        if steps > MOST_STEPS:
            raise BadInput(
                f"{train.tokens} tokens are {steps} steps, more than {MOST_STEPS}",
                where="train.tokens",
                remedy="raise train.batch_size or train.accumulate, or lower train.tokens",
            )
        train.steps = max(1, steps)
    if train.steps is not None:
        fill_intervals(done)
    return done


def _fit_embeddings(model: ModelRecipe, path: str) -> None:
    """Takes the width from the word vectors, or refuses another one, before anything is made."""
    size = open_vectors(Path(path)).size
    model.width = model.width or size
    if model.width != size:
        raise BadInput(
            f"the word vectors have {size} numbers, and model.width is {model.width}",
            where="model.embeddings",
            remedy=f"leave model.width out, or train vectors of size {model.width}",
        )


def _resolve_recurrent(recipe: Recipe) -> None:
    """Chooses what suits recurrent networks where the recipe says nothing, and refuses what they do not have."""
    model, train, optimizer = recipe.model, recipe.train, recipe.optimizer
    if "depth" not in model.model_fields_set:
        model.depth = RECURRENT_DEPTH
    if "name" not in optimizer.model_fields_set:
        optimizer.name = "adamw"
        optimizer.learning_rate = optimizer.learning_rate or RECURRENT_RATE
    refused = (
        ("optimizer.name: muon", optimizer.name == "muon", "Muon is for the matrices of Transformer blocks"),
        ("train.checkpoint_activations", train.checkpoint_activations, "a recurrent network has no blocks to repeat"),
        ("train.compile", train.compile, "torch's recurrent cells are compiled already"),
    )
    for key, asked, reason in refused:
        if asked:
            raise BadInput(f"{key} is not for recurrent networks: {reason}", where=key, remedy="leave it out")


def _check_memory(recipe: Recipe, config: TransformerConfig | RecurrentConfig) -> None:
    """Refuses what surely cannot be trained in this machine's memory, before hours go into the data."""
    train = recipe.train
    assert train.batch_size is not None
    assert train.block is not None
    # Weights, gradients and momentum at least, in float32; a batch with its targets, and the input of each layer.
    check_memory(
        12 * config.parameter_count(),
        f"a model of {human_count(config.parameter_count())} parameters in training",
        where="model",
        remedy="lower model.depth, model.width or tokenizer.vocab_size",
    )
    recomputed = 0 < train.checkpoint_activations <= train.batch_size * train.block
    layers = 1 if recomputed else config.layers
    check_memory(
        train.batch_size * train.block * (16 + 4 * config.width * layers),
        f"a batch of {train.batch_size} sequences of {train.block} tokens",
        where="train.batch_size",
        remedy="lower train.batch_size or train.block (train.accumulate makes up for it)",
    )


def check_resolved(recipe: Recipe, where: str) -> None:
    """Refuses a recipe in a run folder that is not one that `resolve` filled in.

    Raises:
        BadInput: It has gaps, so somebody replaced it.
    """
    train = recipe.train
    gaps = [] if train.batch_size or train.batch_tokens else ["train.batch_size"]
    if record_objective(train.objective) is None:
        gaps += ["train.block"] if train.block is None else []
        gaps += ["train.validate_every"] if train.steps is not None and train.validate_every is None else []
    gaps += ["train.device"] if train.device == "auto" else []
    lengths = (train.steps, train.minutes, train.epochs, train.tokens, train.flops)
    gaps += ["train.steps"] if all(length is None for length in lengths) else []
    if gaps:
        raise BadInput(
            f"this is not the complete recipe that the run wrote: {gaps[0]} is open",
            where=where,
            remedy="put the run's own recipe.yaml back, or start a new run with this one: zhixing train",
        )


def fill_intervals(recipe: Recipe) -> None:
    """Derives how often to validate and save, and on how much, from the length of the run."""
    train = recipe.train
    assert train.steps is not None
    assert train.batch_size is not None
    assert train.block is not None
    tokens = train.steps * train.accumulate * train.batch_size * train.block
    # Ten measurements of a hundredth of the tokens, forward only, cost about 3 % of the run.
    train.validation_tokens = train.validation_tokens or min(200_000, max(8192, tokens // 100))
    train.validate_every = train.validate_every or max(1, train.steps // 10)
    train.save_every = train.save_every or train.validate_every

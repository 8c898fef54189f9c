"""Completes a recipe: what follows from `model.depth`, the machine and the data is filled in, and only what was null.

The result is what the run folder keeps, so a resumed run derives nothing again.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from zhixing.core.device import check_memory, choose_device, choose_precision
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.progress import human_count
from zhixing.core.recipe import MOST_STEPS, ModelRecipe, Recipe
from zhixing.families import family_named
from zhixing.models import ops
from zhixing.models.config import TransformerConfig
from zhixing.tokenization.train import DEFAULT_VOCAB_SIZE, LEARNERS
from zhixing.training.objectives import objective_named
from zhixing.training.resolve_counting import FAMILY as COUNTED
from zhixing.training.resolve_counting import resolve_counting

COMPILERS = (os.environ.get("CXX", "g++"), "g++", "clang++")
WIDTH_PER_LAYER = 64
BATCH_TOKENS = 4096
"""Tokens in a default micro-batch."""

SMALL_VOCABULARY = 256
"""Stands in for a vocabulary whose size is not known yet, where sizes do not depend on it."""

BASE_WIDTH = 256
"""The width at which the default AdamW rates were tuned; they scale by (BASE_WIDTH / width)^0.5."""


def model_config(recipe: ModelRecipe, vocab_size: int) -> TransformerConfig:
    """Builds the network's configuration from the recipe's model section and the vocabulary's size.

    Raises:
        BadInput: The fields contradict one another or the family.
    """
    family = family_named(recipe.family)
    fixed: dict[str, Any] = dict(family.fixed)
    open_fields = dict(family.defaults)
    width = recipe.width or WIDTH_PER_LAYER * recipe.depth
    head_dim = recipe.head_dim or (width // recipe.heads if recipe.heads else min(width, 64 if width >= 256 else 32))
    heads = recipe.heads or max(1, width // head_dim)
    if recipe.heads and not recipe.head_dim and width % recipe.heads:
        raise BadInput(
            f"model.width ({width}) is not a multiple of model.heads ({recipe.heads})",
            where="model",
            remedy="choose heads that divide the width, or set model.head_dim",
        )
    gated = bool(fixed.get("gated", False))
    mlp_width = recipe.mlp_width or (-(-8 * width // 3 // 64) * 64 if gated else 4 * width)
    chosen: dict[str, Any] = {"rope_theta": recipe.rope_theta, "tied": recipe.tied}
    if "logit_softcap" not in fixed:
        chosen["logit_softcap"] = recipe.logit_softcap
    open_fields |= {key: value for key, value in chosen.items() if value is not None}
    return TransformerConfig(
        vocab_size=vocab_size, width=width, layers=recipe.depth, heads=heads, kv_heads=recipe.kv_heads or heads,
        head_dim=head_dim, mlp_width=mlp_width, context=recipe.context,
        dropout=recipe.dropout, attention_dropout=recipe.attention_dropout,
        init_std=recipe.init_std, zero_init_outputs=recipe.zero_init_outputs,
        **fixed, **open_fields,
    )  # fmt: skip


def resolve(recipe: Recipe) -> Recipe:
    """Returns a copy of the recipe with everything filled in that does not depend on the data.

    Steps stay open when the run is given in tokens or minutes of a model that must be measured first.
    """
    if recipe.model.family == COUNTED:
        return resolve_counting(recipe)
    for key in ("order", "count_memory"):
        if getattr(recipe.model, key) is not None:
            raise BadInput(
                f"model.{key} is of n-gram models, and this one is a {recipe.model.family}",
                where=f"model.{key}",
                remedy=f"leave it out, or set model.family: {COUNTED}",
            )
    done = recipe.model_copy(deep=True)
    if done.tokenizer.vocab_size is None and done.tokenizer.path is None and done.tokenizer.kind in LEARNERS:
        done.tokenizer.vocab_size = DEFAULT_VOCAB_SIZE
    model, train, optimizer = done.model, done.train, done.optimizer
    config = model_config(model, vocab_size=max(2, done.tokenizer.vocab_size or SMALL_VOCABULARY))
    family_named(model.family).config_to(config)  # what could not be saved in the end is refused now
    model.width, model.heads, model.kv_heads = config.width, config.heads, config.kv_heads
    model.head_dim, model.mlp_width, model.tied = config.head_dim, config.mlp_width, config.tied
    model.rope_theta, model.logit_softcap = config.rope_theta, config.logit_softcap
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
    objective_named(train.objective)
    device = choose_device(train.device)
    if device.type == "cpu":
        _check_memory(done, config)
    train.device = str(device)
    train.threads = train.threads or torch.get_num_threads()
    train.precision = choose_precision(train.precision, device)
    if train.matmul == "auto":
        train.matmul = ops.select_matmul() if device.type == "cpu" else "torch"
    if train.compile and device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise MissingResource(
            "torch.compile needs a C++ compiler, and there is none on the path",
            where="train.compile",
            remedy="install g++ or clang++, or set train.compile: false",
        )
    given = [name for name in ("steps", "tokens", "minutes") if getattr(train, name) is not None]
    if len(given) > 1:
        raise BadInput(
            f"train.{given[0]} and train.{given[1]} both say how long to train",
            where="train",
            remedy="give one of them",
        )
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


def _check_memory(recipe: Recipe, config: TransformerConfig) -> None:
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
    layers = 1 if train.checkpoint_activations else config.layers
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
    gaps = [f"train.{name}" for name in ("block", "batch_size") if getattr(recipe.train, name) is None]
    gaps += ["train.device"] if recipe.train.device == "auto" else []
    gaps += ["train.steps"] if recipe.train.steps is None and recipe.train.minutes is None else []
    gaps += ["train.validate_every"] if recipe.train.steps is not None and recipe.train.validate_every is None else []
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

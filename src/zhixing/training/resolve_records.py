"""Completes the recipe of a run on records: what follows from the objective and the network, as far as no record tells.

How many steps a number of epochs is, and how often to measure, is filled in when the examples are there (`fill_steps`).
"""

from __future__ import annotations

import math

from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.recipe import OptimizerRecipe, Recipe, Section, TokenizerRecipe, TuneRecipe
from zhixing.data.length_batches import LengthSampler
from zhixing.tokenization.train import DEFAULT_VOCAB_SIZE, LEARNERS
from zhixing.training.kinds import MAKERS
from zhixing.training.objectives import RecordObjective, check_objective, record_objective
from zhixing.training.resolve_machine import check_length, resolve_machine
from zhixing.training.tuning import RATES

BATCH_SIZE = 32
EPOCHS = 3.0
NO_SPIKE = 1e6
"""The loss of a batch of a few labels jumps by nature: no spike stops such a run unless the recipe names one."""

WARMUP_SHARE = 0.06
FINE_TUNING_RATE = 5e-5
FINE_TUNING_WIDTH = 768
"""The default rate is BERT's own at BERT's width, and in inverse proportion to the width elsewhere."""

RATE = 1e-3
BASE_WIDTH = 256
RECURRENT_RATE = 3e-3

TEXT_FIELDS: dict[str, tuple[str, ...]] = {
    "data": ("field", "split", "separator", "within_documents", "order"),
    "train": ("block", "compile", "flops"),
}
"""Fields that only mean something for running text."""

RECORD_FIELDS: dict[str, tuple[str, ...]] = {
    "data": ("validation_paths", "columns", "too_long", "skip_faulty", "licence", "pictures"),
    "model": (
        "image_size",
        "patch_size",
        "image_depth",
        "start",
        "freeze",
        "freeze_embeddings",
        "head_dropout",
        "word_dropout",
    ),
    "optimizer": ("mixout",),
    "train": ("epochs", "batch_tokens", "average_last"),
    "tune": tuple(TuneRecipe.model_fields),
    "tokenizer": ("add_tokens",),
}
"""Fields that only mean something for records."""


DECODER_FIELDS: dict[str, tuple[str, ...]] = {
    "tune": tuple(TuneRecipe.model_fields),
    "tokenizer": ("add_tokens",),
    "train": ("checkpoint_activations",),
}
"""Fields that only mean something for decoders on records."""


def refuse(recipe: Recipe, fields: dict[str, tuple[str, ...]], what: str) -> None:
    """Refuses fields that were given and mean nothing for this objective.

    Raises:
        BadInput: Naming the first of them.
    """
    for name, keys in fields.items():
        section: Section = getattr(recipe, name)
        for key in keys:
            if getattr(section, key) != type(section).model_fields[key].get_default(call_default_factory=True):
                raise BadInput(
                    f"{name}.{key} is for {what}, and the objective {recipe.train.objective!r} does not read that",
                    where=f"{name}.{key}",
                    remedy="leave it out, or choose another train.objective",
                )


def resolve_records(recipe: Recipe) -> Recipe:
    """Returns a copy of the recipe with everything filled in that does not depend on the records.

    Raises:
        BadInput: A field means nothing here, or fields contradict each other.
    """
    done = recipe.model_copy(deep=True)
    objective = record_objective(done.train.objective)
    assert objective is not None
    check_objective(done)
    refuse(done, TEXT_FIELDS, "running text")
    _check_start(done)
    maker = MAKERS[objective.network]
    tokenizer = done.tokenizer
    if tokenizer.path is None and done.model.start is None:
        if tokenizer.special_tokens is None:
            tokenizer.special_tokens = maker.special_tokens(tokenizer.kind)
            if objective.special_tokens:
                tokenizer.special_tokens = [*(tokenizer.special_tokens or ()), *objective.special_tokens]
        if tokenizer.vocab_size is None and tokenizer.kind in LEARNERS:
            tokenizer.vocab_size = DEFAULT_VOCAB_SIZE
    maker.resolve(done)
    train = done.train
    if objective.network != "causal":
        refuse(done, DECODER_FIELDS, "decoders")
    if train.batch_size is not None and train.batch_tokens is not None:
        raise BadInput(
            "train.batch_size and train.batch_tokens both say how large a batch is",
            where="train",
            remedy="give one of them",
        )
    if train.batch_size is None and train.batch_tokens is None:
        train.batch_size = BATCH_SIZE
    if not check_length(train, "steps", "epochs", "minutes", "tokens"):
        train.epochs = EPOCHS
    train.best = best_measure(done, objective)
    train.keep = max(train.keep, train.average_last)
    if "spike" not in train.model_fields_set:
        train.spike = NO_SPIKE
    _resolve_optimizer(done.optimizer, done)
    if "shape" not in done.schedule.model_fields_set:
        done.schedule.shape = "linear"
    resolve_machine(train)
    return done


def best_measure(recipe: Recipe, objective: type[RecordObjective]) -> str:
    """Returns the measure that decides which checkpoint is the best.

    Raises:
        BadInput: The objective has no such measure.
    """
    known = (*objective.measures, "loss")
    best = recipe.train.best
    if best is not None and best not in known:
        raise unknown_name(f"measure of {objective.name!r}", best, known, where="train.best")
    return best or known[0]


def _check_start(recipe: Recipe) -> None:
    model = recipe.model
    for where, given in (
        ("model.freeze", model.freeze > 0),
        ("model.freeze_embeddings", model.freeze_embeddings),
        ("optimizer.mixout", recipe.optimizer.mixout > 0),
    ):
        if given and model.start is None:
            raise BadInput(
                f"{where} keeps what another model has learned, and there is none to begin with",
                where=where,
                remedy="name one: --set model.start=minilm",
            )
    if model.start is not None and recipe.tokenizer != TokenizerRecipe(add_tokens=recipe.tokenizer.add_tokens):
        raise BadInput(
            "the tokenizer is that of model.start, whose weights know no other",
            where="tokenizer",
            remedy="leave the section out",
        )


def _resolve_optimizer(optimizer: OptimizerRecipe, recipe: Recipe) -> None:
    """Chooses rates: AdamW with small ones behind a pretrained start, larger ones from scratch."""
    model, given = recipe.model, optimizer.model_fields_set
    recurrent = model.family.endswith(("-encoder", "-seq2seq"))
    if "name" not in given and (model.start is not None or recurrent):
        optimizer.name = "adamw"
    if optimizer.name == "muon" and (recurrent or model.start is not None):
        reason = (
            "Muon is for the matrices of Transformer blocks" if recurrent else "Muon undoes what was learned before"
        )
        raise BadInput(f"{reason}", where="optimizer.name", remedy="leave it out: adamw")
    usual = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
    if optimizer.name == "adamw":
        for key, value in usual.items():
            if key not in given:
                setattr(optimizer, key, value)
    if model.start is not None:
        return  # the rate follows from that model's width: `fill_rate`
    width = model.width or BASE_WIDTH
    narrow = (BASE_WIDTH / width) ** 0.5
    if optimizer.name == "muon":
        optimizer.matrix_learning_rate = optimizer.matrix_learning_rate or 0.01
        optimizer.learning_rate = optimizer.learning_rate or 2e-3 * narrow
    else:
        optimizer.learning_rate = optimizer.learning_rate or (RECURRENT_RATE if recurrent else RATE * narrow)


def fill_rate(recipe: Recipe, width: int) -> None:
    """Chooses the learning rate of a run that goes on from another model, by that model's width."""
    optimizer = recipe.optimizer
    if optimizer.learning_rate is None:
        optimizer.learning_rate = FINE_TUNING_RATE * FINE_TUNING_WIDTH / width * RATES[recipe.tune.method]


def fill_steps(recipe: Recipe, sampler: LengthSampler, step_tokens: float) -> None:
    """Fills in the steps and what follows from them, when the examples are there.

    Args:
        recipe: Its steps or epochs are known.
        sampler: Over the training examples.
        step_tokens: Tokens of a step, on average.
    """
    train = recipe.train
    if train.steps is None:
        assert train.epochs is not None
        train.steps = max(1, math.ceil(sampler.batches_in(train.epochs) / train.accumulate))
        train.epochs = None  # it is said in the run's facts; the recipe names one length
    if "warmup_steps" not in recipe.schedule.model_fields_set:
        recipe.schedule.warmup_steps = int(WARMUP_SHARE * train.steps)
    # Measuring goes forward only: ten times a thirtieth of the run's tokens cost about a tenth of its time.
    tokens = int(train.steps * step_tokens)
    train.validation_tokens = train.validation_tokens or min(200_000, max(16_384, tokens // 30))
    train.validate_every = train.validate_every or max(1, train.steps // 10)
    train.save_every = train.save_every or train.validate_every

"""Completes the recipe of an n-gram model, which is counted: no steps, no optimizer, no batches."""

from __future__ import annotations

import torch

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe, Section
from zhixing.models.ngram.arpa import HIGHEST_ORDER
from zhixing.tokenization.train import DEFAULT_VOCAB_SIZE, LEARNERS

FAMILY = "ngram"
"""The name of n-gram models in a recipe's `model.family`."""

DEFAULT_ORDER = 5
DEFAULT_MEMORY = 1 << 30

MEANT = {
    "model": {"family", "order", "count_memory", "context"},
    "optimizer": set[str](),
    "schedule": set[str](),
    "train": {"seed", "validation_tokens", "evaluation_tokens", "block"},
}
"""The fields of each section that counting knows."""


def resolve_counting(recipe: Recipe) -> Recipe:
    """Returns a copy of an n-gram model's recipe with everything filled in.

    A step of the run is one order: its n-grams are counted, and the files of the count are its checkpoint.

    Raises:
        BadInput: A field is set that means nothing here, or the order is too high.
    """
    for name, meant in MEANT.items():
        section: Section = getattr(recipe, name)
        for key in sorted(section.model_fields_set - meant):
            if getattr(section, key) != type(section).model_fields[key].default:
                raise BadInput(
                    f"{name}.{key} means nothing for an n-gram model, which is counted",
                    where=f"{name}.{key}",
                    remedy=f"leave it out; known in {name}: {', '.join(sorted(meant)) or 'nothing'}",
                )
    done = recipe.model_copy(deep=True)
    if done.tokenizer.vocab_size is None and done.tokenizer.path is None and done.tokenizer.kind in LEARNERS:
        done.tokenizer.vocab_size = DEFAULT_VOCAB_SIZE
    model, train = done.model, done.train
    model.order = model.order or DEFAULT_ORDER
    model.count_memory = model.count_memory or DEFAULT_MEMORY
    if model.order > HIGHEST_ORDER:
        raise BadInput(f"the order must be at most {HIGHEST_ORDER}, got {model.order}", where="model.order")
    train.block = train.block or max(model.context, 4 * model.order)
    train.batch_size, train.steps, train.validate_every, train.save_every = 1, model.order, 1, 1
    train.validation_tokens = train.validation_tokens or train.evaluation_tokens
    train.device, train.precision, train.matmul = "cpu", "float32", "torch"
    train.threads = torch.get_num_threads()
    return done

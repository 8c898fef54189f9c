"""The counting of an n-gram model inside a run folder: its checkpoints are the orders that are counted."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zhixing.checkpoints.folder import load_folder
from zhixing.core.device import processor_name, usable_threads
from zhixing.core.progress import human_count, human_time, progress_bar
from zhixing.data.shards import ShardSet
from zhixing.models.ngram.counting import CountPlan, Counts, count_ngrams, passes
from zhixing.models.ngram.network import NgramNetwork
from zhixing.models.ngram.smoothing import Discounts, smooth
from zhixing.models.ngram.tables import NgramTables
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.run import Run
from zhixing.training.validation import Validation
from zhixing.workflows.console import say


def count_model(run: Run, tokenizer: Tokenizer, shards: ShardSet) -> NgramNetwork:
    """Counts and smooths the model of a run, going on from the orders that are counted already.

    Raises:
        MissingResource: The disk is full, or the run folder cannot be written.
    """
    finished = run.folder / "model"
    if finished.is_dir() and isinstance(model := load_folder(finished).model, NgramNetwork):
        return model
    recipe = run.recipe.model
    assert recipe.order is not None
    assert recipe.count_memory is not None
    end = tokenizer.end_of_text_id
    plan = CountPlan.within(recipe.count_memory, recipe.order, tokenizer.vocab_size, end, len(shards.train))
    run.set_state("running", step=0, steps=recipe.order, reason=None)
    run.rewind_metrics(0)
    begun = time.monotonic()
    counts = _count(run, shards, plan, begun)
    tables, discounts = _smooth(run, counts)
    if tokenizer.begin_id is not None and tokenizer.begin_id != tables.begin:
        tables = dataclasses.replace(tables, begin_token=tokenizer.begin_id)
    model = NgramNetwork(tables)
    say(f"Model: {recipe.family}, {model.config.describe()}, counted in {human_time(time.monotonic() - begun)}")
    run.add_facts(
        model={"family": recipe.family, "parameters": model.config.parameter_count(), **_facts(model, discounts)},
        machine={"processor": processor_name(), "processors": usable_threads(), "torch": torch.__version__},
    )
    _measure(run, model, shards, begun)
    return model


def clear_counts(run: Run) -> None:
    """Removes the files of the count, once the model is written."""
    shutil.rmtree(_folder(run), ignore_errors=True)


def _folder(run: Run) -> Path:
    return run.checkpoints / "counts"


def _count(run: Run, shards: ShardSet, plan: CountPlan, begun: float) -> Counts:
    total = passes(plan) * plan.tokens
    with progress_bar("Counting", total) as bar:
        counts = count_ngrams(shards.train, plan, _folder(run), bar.advance)
    seconds = time.monotonic() - begun
    run.log(
        "train", step=plan.order, tokens=plan.tokens, seconds=round(seconds, 3),
        tokens_per_second=round(plan.tokens / max(seconds, 1e-9), 1),
    )  # fmt: skip
    found = ", ".join(f"{len(table):,} {order}-grams" for order, table in enumerate(counts.keys, 2))
    run.log("event", step=plan.order, event="counted", message=found or f"{counts.unigram_rows:,} tokens")
    return counts


def _smooth(run: Run, counts: Counts) -> tuple[NgramTables, list[Discounts]]:
    total = 3 * sum(map(len, counts.keys))
    with progress_bar("Smoothing", total) as bar:
        tables, discounts = smooth(counts, _folder(run), bar.advance)
    for order, discount in enumerate(discounts, 1):
        if discount.problem is not None:
            message = f"{order}-grams: {discount.problem}; the discounts 0.5, 1 and 1.5 are used instead"
            run.log("event", step=order, event="discounts", message=message)
            say(f"  {message}")
    return tables, discounts


def _facts(model: NgramNetwork, discounts: list[Discounts]) -> dict[str, Any]:
    config = model.config
    return {
        "vocab_size": config.vocab_size,
        "order": config.order,
        "n_grams": {f"of {order}": count for order, count in enumerate(config.counts, 1)},
        "discounts": {
            f"of {order}": [round(amount, 4) for amount in discount.amounts]
            for order, discount in enumerate(discounts, 1)
        },
        "smoothing": "interpolated modified Kneser-Ney",
    }


def _rounded(amounts: Sequence[float]) -> list[float]:
    return [round(amount, 4) for amount in amounts]


def _measure(run: Run, model: NgramNetwork, shards: ShardSet, begun: float) -> None:
    """Measures what each order adds: the model with its longer n-grams left out."""
    train = run.recipe.train
    assert train.block is not None
    assert train.validation_tokens is not None
    validation = Validation(shards.validation, train.block, train.validation_tokens)
    best: dict[str, Any] = {}
    for order in range(1, model.tables.order + 1):
        score = validation.measure(NgramNetwork(model.tables.up_to(order)), model.device)
        run.log(
            "validation", step=order, loss=score.loss, bits_per_byte=score.bits_per_byte, perplexity=score.perplexity,
            tokens=len(shards.train), seconds=round(time.monotonic() - begun, 3),
        )  # fmt: skip
        say(
            f"  up to {order} token{'s' if order > 1 else ''}  {score.loss:.4f} nats/token,"
            f" {score.bits_per_byte:.4f} bits/byte, perplexity {score.perplexity:.2f}"
        )
        best = {"step": order, "loss": score.loss, "bits_per_byte": score.bits_per_byte}
    run.set_state(
        "running", step=model.tables.order, best=best, seconds=time.monotonic() - begun,
        reason=None,
    )  # fmt: skip
    tokens = human_count(validation.block * len(validation.starts))
    say(f"  (on {tokens} held-out tokens, with the longer n-grams of this model left out)")

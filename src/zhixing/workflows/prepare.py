"""From a recipe to everything that training needs: tokenizer, token shards, network, trainer.

Each part is kept in the run folder when it is done and taken from there the next time, so that an interrupted run goes
on where it was.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zhixing.checkpoints.model_tokenizer import open_tokenizer
from zhixing.checkpoints.vectors import open_vectors
from zhixing.core.device import processor_name, usable_threads
from zhixing.core.errors import BadInput, ZhixingError, command
from zhixing.core.progress import human_bytes, human_count, progress_bar
from zhixing.core.recipe import MOST_STEPS, Recipe
from zhixing.data.batches import PackedSampler
from zhixing.data.build import ShardOptions, build_shards, is_current
from zhixing.data.problems import Problems
from zhixing.data.readers import read_documents
from zhixing.data.shards import ShardSet, TokenStore, open_shards
from zhixing.data.sources import find_sources
from zhixing.data.split import document_hash, held_out
from zhixing.models import ops
from zhixing.tokenization.adding import with_added_tokens
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.embeddings import start_embeddings
from zhixing.training.loop import Trainer, trained
from zhixing.training.networks import build_network, network_config
from zhixing.training.resolve import fill_intervals
from zhixing.training.run import Run
from zhixing.training.state import list_checkpoints
from zhixing.workflows.console import say

COUNTED_TOKENS = 20_000_000
"""Training tokens that are counted at most to tell how much of the text starts from word vectors."""

CALIBRATION_SECONDS, CALIBRATION_PART, CALIBRATION_MOST = 4.0, 0.01, 30.0
"""Time spent on measuring a step when a run is given in minutes: so long, or such a part of them, up to the last."""

CALIBRATION_SHARE = 0.94
"""Share of the time that is planned for steps; the rest is for validation and saving."""


def prepare_tokenizer(
    run: Run,
    texts: Callable[[], Iterator[str]] | None = None,
    ready: Callable[[Tokenizer], Tokenizer] = lambda tokenizer: tokenizer,
    ref: str | Path | None = None,
) -> Tokenizer:
    """Loads the run's tokenizer, or trains it (or copies the one that the recipe names) into the run folder.

    Args:
        run: The run.
        texts: Gives the texts to learn from; those of the recipe's running text when not given.
        ready: Makes a trained tokenizer ready for the kind of network.
        ref: A model whose tokenizer it is, whatever the recipe's tokenizer section says.
    """
    folder, recipe = run.folder / "tokenizer", run.recipe.tokenizer
    if folder.exists():
        return _kept_tokenizer(run, folder)
    ref = recipe.path if ref is None else ref
    if ref is not None:
        tokenizer = open_tokenizer(ref)
        if recipe.add_tokens:
            tokenizer = with_added_tokens(tokenizer, recipe.add_tokens)
        facts: dict[str, Any] = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "from": str(ref)}
    else:
        trained = train_tokenizer(
            _training_texts(run.recipe) if texts is None else texts(), recipe.kind, recipe.vocab_size,
            special_tokens=recipe.special_tokens, max_bytes=recipe.sample_bytes, lowercase=recipe.lowercase,
        )  # fmt: skip
        tokenizer, facts = ready(trained.tokenizer), dataclasses.asdict(trained.facts)
        used, seen = facts["bytes_used"], facts["bytes_seen"]
        part = "all of it" if used >= seen else f"an even sample of {human_bytes(used)}"
        say(f"Tokenizer: {facts['kind']}, {tokenizer.vocab_size} tokens, from {human_bytes(seen)} of text ({part})")
    _check_tokenizer(run, tokenizer)
    part_folder = run.folder / ".tokenizer.part"
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir()
    tokenizer.save(part_folder)
    part_folder.rename(folder)
    run.add_facts(tokenizer={**facts, "fingerprint": tokenizer.fingerprint})
    return Tokenizer.load(folder)


def _kept_tokenizer(run: Run, folder: Path) -> Tokenizer:
    """Opens the tokenizer of the run folder."""
    try:
        tokenizer = Tokenizer.load(folder)
    except ZhixingError as error:
        remedy = (
            "it is made again from the same text:"
            f" {command('rm', '-r', folder)} && {command('zhixing', 'resume', run.folder)}"
        )
        raise type(error)(error.cause, where=error.where, remedy=remedy) from error
    _check_tokenizer(run, tokenizer)
    if "tokenizer" not in run.facts():
        facts = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
        run.add_facts(tokenizer=facts)
    return tokenizer


def _check_tokenizer(run: Run, tokenizer: Tokenizer) -> None:
    """Refuses to train on with other tokens than those that the weights have learned.

    Raises:
        BadInput: The tokenizer is not the one that the run began with.
    """
    known = run.facts().get("tokenizer")
    before = known.get("fingerprint") if isinstance(known, dict) else None
    if before is not None and before != tokenizer.fingerprint and list_checkpoints(run.checkpoints):
        raise BadInput(
            f"the tokenizer ({tokenizer.kind}, {tokenizer.vocab_size} tokens) is not the one that this run began with",
            where=str(run.folder / "tokenizer"),
            remedy=f"copy it back from {run.folder / 'model'}, if that is there, or put the old text back;"
            " or start a new run",
        )


def _training_texts(recipe: Recipe) -> Iterator[str]:
    """Yields the texts that a tokenizer may learn from: held-out documents are left out.

    A character vocabulary is the exception: it must be able to spell the held-out text as well.
    """
    data = recipe.data
    leave_out = data.split == "document" and recipe.tokenizer.kind != "character"
    any_left, characters = False, 0
    for text in _texts(recipe):
        characters += len(text)
        if not (leave_out and held_out(document_hash(text.encode("utf-8")), data.validation_fraction, data.seed)):
            any_left = True
            yield text
    if not any_left:
        # So few documents that all of them fell to the held-out part: as for the shards, its end is held out instead.
        left = max(1, int(characters * (1 - data.validation_fraction)))
        for text in _texts(recipe):
            if left > 0:
                yield text[:left]
            left -= len(text)


def _texts(recipe: Recipe) -> Iterator[str]:
    sources = find_sources(recipe.data.paths, Problems())
    return (document.text for document in read_documents(sources, Problems(), field=recipe.data.field))


def prepare_shards(run: Run, tokenizer: Tokenizer) -> ShardSet:
    """Opens the run's token shards, or builds them.

    Once training has begun, its shards are the data of the run: its folder is all that resuming needs.
    """
    data = run.recipe.data
    options = ShardOptions(
        validation_fraction=data.validation_fraction, split=data.split, separator=data.separator,
        field=data.field, seed=data.seed,
    )  # fmt: skip
    folder = run.folder / "shards"
    shards = _kept_shards(run, tokenizer, folder, options) or build_shards(data.paths, tokenizer, folder, options)
    facts, train, validation = shards.facts, shards.facts.train, shards.facts.validation
    say(
        f"Data: {human_count(train.documents)} documents, {human_bytes(train.bytes)},"
        f" {human_count(train.tokens)} tokens to train on;"
        f" {human_count(validation.documents)} documents, {human_bytes(validation.bytes)} held out"
    )
    for line in [*facts.notes, *facts.problems.summary()]:
        say(f"  {line}")
    run.add_facts(data={**facts.to_json(), "paths": data.paths})
    return shards


def _kept_shards(run: Run, tokenizer: Tokenizer, folder: Path, options: ShardOptions) -> ShardSet | None:
    """Opens the shards that the run began with, whatever became of the text; None when they are missing or damaged."""
    before = run.state().get("data_hash")
    if before is None:
        return None
    try:
        shards = open_shards(folder, fingerprint=tokenizer.fingerprint)
    except ZhixingError:
        return None  # they are built again, and `check_unchanged` sees to it that they are the same
    if shards.facts.data_hash != before or dict(shards.facts.options) != dataclasses.asdict(options):
        return None
    try:
        if not is_current(shards, run.recipe.data.paths):
            say("The text has changed since this run began; it goes on with the tokens it began with (shards/)")
    except ZhixingError as error:
        say(f"The text is out of reach ({error.cause}); the run goes on with the tokens it began with (shards/)")
    return dataclasses.replace(shards, reused=True)


def check_unchanged(run: Run, data_hash: str, what: str = "shards") -> None:
    """Refuses to resume on other data than the run began with.

    Args:
        run: The run.
        data_hash: Of the data that are there now.
        what: The folder that they are in.

    Raises:
        BadInput: They have changed since.
    """
    before = run.state().get("data_hash")
    if before is not None and before != data_hash:
        raise BadInput(
            "the text has changed since this run began, and the tokens it began with are gone: it cannot go on",
            where=str(run.folder / what),
            remedy="put the old text back, or start a new run",
        )
    run.set_state(run.state().get("state", "preparing"), data_hash=data_hash)


def build_trainer(run: Run, tokenizer: Tokenizer, shards: ShardSet) -> Trainer:
    """Makes the network with fresh weights, and its trainer."""
    recipe = run.recipe
    train = recipe.train
    settle_machine(recipe)
    config = network_config(recipe.model, tokenizer.vocab_size)
    model = build_network(config)
    model.initialise(torch.Generator().manual_seed(train.seed))
    if recipe.model.embeddings is not None and not list_checkpoints(run.checkpoints):
        _start_embeddings(run, model.embedding, tokenizer, shards)
    model.to(torch.device(train.device))
    if train.steps is None and train.flops is not None:
        train.steps = steps_within(train.flops, config.flops_per_token(train.block or 1), recipe)
        fill_intervals(recipe)
        run.save_recipe()
        say(f"{train.steps} steps take {human_count(train.flops)} floating-point operations")
    elif train.steps is None:
        assert train.minutes is not None
        seconds = measure_step(
            lambda trial: Trainer(copy.deepcopy(model), sampler_for(recipe, shards.train), trial), recipe
        )
        train.steps = max(1, int(train.minutes * 60 * CALIBRATION_SHARE / seconds))
        fill_intervals(recipe)
        run.save_recipe()
        say(f"One step takes {1000 * seconds:.0f} ms: {train.steps} steps fit into {train.minutes:g} minutes")
    run.add_facts(
        model={
            "family": recipe.model.family, "parameters": config.parameter_count(),
            **dataclasses.asdict(config),
        },
        machine=machine_facts(recipe),
    )  # fmt: skip
    return Trainer(model, sampler_for(recipe, shards.train), recipe)


def steps_within(flops: float, per_token: float, recipe: Recipe) -> int:
    """Returns how many steps a number of floating-point operations pays for; at least one.

    Raises:
        BadInput: They are more than can be counted.
    """
    train = recipe.train
    assert train.block is not None
    assert train.batch_size is not None
    steps = max(1, int(flops / per_token / (train.batch_size * train.accumulate * train.block)))
    if steps > MOST_STEPS:
        raise BadInput(
            f"{flops:g} operations are {steps} steps, more than {MOST_STEPS}",
            where="train.flops",
            remedy="raise train.batch_size or train.accumulate, or lower train.flops",
        )
    return steps


def settle_machine(recipe: Recipe) -> None:
    """Sets threads, seed and the library of products as the resolved recipe has them."""
    train = recipe.train
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    torch.manual_seed(train.seed)
    ops.set_matmul("torch" if train.matmul == "auto" else train.matmul)


def machine_facts(recipe: Recipe) -> dict[str, Any]:
    """Returns what a run records of its machine."""
    train = recipe.train
    return {
        "processor": processor_name(), "processors": usable_threads(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "device": train.device, "precision": train.precision, "matmul": train.matmul,
    }  # fmt: skip


def _start_embeddings(run: Run, embedding: nn.Embedding, tokenizer: Tokenizer, shards: ShardSet) -> None:
    """Starts the embedding table from the word vectors that the recipe names, and reports how much of it that is."""
    path = run.recipe.model.embeddings
    assert path is not None
    store = shards.train
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for start in range(0, min(len(store), COUNTED_TOKENS), 1 << 20):
        counts += np.bincount(store.read(start, min(1 << 20, len(store) - start)), minlength=len(counts))
    coverage = start_embeddings(embedding, tokenizer, open_vectors(Path(path)), counts)
    run.add_facts(embeddings={"vectors": path, **coverage.facts()})
    say(f"Embeddings: {coverage.describe()}")


def sampler_for(recipe: Recipe, store: TokenStore) -> PackedSampler:
    """Returns a fresh sampler over the training tokens."""
    train = recipe.train
    assert train.block is not None
    assert train.batch_size is not None
    within = recipe.data.within_documents
    return PackedSampler(store, train.block, train.batch_size, train.seed, recipe.data.order, within_documents=within)


def measure_step(make_trainer: Callable[[Recipe], Trainer], recipe: Recipe) -> float:
    """Returns the seconds of one optimizer step, measured on a copy that is thrown away.

    Args:
        make_trainer: Makes a trainer of a copy of the network for a recipe with steps.
        recipe: The run's.
    """
    trial_recipe = recipe.model_copy(deep=True)
    trial_recipe.train.steps = 1_000_000
    state = torch.get_rng_state()
    trainer = make_trainer(trial_recipe)
    times: list[float] = []
    patience = min(CALIBRATION_MOST, max(CALIBRATION_SECONDS, CALIBRATION_PART * 60 * (recipe.train.minutes or 0)))
    with progress_bar("Measuring a step") as bar:
        begun = time.perf_counter()
        while len(times) < 4 or time.perf_counter() - begun < patience:
            start = time.perf_counter()
            trainer.step()
            times.append(time.perf_counter() - start)
            bar.advance(1)
    torch.set_rng_state(state)
    settled = sorted(times[(len(times) + 2) // 3 :])  # the first ones use memory that was never used before
    return settled[len(settled) // 4]  # the lower quartile: a busy moment now says little about the minutes to come


def load_weights_into(run: Run, model: nn.Module, step: int) -> None:
    """Puts the weights of a checkpoint into the model: the average where one is kept, else the weights themselves."""
    from zhixing.training.state import load_checkpoint

    state = load_checkpoint(run.checkpoints, step)
    fill_weights(model, state.average or state.weights)


def average_weights_into(run: Run, model: nn.Module, count: int) -> list[int]:
    """Puts the mean of the newest checkpoints into the model (Izmailov et al. 2018), and returns their steps."""
    from zhixing.training.state import load_checkpoint

    steps = list_checkpoints(run.checkpoints)[-count:]
    total: dict[str, torch.Tensor] = {}
    for number, step in enumerate(steps, 1):  # one at a time: the memory is that of one of them
        state = load_checkpoint(run.checkpoints, step)
        for name, tensor in (state.average or state.weights).items():
            total[name] = tensor.float() if number == 1 else total[name].lerp_(tensor.float(), 1 / number)
    fill_weights(model, total)
    return steps


@torch.no_grad()
def fill_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copies the trained weights of a checkpoint into a model whose frozen ones are there already."""
    for name, parameter in trained(model):
        parameter.copy_(weights[name])


def relative(path: Path) -> str:
    """Returns a path as a user would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)

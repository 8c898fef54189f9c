"""One run from beginning to end: prepare, train, write the model folder, measure it, let it write, report.

Every phase leaves its result in the run folder, so that `resume_run` only has to do what is missing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.core.device import peak_memory_bytes, tune_allocator
from zhixing.core.errors import BadInput, Interrupted, MissingResource, ZhixingError, command
from zhixing.core.progress import human_count
from zhixing.core.recipe import Recipe
from zhixing.data.problems import Problems
from zhixing.data.shards import ShardSet, TokenStore
from zhixing.data.sources import find_sources
from zhixing.evaluation.language_modelling import LanguageModelScore, TokenDocument, evaluate_tokens
from zhixing.evaluation.report import write_report
from zhixing.evaluation.yardsticks import Yardstick, unigram_yardstick, xz_yardstick
from zhixing.models import ops
from zhixing.models.network import UNBOUNDED, NetworkConfig
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.fit import Fit
from zhixing.training.objectives import record_objective
from zhixing.training.prove import Proof
from zhixing.training.resolve import resolve
from zhixing.training.resolve_counting import FAMILY as COUNTED
from zhixing.training.run import Run
from zhixing.training.state import list_checkpoints
from zhixing.training.validation import Validation
from zhixing.workflows.card import model_card
from zhixing.workflows.count import clear_counts, count_model
from zhixing.workflows.fitting import fit_run, say_published
from zhixing.workflows.prepare import (
    build_trainer,
    check_unchanged,
    load_weights_into,
    prepare_shards,
    prepare_tokenizer,
    relative,
)
from zhixing.workflows.records_run import RecordOutcome, record_phases
from zhixing.workflows.samples import write_samples

YARDSTICK_TOKENS = 50_000_000
"""Training tokens that the unigram yardstick counts at most."""

YARDSTICK_BYTES = 20_000_000
"""Held-out text that xz compresses at most."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        folder: The run folder.
        score: The final measurement on the held-out text.
        yardsticks: Plain figures to hold it against.
        samples: Beginnings of held-out documents and what the model wrote after them.
        proof: What `--prove` compared, or None.
    """

    folder: Path
    score: LanguageModelScore
    yardsticks: list[Yardstick]
    samples: list[dict[str, str]]
    proof: Proof | None = None


def start_run(recipe: Recipe, folder: Path) -> Outcome | RecordOutcome:
    """Runs a recipe in a new folder.

    Raises:
        BadInput: The recipe contradicts itself, the data cannot be used, the folder is taken.
        MissingResource: Text, disk space or a permission is missing.
        Interrupted: Ctrl-C; what was done is kept.
    """
    if recipe.data.pictures is not None and (recipe.data.paths or recipe.data.validation_paths):
        raise BadInput(
            "data.paths and data.pictures both say what to train on",
            where="data.pictures",
            remedy="leave out the one or the other",
        )
    if not recipe.data.paths and recipe.data.pictures is None:
        raise BadInput("no text to train on", where="data.paths", remedy="name files, folders or globs in data.paths")
    tune_allocator()
    if recipe.data.paths:  # what is not there is said before anything is made
        find_sources([*recipe.data.paths, *recipe.data.validation_paths], Problems())
    run = Run.create(folder, resolve(recipe))
    return _carry_on(run, prove_first=False, new=True)


def resume_run(folder: Path, *, prove_first: bool = False) -> Outcome | RecordOutcome:
    """Goes on with a run where it stopped, in whichever phase that was.

    Args:
        folder: The run folder.
        prove_first: Replay the last steps before going on, and compare every bit.
    """
    tune_allocator()
    run = Run.open(folder)
    return _carry_on(run, prove_first=prove_first)


def _carry_on(run: Run, *, prove_first: bool, new: bool = False) -> Outcome | RecordOutcome:
    resume = command("zhixing", "resume", relative(run.folder))
    try:
        return _phases(run, prove_first)
    except KeyboardInterrupt:
        run.set_state("interrupted")
        raise Interrupted("stopped; what is done is kept", remedy=f"go on: {resume}") from None
    except Interrupted:
        with contextlib.suppress(ZhixingError):
            write_report(run.folder)
        raise
    except ZhixingError as error:
        if new and _is_empty(run, error):
            run.discard()  # so that the same command can be given again when the fault is mended
            raise
        _note_failure(run, error)
        if isinstance(error, MissingResource) and resume not in (error.remedy or ""):
            mend = f"{error.remedy}; then " if error.remedy else ""
            raise MissingResource(error.cause, where=error.where, remedy=f"{mend}go on: {resume}") from error
        raise
    finally:
        run.close()


def _is_empty(run: Run, error: ZhixingError) -> bool:
    """Tells whether a new run failed with nothing to go on with.

    A recipe or a text that cannot be used will not do better on resuming; a full disk may, once a part is done.
    """
    if list_checkpoints(run.checkpoints):
        return False
    return isinstance(error, BadInput) or not (run.folder / "tokenizer").exists()


def _note_failure(run: Run, error: ZhixingError) -> None:
    with contextlib.suppress(ZhixingError):  # the disk may be full, and the error itself is told anyway
        if run.state().get("state") in ("preparing", "running"):
            run.set_state("failed", reason=error.cause)


def _phases(run: Run, prove_first: bool) -> Outcome | RecordOutcome:
    begun = time.monotonic()
    if record_objective(run.recipe.train.objective) is not None:
        return record_phases(run, prove_first, begun)
    tokenizer = prepare_tokenizer(run)
    shards = prepare_shards(run, tokenizer)
    check_unchanged(run, shards.facts.data_hash)
    if run.recipe.model.family == COUNTED:
        return _counted(run, tokenizer, shards, prove_first, begun)
    trainer = build_trainer(run, tokenizer, shards)
    recipe = run.recipe
    train = recipe.train
    assert train.block is not None
    peak = ops.matmul_peak() if train.device == "cpu" else 0.0
    run.add_facts(machine={**run.facts()["machine"], "matmul_gflops": round(peak, 1)})
    assert train.validation_tokens is not None
    validation = Validation(shards.validation, train.block, train.validation_tokens, recipe.data.within_documents)
    config = cast(NetworkConfig, trainer.model.config)
    context = "unbounded" if config.context == UNBOUNDED else config.context
    described = (
        f"{recipe.model.family}, {human_count(config.parameter_count())} parameters ({config.describe()}),"
        f" context {context}"
    )
    fitted = fit_run(Fit(run, trainer, validation, peak), described, prove_first=prove_first)
    load_weights_into(run, trainer.model, fitted.published_step)
    say_published(fitted)
    run.add_facts(training=fitted.facts)
    outcome = _finish(run, trainer.model, tokenizer, shards, fitted.proof)
    run.set_state(
        "finished", step=trainer.done, peak_memory=peak_memory_bytes(), total_seconds=time.monotonic() - begun
    )
    write_report(run.folder)
    return outcome


def _counted(run: Run, tokenizer: Tokenizer, shards: ShardSet, prove_first: bool, begun: float) -> Outcome:
    """The phases of an n-gram model, which is counted instead of trained."""
    if prove_first:
        raise BadInput("an n-gram model has no training steps to repeat", where="--prove", remedy="leave --prove out")
    model = count_model(run, tokenizer, shards)
    outcome = _finish(run, model, tokenizer, shards, None)
    clear_counts(run)
    run.set_state(
        "finished", step=run.recipe.train.steps, peak_memory=peak_memory_bytes(), total_seconds=time.monotonic() - begun
    )
    write_report(run.folder)
    return outcome


def _finish(run: Run, model: Any, tokenizer: Tokenizer, shards: ShardSet, proof: Proof | None) -> Outcome:
    """Measures the finished model, lets it write, and writes the model folder."""
    recipe = run.recipe
    block = recipe.train.block
    assert block is not None
    # Without a longest input, what lies further back than a block helps, too.
    window = None if model.config.context == UNBOUNDED else block
    with torch.inference_mode():
        start = shards.facts.separator_id
        documents = held_out_documents(
            shards.validation, tokenizer, start, recipe.train.evaluation_tokens, recipe.data.split
        )
        score, _ = evaluate_tokens(model, documents, start=start, window=window, fingerprint=tokenizer.fingerprint)
    yardsticks = measure_yardsticks(shards, tokenizer)
    run.add_facts(
        evaluation={
            **score.to_json(),
            "yardsticks": {f"{yardstick.name}_bits_per_byte": yardstick.bits_per_byte for yardstick in yardsticks},
            "yardstick_descriptions": {yardstick.name: yardstick.description for yardstick in yardsticks},
        }
    )
    facts = run.facts()
    save_folder(run.folder / "model", model, tokenizer, recipe.model.family, card=model_card(recipe, facts))
    samples = write_samples(load_folder(run.folder / "model"), shards.validation, recipe.train.seed)
    run.add_facts(samples=samples)
    return Outcome(run.folder, score, yardsticks, samples, proof)


def held_out_documents(
    store: TokenStore, tokenizer: Tokenizer, separator: int | None, most: int, split: str
) -> Iterator[TokenDocument]:
    """Yields held-out documents without their separators, until about `most` tokens.

    With a tail split the held-out part is one running text, so it is given as one.
    """
    bounds = store.documents
    if split == "tail" and separator is None:
        tokens = store.read(0, len(store))
        # Nothing comes before the first token, so it is not scored, and its bytes do not count.
        first = len(tokenizer.token_bytes(int(tokens[0])))
        yield TokenDocument(tokens, int(store.document_bytes.sum()), first_bytes=first)
        return
    given = 0
    for index in range(len(bounds) - 1):
        start, end = int(bounds[index]), int(bounds[index + 1])
        tokens = store.read(start, end - start)
        if separator is not None and len(tokens) and tokens[-1] == separator:
            tokens = tokens[:-1]
        if len(tokens):
            yield TokenDocument(tokens, int(store.document_bytes[index]))
            given += len(tokens)
        if given >= most:
            return


def measure_yardsticks(shards: ShardSet, tokenizer: Tokenizer) -> list[Yardstick]:
    """Measures xz and a unigram model on the held-out text."""
    store = shards.validation
    count = min(len(store), YARDSTICK_BYTES // 4)
    text = tokenizer.decode(store.read(0, count).tolist(), skip_special=True)
    pieces = (shards.train.read(at, min(1 << 20, len(shards.train) - at)) for at in _steps(len(shards.train)))
    unigram = unigram_yardstick(pieces, [store.read(0, len(store))], tokenizer.vocab_size, int(store.byte_count))
    return [unigram, xz_yardstick([text])]


def _steps(length: int) -> range:
    return range(0, min(length, YARDSTICK_TOKENS), 1 << 20)

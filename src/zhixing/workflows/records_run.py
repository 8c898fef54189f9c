"""A run on records from beginning to end: check and encode them, build or open the network, train, publish, measure.

The counterpart of `pretrain`, which trains on running text; both leave the same run folder.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from zhixing.checkpoints.references import resolve as resolve_reference
from zhixing.core.device import peak_memory_bytes
from zhixing.core.errors import BadInput
from zhixing.core.files import atomic_folder
from zhixing.core.progress import human_count
from zhixing.core.recipe import Recipe
from zhixing.data.length_batches import LengthSampler
from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.report import write_report
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.fit import Fit
from zhixing.training.kinds import MAKERS, Begun, NetworkMaker
from zhixing.training.loop import Trainer
from zhixing.training.objectives import RecordObjective, objective_named
from zhixing.training.objectives.base import Setting
from zhixing.training.objectives.chat import ChatTurns
from zhixing.training.prove import Proof
from zhixing.training.regularisers import freeze
from zhixing.training.resolve_records import fill_rate, fill_steps
from zhixing.training.run import Run
from zhixing.training.validation import ExampleValidation, ValidationScore
from zhixing.workflows.before_after import compare_with_start, remember_start
from zhixing.workflows.console import say
from zhixing.workflows.drawn import draw_pictures
from zhixing.workflows.examples import (
    FOLDER,
    Examples,
    Records,
    build_examples,
    check_records,
    open_examples,
    report_examples,
)
from zhixing.workflows.fitting import fit_run, say_published
from zhixing.workflows.measures import final_scores, measure_for
from zhixing.workflows.predictions import keep_predictions
from zhixing.workflows.prepare import (
    average_weights_into,
    check_unchanged,
    load_weights_into,
    machine_facts,
    measure_step,
    prepare_tokenizer,
    settle_machine,
)
from zhixing.workflows.record_card import record_card
from zhixing.workflows.tuned_card import tuned_card
from zhixing.workflows.writer import writer_for
from zhixing.workflows.written import write_targets

INITIAL = "initial"
"""The folder of the model that a run began with, inside the run's own: resuming needs nothing else."""

PACKED = "model.gguf"
"""The file in it, where the run began with a GGUF file."""

MODEL_FILES = (".json", ".safetensors", ".txt", ".model", ".spm", ".jinja")


@dataclass(frozen=True)
class RecordOutcome:
    """What a run on records came to.

    Attributes:
        folder: The run folder.
        objective: Its name.
        score: All figures on the held-out records.
        scores: Those that have an interval and a signature.
        records: Held-out records that were measured.
        all_records: Held-out records that there are.
        samples: Some predictions beside what is right.
        proof: What `--prove` compared, or None.
    """

    folder: Path
    objective: str
    score: ValidationScore
    scores: list[Score]
    records: int
    all_records: int
    samples: list[dict[str, Any]] = field(default_factory=list)
    proof: Proof | None = None


def record_phases(run: Run, prove_first: bool, begun_at: float) -> RecordOutcome:
    """Runs all phases; each leaves its result in the run folder."""
    recipe = run.recipe
    kind = objective_named(recipe.train.objective)
    assert issubclass(kind, RecordObjective)
    maker = MAKERS[kind.network]
    start = prepare_start(run)
    draw_pictures(run)
    objective, tokenizer, examples = prepare_examples(run, Records(recipe, kind), maker, start)
    check_unchanged(run, examples.hash, FOLDER)
    report_examples(run, examples, objective)
    objective.target_writer = write_targets
    trainer, begun = build_record_trainer(run, objective, maker, tokenizer, examples, start)
    train = recipe.train
    assert train.validation_tokens is not None
    measure = measure_for(objective)
    validation = ExampleValidation(examples.validation, objective, measure, train.validation_tokens)
    described = f"{begun.family}, {human_count(begun.parameters)} parameters ({begun.describe}), reads {begun.longest}"
    fit = Fit(run, trainer, validation, lower=objective.lower | {"loss"})
    tuned = isinstance(objective, ChatTurns) and recipe.model.start is not None
    if tuned:
        remember_start(run, begun.model, cast(ChatTurns, objective), validation)
    fitted = fit_run(fit, f"{described} tokens", prove_first=prove_first)
    if train.average_last > 1:
        published = average_weights_into(run, begun.model, train.average_last)
        say(f"Published: the mean of the checkpoints of steps {', '.join(map(str, published))}")
    else:
        published = [fitted.published_step]
        load_weights_into(run, begun.model, fitted.published_step)
        say_published(fitted)
    run.add_facts(training={**fitted.facts, "published": published})
    if tuned:
        compare_with_start(run, begun.model, cast(ChatTurns, objective), validation)
    outcome = _finish(run, objective, maker, begun, tokenizer, examples, fitted.proof)
    run.set_state(
        "finished", step=trainer.done, peak_memory=peak_memory_bytes(), total_seconds=time.monotonic() - begun_at
    )
    write_report(run.folder)
    return outcome


def _card(recipe: Recipe, facts: dict[str, Any]) -> str:
    decoder = objective_named(recipe.train.objective).network == "causal"
    return tuned_card(recipe, facts) if decoder else record_card(recipe, facts)


def prepare_start(run: Run) -> Path | None:
    """Returns the folder of the model to begin with, inside the run folder; copies it there the first time."""
    ref = run.recipe.model.start
    if ref is None:
        return None
    folder = run.folder / INITIAL
    packed = folder / PACKED
    if folder.is_dir():
        return packed if packed.is_file() else folder
    source = resolve_reference(ref)
    decoder = objective_named(run.recipe.train.objective).network == "causal"
    if source.is_file() and decoder:
        with atomic_folder(folder) as part:
            _place(source, part / PACKED)
        return packed
    if source.is_file():
        raise BadInput(
            "training goes on from a model folder, not from a .gguf file, whose weights are rounded",
            where="model.start",
            remedy="name the folder or the reference of the original model",
        )
    with atomic_folder(folder) as part:
        for file in sorted(source.rglob("*")):
            inside = file.relative_to(source)
            if file.is_file() and file.suffix in MODEL_FILES and len(inside.parts) <= 2:
                target = part / inside
                target.parent.mkdir(exist_ok=True)
                _place(file, target)
    return folder


def _place(source: Path, target: Path) -> None:
    """Puts a file into the run folder, as the same bytes on disk where that can be: neither is ever written to."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy(source, target)


def prepare_examples(
    run: Run, records: Records, maker: NetworkMaker, start: Path | None
) -> tuple[RecordObjective, Tokenizer, Examples]:
    """Opens the run's tokenizer and examples, or makes them; the objective knows both."""
    known, kind, longest = run.folder / FOLDER, records.objective, maker.longest(run.recipe, start)
    if known.is_dir() and (run.folder / "tokenizer").is_dir():
        objective, tokenizer = kind(run.recipe), prepare_tokenizer(run)
        objective.begin_with(start)
        objective.attach(tokenizer, longest)
        examples = open_examples(known, objective, tokenizer.fingerprint)
        if examples is not None:
            return objective, tokenizer, examples
    objective = kind(run.recipe)
    objective.begin_with(start)
    checked = check_records(records, objective)
    tokenizer = prepare_tokenizer(run, records.training_texts, maker.prepare_tokenizer, start)
    objective.attach(tokenizer, longest)
    return objective, tokenizer, build_examples(run, records, objective, tokenizer, checked)


def build_record_trainer(
    run: Run,
    objective: RecordObjective,
    maker: NetworkMaker,
    tokenizer: Tokenizer,
    examples: Examples,
    start: Path | None,
) -> tuple[Trainer, Begun]:
    """Makes the network and its trainer, and fills in what the recipe left open until now."""
    recipe = run.recipe
    train = recipe.train
    settle_machine(recipe)
    begun = maker.begin(recipe, tokenizer, objective, start)
    begun.model = objective.wrap(begun.model, begun.new_head).to(torch.device(train.device))
    if train.best not in (*objective.measured(), "loss"):
        train.best = objective.measured()[0]
    freeze(begun.model, recipe)
    frozen = sum(parameter.numel() for parameter in begun.model.parameters() if not parameter.requires_grad)
    for note in begun.notes:
        say(note)
    if frozen:
        say(f"Frozen: {human_count(frozen)} of {human_count(begun.parameters)} parameters stay as they are")

    objective.begin(
        Setting(begun.model, examples.train, examples.validation, run.folder, writer_for(begun.model, tokenizer))
    )

    def sampler() -> LengthSampler:
        return LengthSampler(examples.train, train.seed, batch_size=train.batch_size, batch_tokens=train.batch_tokens)

    if train.steps is None or train.validation_tokens is None or train.save_every is None:
        fill_rate(recipe, int(begun.facts.get("width") or begun.facts.get("hidden") or 768))
        if train.steps is None and train.minutes is not None:
            seconds = measure_step(
                lambda trial: Trainer(copy.deepcopy(begun.model), objective.sampler(sampler()), trial, objective),
                recipe,
            )
            train.steps = max(1, int(train.minutes * 60 * 0.9 / seconds))
            say(f"One step takes {1000 * seconds:.0f} ms: {train.steps} steps fit into {train.minutes:g} minutes")
        tokens = int(examples.train.lengths.sum(dtype="int64"))
        per_step = train.accumulate * tokens / sampler().batches_in(1)
        if train.steps is None and train.tokens is not None:
            train.steps = max(1, int(train.tokens / per_step))
        fill_steps(recipe, sampler(), per_step)
        run.save_recipe()
    run.add_facts(
        model={"family": begun.family, "parameters": begun.parameters, "frozen": frozen, **begun.facts},
        machine=machine_facts(recipe),
    )
    return Trainer(begun.model, objective.sampler(sampler()), recipe, objective), begun


def _finish(
    run: Run, objective: RecordObjective, maker: NetworkMaker, begun: Begun, tokenizer: Tokenizer,
    examples: Examples, proof: Proof | None,
) -> RecordOutcome:  # fmt: skip
    """Measures the published weights on the held-out records and writes the model folder."""
    train = run.recipe.train
    device = torch.device(train.device)
    objective.final = True
    validation = ExampleValidation(examples.validation, objective, measure_for(objective), train.evaluation_tokens)
    with torch.inference_mode():
        loss, targets, predictions, references, records = validation.outcomes(begun.model, device)
    mean = loss / max(1, targets)
    found, right = objective.gather(predictions, references, records)
    keep_predictions(run.folder, found, right)
    scores = final_scores(objective, found, right)
    own, measures = objective.own_measures(mean, found, right), objective.measured()
    named = {one.name: one.value for one in scores} | dict(own)
    figures = {name: named[name] for name in (*measures, *(name for name in own if name not in measures))}
    score = ValidationScore(loss=mean, tokens=targets, measures=figures)
    shown = [objective.show(one, other) for one, other in list(zip(found, right, strict=False))[:8]]
    samples = [{"predicted": _brief(pair[0]), "right": _brief(pair[1])} for pair in shown if pair is not None]
    run.add_facts(
        evaluation={
            "objective": objective.name, "loss": mean, "targets": targets, "measures": figures,
            "scores": [one.to_json() for one in scores], "records": validation.records,
            "all_records": validation.all_records,
        },
        predictions=samples,
    )  # fmt: skip
    published = dataclasses.replace(begun, model=objective.published(begun.model))
    card = _card(run.recipe, run.facts())
    maker.save(run.folder / "model", published, tokenizer, card)
    for name, companion in objective.companions(begun.model).items():
        maker.save(run.folder / "model" / name, dataclasses.replace(begun, model=companion, unused={}), tokenizer, card)
    return RecordOutcome(
        run.folder, objective.name, score, scores, validation.records, validation.all_records, samples, proof
    )


def _brief(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."

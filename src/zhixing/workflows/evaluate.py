"""A task's model on a data set, measured: `zhixing eval MODEL DATA --task ...`, and two models compared.

Here tasks and measures meet, which know nothing of each other. The measures are `evaluation.task_measures`', the page
`evaluation.task_report`'s.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput, ZhixingError
from zhixing.core.progress import progress_bar
from zhixing.data.problems import NOTES, Problems
from zhixing.data.shapes.read import read
from zhixing.data.shapes.records import Labelled, Record
from zhixing.data.shapes.schemes import chunks, find_scheme, split_tag
from zhixing.evaluation.metrics.registry import compare
from zhixing.evaluation.task_measures import Example, Measured, TaskMeasure, examples_of, measured, task_measure
from zhixing.evaluation.task_report import Evaluation, System
from zhixing.tasks.base import Fault, Row, Task, run_rows
from zhixing.tasks.embed import open_embedder
from zhixing.workflows.evaluation_checks import check_arguments, check_examples, check_options, in_flags

DEEP = 10
"""Items of a ranking."""
MOST_LABELS = 200


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Attributes:
        labels: For a model without labels of its own: the labels to choose from; "0=negative" names what the data
            calls 0. None takes those that occur in the data.
        names: Measures instead of the usual ones.
        limit: So many of the records, the first ones.
        columns: Which column of the data holds which role.
        index: For search: the files to search in; without it every record searches among the others.
        resamples: Of the intervals.
        seed: Of the resampling.
        task: More options of the task itself.
    """

    labels: Sequence[str] | None = None
    names: Sequence[str] = ()
    limit: int | None = None
    columns: Mapping[str, str] | None = None
    index: Sequence[str] = ()
    resamples: int = 1000
    seed: int = 0
    task: Mapping[str, Any] | None = None


def evaluate_task(task: str, models: Sequence[str], data: Sequence[str], options: Options | None = None) -> Evaluation:
    """Runs one or two models on the records of files, and measures what they say.

    Args:
        task: The task; see `evaluation.task_measures.TASKS`.
        models: One reference or two.
        data: Files, folders and globs.
        options: How.

    Raises:
        BadInput: The task is unknown, the data have another shape, or a model cannot do the task.
        MissingResource: A file or a model is not there.
    """
    options = options or Options()
    measure = task_measure(task)
    check_options(measure, options)
    problems = Problems()
    records = read_for(measure, data, options, problems)
    examples = examples_of(measure, records, problems)
    notes = []
    if options.limit is not None and len(examples) > options.limit:
        notes.append(f"The first {options.limit:,} of {len(examples):,} records were measured (--limit).")
        examples = examples[: options.limit]
    if skipped := sum(count for kind, count in problems.counts.items() if kind not in NOTES):
        notes.append(f"{skipped:,} record(s) or file(s) could not be read and are not measured.")
    check_examples(measure, examples, options)
    for ref in models[1:]:  # what the second cannot do is said before the first has worked; it is opened again later
        if task == "search":
            open_embedder(ref)
        else:
            chosen, labels, _ = _renamed(measure, examples, options)
            _strange_labels(open_task(task, ref, labels, chosen, options), chosen, ref)
    systems = []
    for ref in models:
        if task == "search":
            chosen, results, seconds = _search(ref, examples, records, measure, options)
        else:
            chosen, labels, called = _renamed(measure, examples, options)
            opened = open_task(task, ref, labels, chosen, options)
            notes += _strange_labels(opened, chosen, ref)
            results, seconds, faults = _run(opened, chosen, called)
            notes += (
                [f"{ref}: {len(faults):,} row(s) without a result count as wrong; the first: {faults[0]}"]
                if faults
                else []
            )
        settings = {"resamples": options.resamples, "seed": options.seed}
        found = measured(measure, chosen, results, names=options.names, settings=settings)
        systems.append(System(str(ref), found, seconds))
    comparisons = _compared(systems, options) if len(systems) == 2 else []
    return Evaluation(task, tuple(data), tuple(systems), tuple(comparisons), tuple(notes), problems.to_json())


def read_for(
    measure: TaskMeasure, data: Sequence[str], options: Options, problems: Problems
) -> list[tuple[Record, str]]:
    """Reads records of a shape that a task can be measured on.

    Raises:
        BadInput: The files hold another shape.
    """
    fault: BadInput | None = None
    for shape in measure.shapes:
        try:
            tried = Problems()
            found = [
                (placed.record, placed.place)
                for placed in read(list(data), shape=shape, columns=options.columns, problems=tried)
            ]
        except BadInput as error:
            fault = fault or error
            continue
        problems.merge(tried)
        return found
    assert fault is not None
    raise in_flags(fault, measure) from fault


def _renamed(
    measure: TaskMeasure, examples: Sequence[Example], options: Options
) -> tuple[list[Example], list[str] | None, dict[str, str]]:
    """Gives the data's labels the names that the user wants.

    Returns:
        The examples, the labels to choose from (if any), and what the data call each type of entity that was named.
    """
    if measure.name not in ("classify", "tag"):
        return list(examples), None, {}
    names: dict[str, str] = {}
    for part in options.labels or ():
        label, equals, name = (one.strip() for one in part.partition("="))
        names[label] = name if equals else label
    if measure.name == "tag":
        kinds = {split_tag(tag)[1] for one in examples for tag in one.reference} if _has_chunks(examples) else set()
        chosen = list(names.values()) or sorted(kinds - {""})
        return list(examples), chosen, {name: label for label, name in names.items()}
    occurring = sorted({str(label) for one in examples for label in _several(one.reference)})
    if options.labels is None:
        return list(examples), occurring if 2 <= len(occurring) <= MOST_LABELS else None, {}
    if missing := [label for label in occurring if label not in names and label not in names.values()]:
        raise BadInput(
            f"the label {missing[0]!r} of the data is not among --labels",
            remedy=f"name all of them: {','.join(occurring[:20])}; or what they mean: {missing[0]}=NAME",
        )
    renamed = [
        replace(one, reference=[names.get(label, label) for label in one.reference])
        if isinstance(one.reference, list)
        else replace(one, reference=names.get(one.reference, one.reference))
        for one in examples
    ]
    return renamed, list(dict.fromkeys(names.values())), {}


def _has_chunks(examples: Sequence[Example]) -> bool:
    return find_scheme([one.reference for one in examples]) != "none"


def _several(reference: Any) -> list[Any]:
    return reference if isinstance(reference, list) else [reference]


def open_task(task: str, ref: str, labels: Sequence[str] | None, examples: Sequence[Example], options: Options) -> Task:
    """Opens a task with a model.

    Args:
        task: The task.
        ref: The model.
        labels: To choose from, for a model without labels of its own.
        examples: What it will be given.
        options: More.

    Raises:
        BadInput: The model cannot do it, or an option is not known.
    """
    from zhixing.tasks.answer import AnswerTask
    from zhixing.tasks.classify import Classify
    from zhixing.tasks.describe import Describe
    from zhixing.tasks.extract import Extract, schema_of
    from zhixing.tasks.fill import Fill
    from zhixing.tasks.rewrite import Rewrite
    from zhixing.tasks.summarize import Summarize
    from zhixing.tasks.tag import Tag
    from zhixing.tasks.translate import Translate

    more = dict(options.task or {})
    kinds: dict[str, Any] = {
        "classify": Classify, "tag": Tag, "answer": AnswerTask, "translate": Translate, "summarize": Summarize,
        "rewrite": Rewrite, "describe": Describe, "extract": Extract, "fill": Fill,
    }  # fmt: skip
    if task not in kinds:
        raise BadInput(f"the task {task!r} cannot be run", where="--task")
    make = kinds[task]
    check_arguments(task, make, more, ("ref", "labels"))
    given: list[Any] = [ref]
    if task in ("classify", "tag"):
        given.append(labels if _chooses(ref) else None)
    elif task == "answer" and not _chooses(ref) and any(not one.reference for one in examples):
        more.setdefault("nothing", True)
    elif task == "extract":
        given.insert(0, more.pop("schema", None) or schema_of([one.reference for one in examples]))
    try:
        opened: Task = make(*given, **more)
    except TypeError as error:  # a value of another type than the option takes
        raise BadInput(
            f"the task {task!r} does not take these options: {', '.join(f'{k}={v!r}' for k, v in more.items())}",
            where="--option",
        ) from error
    return opened


def _strange_labels(task: Task, examples: Sequence[Example], ref: str) -> list[str]:
    """Says which labels of the data a classifier or tagger of its own labels does not know, and so cannot find.

    Raises:
        BadInput: It knows none of them, or has no labels but gives a number.
    """
    from zhixing.tasks.classify import Classify, HeadScorer
    from zhixing.tasks.tag import HeadTagger, Tag

    if isinstance(task, Classify) and isinstance(task.scorer, HeadScorer):
        if task.scorer.problem == "regression":
            raise BadInput(
                "this model gives a number and no label, which --task classify does not measure",
                where=ref,
                remedy="its run's report has the correlations: zhixing report RUN",
            )
        known, wanted = set(task.scorer.labels), Counter(str(x) for one in examples for x in _several(one.reference))
    elif isinstance(task, Tag) and isinstance(task.tagger, HeadTagger) and _has_chunks(examples):
        known = {split_tag(tag)[1] for tag in task.tagger.labels}
        wanted = Counter(chunk.type for one in examples for chunk in chunks(one.reference))
    else:
        return []
    strange = [label for label in sorted(wanted) if label not in known]
    if strange and len(strange) == len(wanted):
        renaming = ",".join(f"{label}=NAME" for label in strange[:5])
        raise BadInput(
            f"the model knows none of the data's labels ({', '.join(strange[:10])}): its own are"
            f" {', '.join(sorted(known - {''})[:10])}",
            where=ref,
            remedy=f"say what the data's mean: --labels {renaming}"
            if task.name == "classify"
            else "measure it on data with its own labels",
        )
    return [
        f"{ref}: the model does not know the label {label!r}, which {wanted[label]:,} time(s) is right"
        for label in strange[:10]
    ]


def _chooses(ref: str) -> bool:
    """Tells whether a model needs labels to choose from: all but classifiers do, which have their own."""
    from zhixing.checkpoints.encoder_folder import is_encoder, load_encoder
    from zhixing.checkpoints.references import resolve

    path = resolve(ref)
    return not (path.is_dir() and is_encoder(path)) or load_encoder(path).model.head_config.kind == "pool"


def _run(
    task: Task, examples: Sequence[Example], called: Mapping[str, str]
) -> tuple[list[dict[str, Any] | None], float, list[str]]:
    """Runs a task on examples, chunk by chunk; returns results, seconds and what was wrong with rows.

    Args:
        task: The task.
        examples: What it is given.
        called: What the data call the types of entities that the task names.
    """
    begun = time.perf_counter()
    if (tags := _tags_of_tokens(task, examples)) is not None:
        return tags, time.perf_counter() - begun, []
    if (described := _descriptions(task, examples)) is not None:
        return described[0], time.perf_counter() - begun, described[1]
    results: list[dict[str, Any] | None] = []
    faults = []
    names = {column.name for column in task.columns}
    rows: list[Row] = [{key: text for key, text in one.row.items() if key in names} for one in examples]
    with progress_bar(f"Running {task.name}", len(rows)) as bar:
        for start in range(0, len(rows), task.chunk):
            chunk = rows[start : start + task.chunk]
            for place, result in enumerate(run_rows(task, chunk), start=start):
                if isinstance(result, Fault):
                    faults.append(f"{examples[place].place}: {result.message}")
                    results.append(None)
                else:
                    results.append(_named(result.to_json(), called))
            bar.advance(len(chunk))
    return results, time.perf_counter() - begun, faults


def _named(values: dict[str, Any], called: Mapping[str, str]) -> dict[str, Any]:
    """Gives entities the types' names that the data have."""
    if called and isinstance(values.get("prediction"), list):
        entities = [{**one, "type": called.get(one["type"], one["type"])} for one in values["prediction"]]
        return {**values, "prediction": entities}
    return values


def _tags_of_tokens(task: Task, examples: Sequence[Example]) -> list[dict[str, Any] | None] | None:
    """Tags the data's own tokens, where the task has a tagger that takes tokens; else None."""
    from zhixing.tasks.tag import HeadTagger, Tag

    if not isinstance(task, Tag) or not isinstance(task.tagger, HeadTagger):
        return None
    results: list[dict[str, Any] | None] = []
    with progress_bar("Running tag", len(examples)) as bar:
        for start in range(0, len(examples), task.chunk):
            chunk = examples[start : start + task.chunk]
            results += [{"tags": tags} for tags, _ in task.tagger.tags([one.tokens for one in chunk])]
            bar.advance(len(chunk))
    return results


def _descriptions(task: Task, examples: Sequence[Example]) -> tuple[list[dict[str, Any] | None], list[str]] | None:
    """Describes pictures, which may be bytes and no files: results, and what was wrong; None for another task."""
    from zhixing.tasks.describe import Describe

    if not isinstance(task, Describe):
        return None
    results: list[dict[str, Any] | None] = []
    faults = []
    with progress_bar("Running describe", len(examples)) as bar:
        for start in range(0, len(examples), task.chunk):
            chunk = examples[start : start + task.chunk]
            try:
                results += [one.to_json() for one in task.describer([one.image or b"" for one in chunk])]
            except ZhixingError:  # some of them: each by itself
                for one in chunk:
                    try:
                        results += [found.to_json() for found in task.describer([one.image or b""])]
                    except ZhixingError as error:
                        results.append(None)
                        faults.append(f"{one.place}: {error.cause}")
            bar.advance(len(chunk))
    return results, faults


def _compared(systems: Sequence[System], options: Options) -> list[Any]:
    """Compares two systems by every measure that both have."""
    first, second = (system.measured for system in systems)
    names = [score.name for score in first.scores if score.name != "ece"]
    if not names:  # ece is no mean over examples
        return []
    return compare(
        names, first.predictions, second.predictions, first.references,
        resamples=options.resamples or 1000, seed=options.seed,
    )  # fmt: skip


def _search(
    ref: str,
    examples: Sequence[Example],
    records: Sequence[tuple[Record, str]],
    measure: TaskMeasure,
    options: Options,
) -> tuple[list[Example], list[dict[str, Any] | None], float]:
    """Ranks, for every example, what its vector is nearest to; returns the examples with what is relevant to each."""
    embedder = open_embedder(ref)
    begun = time.perf_counter()
    queries = [one.row["text"] for one in examples]
    items, keys = _items(examples, records, measure, options)
    alone = not options.index and isinstance(records[0][0], Labelled)
    relevant: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        relevant.setdefault(key, []).append(place)
    if not any(len(relevant.get(str(one.reference), [])) > alone for one in examples):
        raise BadInput("no query has anything relevant to find", remedy="give records of which several share a label")
    vectors = _unit(embedder(items, progress=True).vectors)
    asked = vectors if alone else _unit(embedder(queries, progress=True).vectors)
    chosen, results = [], []
    for start in range(0, len(queries), 256):
        near = asked[start : start + 256] @ vectors.T  # (queries, items)
        for row, scores in enumerate(near, start=start):
            if alone:
                scores[row] = -np.inf
            mine = [place for place in relevant.get(str(examples[row].reference), []) if not (alone and place == row)]
            if not mine:
                continue
            best = np.argpartition(-scores, min(DEEP, len(scores) - 1))[:DEEP]
            ranking = best[np.argsort(-scores[best], kind="stable")].tolist()
            chosen.append(replace(examples[row], reference=mine))
            results.append({"prediction": ranking})
    return chosen, list(results), time.perf_counter() - begun


def _items(
    examples: Sequence[Example], records: Sequence[tuple[Record, str]], measure: TaskMeasure, options: Options
) -> tuple[list[str], list[str]]:
    """Returns what is searched, and the key by which each item is relevant to an example."""
    if options.index:
        indexed = read_for(measure, options.index, options, Problems())
        examples = examples_of(measure, indexed)
        records = indexed
    if isinstance(records[0][0], Labelled):
        return [one.row["text"] for one in examples], [str(one.reference) for one in examples]
    targets = list(dict.fromkeys(str(one.reference) for one in examples))
    return targets, targets


def _unit(vectors: Any) -> Any:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def default_folder(task: str, models: Sequence[str], data: Sequence[str]) -> Path:
    """Returns where an evaluation's files go when the user does not say."""
    names = "-against-".join(_title(ref) for ref in models)
    place = Path(data[0].rstrip("/")).name.split(".")[0] or "data"
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{task}-{names}-{place}")
    return Path("evaluations") / safe.strip(".-")


def _title(ref: str) -> str:
    """Returns a short name for a model: of RUN/model the run's, lest every run's results have the same folder."""
    path = Path(ref.rstrip("/"))
    return (path.parent.name if path.name == "model" else "") or path.name or "model"


__all__ = ["Measured", "Options", "default_folder", "evaluate_task", "open_task"]

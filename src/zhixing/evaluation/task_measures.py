"""What each task is measured by: records to rows and references, results to scores. Running a task is not done here.

A task gives a result for each row as plain data whose main value is "prediction" (`zhixing.tasks.base`); here it is
known by that form only. A row that a task could not work on counts as a wrong result, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput, unknown_name
from zhixing.data.shapes.records import Labelled, Pair, Question, Record, Shape, Tagged
from zhixing.data.shapes.schemes import Chunk, find_scheme, write_tags
from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.metrics.registry import score
from zhixing.evaluation.metrics.scripts import main_script

Result = Mapping[str, Any]
NO_ANSWER = "no_answer_probability"


@dataclass(frozen=True)
class Example:
    """One record as a task and its measures see it.

    Attributes:
        row: What the task reads.
        reference: What is right, as the measures take it.
        shown: The input for people.
        place: Where the record stands.
        tokens: For tags: what the tags belong to.
    """

    row: Mapping[str, str]
    reference: Any
    shown: str
    place: str = ""
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskMeasure:
    """How a task is measured.

    Attributes:
        name: The task.
        shapes: Shapes of records that it can be measured on, the usual one first.
        example: From a record to an example.
        measures: Names of the measures, from the examples.
        prediction: From an example and a result (None: there is none) to what the measures take.
        options: More settings of the measures, from examples and results.
    """

    name: str
    shapes: tuple[Shape, ...]
    example: Callable[[Any], Example]
    measures: Callable[[Sequence[Example]], tuple[str, ...]]
    prediction: Callable[[Example, Result | None], Any]
    options: Callable[[Sequence[Example], Sequence[Result | None]], dict[str, Any]] = field(
        default=lambda examples, results: {}
    )


@dataclass(frozen=True)
class Measured:
    """A task on a data set.

    Attributes:
        task: The task.
        examples: What it was given.
        results: What it said of each; None where it could not work.
        predictions: The same, as the measures take them.
        references: What is right, likewise.
        scores: The measures, the headline one first.
    """

    task: str
    examples: tuple[Example, ...]
    results: tuple[Result | None, ...]
    predictions: tuple[Any, ...]
    references: tuple[Any, ...]
    scores: tuple[Score, ...]

    @property
    def failed(self) -> int:
        """Rows without a result."""
        return sum(result is None for result in self.results)


def chinese(examples: Iterable[Example]) -> bool:
    """Tells whether the references, or where they are labels the inputs, are mainly Chinese."""
    texts = (text for example in examples for text in _texts(example.reference) or [example.shown])
    return main_script(texts) == "zh"


def _texts(reference: Any) -> list[str]:
    if isinstance(reference, str):
        return [reference]
    return [text for text in reference if isinstance(text, str)] if isinstance(reference, list | tuple) else []


def _labelled(record: Labelled) -> Example:
    row = {"text": record.text} | ({"second": record.second} if record.second is not None else {})
    label = record.label if isinstance(record.label, str) else list(record.label)
    return Example(row, label, record.text if record.second is None else f"{record.text}\n{record.second}")


def _label(example: Example, result: Result | None) -> Any:
    several = isinstance(example.reference, list)
    if result is None:
        return [] if several else ""
    found = result["prediction"]
    if several:
        return list(found) if isinstance(found, list | tuple) else [str(found)]
    return str(found)


def _tagged(record: Tagged) -> Example:
    text, _ = joined(record.tokens)
    return Example({"text": text}, list(record.tags), text, tokens=record.tokens)


def joined(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Joins tokens to a text as it is written: spaces but for Chinese and Japanese; returns where each token stands."""
    asian = main_script(["".join(tokens)]) in ("zh", "ja")
    text, places = "", []
    for token in tokens:
        text += " " if text and not asian else ""
        places.append((len(text), len(text) + len(token)))
        text += token
    return text, places


def tags_of(entities: Iterable[Mapping[str, Any]], places: Sequence[tuple[int, int]]) -> list[str]:
    """Writes entities as tags of tokens: an entity has the tokens that it overlaps; the first of two on a token wins.

    Args:
        entities: Each with `begin`, `end` (characters) and `type`.
        places: Where each token stands.
    """
    found: list[Chunk] = []
    taken = [False] * len(places)
    for entity in sorted(entities, key=lambda one: (int(one["begin"]), -int(one["end"]))):
        begin, end = int(entity["begin"]), int(entity["end"])
        inside = [k for k, (first, last) in enumerate(places) if first < end and last > begin]
        if inside and not any(taken[k] for k in range(inside[0], inside[-1] + 1)):
            found.append(Chunk(inside[0], inside[-1] + 1, str(entity["type"])))
            taken[inside[0] : inside[-1] + 1] = [True] * (inside[-1] + 1 - inside[0])
    return write_tags(found, len(places))


def _tags(example: Example, result: Result | None) -> list[str]:
    if result is None:
        return ["O"] * len(example.tokens)
    if "tags" in result:
        return list(result["tags"])
    return tags_of(result["prediction"], joined(example.tokens)[1])


def _question(record: Question) -> Example:
    accepted = [answer.text for answer in record.answers]
    return Example({"context": record.context, "question": record.question}, accepted, record.question)


def _answer(example: Example, result: Result | None) -> str:
    return "" if result is None or result["prediction"] is None else str(result["prediction"])


def _answer_measures(examples: Sequence[Example]) -> tuple[str, ...]:
    if any(not example.reference for example in examples):
        return "squad2_f1", "squad2_em"
    return ("cmrc_f1", "cmrc_em") if chinese(examples) else ("squad_f1", "squad_em")


def _answer_options(examples: Sequence[Example], results: Sequence[Result | None]) -> dict[str, Any]:
    """Returns the probabilities that there is no answer, where every result has one and it matters."""
    chances = [result.get(NO_ANSWER) if result else None for result in results]
    if all(isinstance(chance, int | float) for chance in chances) and any(not one.reference for one in examples):
        return {NO_ANSWER: chances}
    return {}


def _pair(record: Pair) -> Example:
    return Example({"text": record.source}, record.target, record.source)


def _text(example: Example, result: Result | None) -> str:
    return "" if result is None else str(result["prediction"])


def _ranking(example: Example, result: Result | None) -> list[Any]:
    return [] if result is None else list(result["prediction"])


TASKS: dict[str, TaskMeasure] = {
    "classify": TaskMeasure(
        "classify", ("labelled",), _labelled, lambda _: ("accuracy", "macro_f1", "micro_f1", "mcc"), _label
    ),
    "tag": TaskMeasure("tag", ("tagged",), _tagged, lambda _: ("entity_f1", "tag_accuracy"), _tags),
    "answer": TaskMeasure("answer", ("qa",), _question, _answer_measures, _answer, _answer_options),
    "translate": TaskMeasure("translate", ("pair",), _pair, lambda _: ("bleu", "chrf", "ter"), _text),
    "summarize": TaskMeasure(
        "summarize", ("pair",), _pair, lambda _: ("rougeL", "rouge1", "rouge2", "rougeLsum"), _text
    ),
    "rewrite": TaskMeasure("rewrite", ("pair",), _pair, lambda _: ("chrf", "exact_match"), _text),
    "search": TaskMeasure(
        "search", ("labelled", "pair"), _labelled, lambda _: ("hit@5", "hit@1", "hit@10", "mrr@10", "ndcg@10"), _ranking
    ),
}
"""Every task that can be measured. Search is measured on labelled texts (those with the label of the query are
relevant) and on pairs (the other half is)."""


def task_measure(name: str) -> TaskMeasure:
    """Returns how a task is measured.

    Raises:
        BadInput: There is no such task.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS, where="--task")
    return TASKS[name]


def examples_of(measure: TaskMeasure, records: Iterable[tuple[Record, str]]) -> list[Example]:
    """Turns records with their places into examples.

    Raises:
        BadInput: There is none, or some have one label and others several.
    """
    found = []
    for record, place in records:
        if measure.name == "search" and isinstance(record, Pair):
            example = Example({"text": record.source}, record.target, record.source)
        elif measure.name == "tag" and isinstance(record, Tagged) and not record.tokens:
            continue
        else:
            example = measure.example(record)
        found.append(replace(example, place=place))
    if not found:
        raise BadInput("there is nothing to measure: no record", remedy="give a file with records")
    if measure.name == "classify" and any(isinstance(one.reference, list) for one in found):
        found = [one if isinstance(one.reference, list) else replace(one, reference=[one.reference]) for one in found]
    return found


def measured(
    measure: TaskMeasure,
    examples: Sequence[Example],
    results: Sequence[Result | None],
    *,
    names: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Measured:
    """Measures what a task said.

    Args:
        measure: How.
        examples: What it was given.
        results: What it said.
        names: Measures instead of the usual ones.
        settings: `resamples`, `confidence` and `seed` of `registry.score`.

    Raises:
        BadInput: A result does not fit the measures.
    """
    predictions = [measure.prediction(one, result) for one, result in zip(examples, results, strict=True)]
    references = [example.reference for example in examples]
    chosen = tuple(names) or measure.measures(examples)
    if measure.name == "tag" and find_scheme(references) == "none":  # a class for each token, and no chunks
        predictions, references = (
            [[f"S-{tag}" for tag in tags] for tags in part] for part in (predictions, references)
        )
        chosen = tuple(names) or ("tag_accuracy",)
    if measure.name == "classify" and any(isinstance(reference, list) for reference in references):
        chosen = tuple(name for name in chosen if name != "mcc")
    scores = score(chosen, predictions, references, options=measure.options(examples, results), **dict(settings or {}))
    if measure.name == "classify" and (confident := _confidences(predictions, results)) is not None and not names:
        scores += score("ece", confident, references, **dict(settings or {}))
    return Measured(measure.name, tuple(examples), tuple(results), tuple(predictions), tuple(references), tuple(scores))


def _confidences(predictions: Sequence[Any], results: Sequence[Result | None]) -> list[tuple[Any, float]] | None:
    """Returns predictions with their probabilities; None where one has none."""
    pairs = []
    for prediction, result in zip(predictions, results, strict=True):
        chance = result.get("probability") if result else None
        if not isinstance(chance, int | float) or isinstance(prediction, list):
            return None
        pairs.append((prediction, float(np.clip(chance, 0, 1))))
    return pairs

"""What each task is measured by: records to rows and references, results to scores. Running a task is not done here.

A task gives a result for each row as plain data whose main value is "prediction" (`zhixing.tasks.base`); here it is
known by that form only. A row that a task could not work on counts as a wrong result, and is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput, unknown_name
from zhixing.data.gaps import GAP, with_gap
from zhixing.data.problems import Problems
from zhixing.data.shapes.records import ImageText, Labelled, Pair, Question, Record, Shape, Tagged, Text, brief
from zhixing.data.shapes.schemes import Chunk, find_scheme, write_tags
from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.metrics.registry import Kind, plan, score
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
        image: For captions: what is described.
    """

    row: Mapping[str, str]
    reference: Any
    shown: str
    place: str = ""
    tokens: tuple[str, ...] = ()
    image: Path | bytes | None = None

    @property
    def sized(self) -> str:
        """The text whose length and language tell examples apart: the input, or of a picture its first caption."""
        return self.shown if self.image is None else str(self.reference[0])


@dataclass(frozen=True)
class TaskMeasure:
    """How a task is measured.

    Attributes:
        name: The task.
        shapes: Shapes of records that it can be measured on, the usual one first.
        example: From a record to an example; None where there is nothing to measure in it.
        measures: Names of the measures, from the examples.
        prediction: From an example and a result (None: there is none) to what the measures take.
        options: More settings of the measures, from examples and results.
        kinds: Kinds of measures that fit what the task gives; see `metrics.registry.Family`.
    """

    name: str
    shapes: tuple[Shape, ...]
    example: Callable[[Any], Example | None]
    measures: Callable[[Sequence[Example]], tuple[str, ...]]
    prediction: Callable[[Example, Result | None], Any]
    options: Callable[[Sequence[Example], Sequence[Result | None]], dict[str, Any]] = field(
        default=lambda examples, results: {}
    )
    kinds: tuple[Kind, ...] = ("texts", "answers", "generated")


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


def _tagged(record: Tagged) -> Example | None:
    if not record.tokens:
        return None
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


def _searched(record: Labelled | Pair) -> Example:
    return _pair(record) if isinstance(record, Pair) else _labelled(record)


def _captioned(record: ImageText) -> Example:
    file = record.image if isinstance(record.image, Path) else None
    row = {} if file is None else {"image": str(file)}
    return Example(row, [record.text], "a picture" if file is None else file.name, image=record.image)


def _structured(record: Pair) -> Example:
    try:
        value = json.loads(record.target)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"what is to be extracted is no JSON: {brief(record.target)}",
            remedy='a target looks like {"name": "Anna", "age": 31}',
        ) from error
    return Example({"text": record.source}, value, record.source)


def _gapped(record: Pair | Text) -> Example | None:
    if isinstance(record, Text):
        found = with_gap(record.text)
        if found is None:
            return None
        text, word = found
    else:
        text, word = record.source, record.target.strip()
        if (gaps := len(GAP.findall(text))) != 1:
            raise BadInput(f"{gaps} gaps where one is expected: {brief(text)}", remedy="write it as [MASK] or ____")
    return Example({"text": text}, [word.casefold()], text)


def _json(example: Example, result: Result | None) -> Any:
    return "" if result is None else result["prediction"]


def _guesses(example: Example, result: Result | None) -> list[str]:
    """Returns what may stand in the gap, best first, without regard to case, which many masked models do not know."""
    return [] if result is None else list(dict.fromkeys(word.casefold() for word in result["gaps"][0]))


def _text(example: Example, result: Result | None) -> str:
    return "" if result is None else str(result["prediction"])


def _ranking(example: Example, result: Result | None) -> list[Any]:
    return [] if result is None else list(result["prediction"])


TASKS: dict[str, TaskMeasure] = {
    "classify": TaskMeasure(
        "classify",
        ("labelled",),
        _labelled,
        lambda _: ("accuracy", "macro_f1", "micro_f1", "mcc"),
        _label,
        kinds=("labels", "confidences"),
    ),
    "tag": TaskMeasure("tag", ("tagged",), _tagged, lambda _: ("entity_f1", "tag_accuracy"), _tags, kinds=("tags",)),
    "answer": TaskMeasure("answer", ("qa",), _question, _answer_measures, _answer, _answer_options),
    "translate": TaskMeasure("translate", ("pair",), _pair, lambda _: ("bleu", "chrf", "ter"), _text),
    "summarize": TaskMeasure(
        "summarize", ("pair",), _pair, lambda _: ("rougeL", "rouge1", "rouge2", "rougeLsum"), _text
    ),
    "rewrite": TaskMeasure("rewrite", ("pair",), _pair, lambda _: ("chrf", "exact_match"), _text),
    "search": TaskMeasure(
        "search",
        ("labelled", "pair"),
        _searched,
        lambda _: ("hit@5", "hit@1", "hit@10", "mrr@10", "ndcg@10"),
        _ranking,
        kinds=("rankings",),
    ),
    "describe": TaskMeasure("describe", ("image_text",), _captioned, lambda _: ("bleu", "chrf", "exact_match"), _text),
    "extract": TaskMeasure(
        "extract", ("pair",), _structured, lambda _: ("field_f1", "json_exact", "json_valid"), _json, kinds=("values",)
    ),
    "fill": TaskMeasure("fill", ("pair", "text"), _gapped, lambda _: ("top@1", "top@5"), _guesses, kinds=("rankings",)),
}
"""Every task that can be measured. Search is measured on labelled texts (those with the label of the query are
relevant) and on pairs (the other half is); extraction on pairs whose target is JSON; gaps on pairs of a text with one
and its word, or on texts, in each line of which one word is hidden."""


def task_measure(name: str) -> TaskMeasure:
    """Returns how a task is measured.

    Raises:
        BadInput: There is no such task.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS, where="--task")
    return TASKS[name]


def examples_of(
    measure: TaskMeasure, records: Iterable[tuple[Record, str]], problems: Problems | None = None
) -> list[Example]:
    """Turns records with their places into examples; several captions of one picture are one example.

    Args:
        measure: How the task is measured.
        records: The records.
        problems: Where those are counted that hold nothing to measure.

    Raises:
        BadInput: There is none, or one does not fit the task.
    """
    if measure.name == "fill":
        records = _lines(records)
    found: list[Example] = []
    pictures: dict[Path | bytes, Example] = {}
    for record, place in records:
        try:
            example = measure.example(record)
        except BadInput as error:
            raise BadInput(error.cause, where=place, remedy=error.remedy) from error
        if example is None:
            if problems is not None:
                problems.report("misfit", place, f"there is nothing to measure {measure.name} on")
            continue
        if example.image is not None:
            if example.image in pictures:
                pictures[example.image].reference.extend(example.reference)
                continue
            pictures[example.image] = example
        found.append(replace(example, place=place))  # a list of captions stays the same one
    if not found:
        raise BadInput("there is nothing to measure: no record", remedy="give a file with records")
    if measure.name == "classify" and any(isinstance(one.reference, list) for one in found):
        found = [one if isinstance(one.reference, list) else replace(one, reference=[one.reference]) for one in found]
    return found


def _lines(records: Iterable[tuple[Record, str]]) -> Iterator[tuple[Record, str]]:
    """Cuts texts into their lines, so that a gap has its own line around it and not a whole document."""
    for record, place in records:
        if isinstance(record, Text):
            yield from ((Text(line), place) for line in record.text.splitlines() if line.strip())
        else:
            yield record, place


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
    # Calibration is computed from probabilities, and where a row has none it is left out.
    calibrated = measure.name == "classify" and (not names or any("ece" in members for _, members in plan(names)))
    confident = _confidences(predictions, results) if calibrated else None
    chosen = tuple(name for _, members in plan(chosen) for name in members if not calibrated or name != "ece")
    more = {"options": measure.options(examples, results), **dict(settings or {})}
    scores = score(chosen, predictions, references, **more) if chosen else []
    if confident is not None:
        scores += score("ece", confident, references, **dict(settings or {}))
    if not scores:
        raise BadInput("ece needs a probability for each record, and some have none", where="--measures")
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

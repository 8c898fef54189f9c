"""What every task is: rows of named texts in, one result each out.

A task is an object that was opened once and is called often. It knows which columns it reads, how many rows are worth
computing together, and what decides its results, so that files (`tasks.files`) and the command line can work with all
tasks alike. How each task works is in its own module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zhixing.core.errors import BadInput
from zhixing.data.decoding import BAD
from zhixing.data.fields import TEXT_FIELDS

Row = Mapping[str, str]
"""The texts of one row by the names that the task gives them: {"text": ...}, {"context": ..., "question": ...}."""

PREDICTION = "prediction"
"""The key of the main result in everything that is written."""


class Result(Protocol):
    """What a task says about one row."""

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; the main one has the key "prediction"."""

    def __str__(self) -> str:
        """Returns the main result as one text."""


@dataclass(frozen=True)
class Column:
    """One text that a task reads of each row.

    Attributes:
        name: What the task calls it.
        usual: Names of fields that hold it in files, best first.
        optional: A row may lack it.
        numbers: Numbers are read as texts.
    """

    name: str
    usual: tuple[str, ...]
    optional: bool = False
    numbers: bool = False


TEXT = Column("text", (*TEXT_FIELDS, "title", "question", "query", "utterance", "review", "source", "input", "标题"))


class Task(Protocol):
    """A task, ready to work."""

    @property
    def name(self) -> str:
        """Its word on the command line."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it reads of each row."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The keys of its results' `to_json`, in their order; "prediction" is the first."""

    @property
    def chunk(self) -> int:
        """Rows that are worth computing together."""

    def identity(self) -> dict[str, Any]:
        """Returns what decides its results besides the rows: the model's fingerprint, options, the prompt."""

    def run(self, rows: Sequence[Row]) -> Sequence[Result]:
        """Returns a result for every row, in their order.

        Raises:
            BadInput: A row cannot be worked on; nothing is said about the others.
        """


def check_text(text: str, name: str = "text") -> str:
    """Returns a text that tasks can work on.

    Raises:
        BadInput: It is empty, or holds what no text may hold.
    """
    if not isinstance(text, str):
        raise BadInput(f"the {name} is not a text but {type(text).__name__}")
    if not text.strip():
        raise BadInput(f"the {name} is empty")
    if found := BAD.search(text):
        what = "a NUL character" if found[0] == "\0" else "half of a surrogate pair"
        raise BadInput(f"the {name} holds {what} (character {found.start() + 1})", remedy="take it out")
    return text


def check_labels(labels: Sequence[str] | None) -> None:
    """Makes sure that labels are a list: one text would be taken for a list of its letters.

    Raises:
        BadInput: They are one text.
    """
    if isinstance(labels, str):
        wanted = [label.strip() for label in labels.split(",")]
        raise BadInput(f"labels are a list of texts, got the text {labels!r}", remedy=f"labels={wanted}")


@dataclass(frozen=True)
class Fault:
    """A row that could not be worked on, and why."""

    message: str


def run_rows(task: Task, rows: Sequence[Row | Fault]) -> list[Result | Fault]:
    """Runs a task on rows of which some are bad: the good ones get their results, the bad ones a fault.

    When a group cannot be done it is halved until the rows are found that it fails on.

    Args:
        task: The task.
        rows: The rows; a fault among them stays where it is.
    """
    results: list[Result | Fault] = [row if isinstance(row, Fault) else Fault("") for row in rows]
    good: list[tuple[int, Row]] = []
    for place, row in enumerate(rows):
        if isinstance(row, Fault):
            continue
        try:
            for column in task.columns:
                if column.name in row:
                    check_text(row[column.name], column.name)
                elif not column.optional:
                    raise BadInput(f"there is no {column.name}, which {task.name} reads")
            good.append((place, row))
        except BadInput as error:
            results[place] = Fault(_line(error))
    groups = [good] if good else []
    while groups:
        group = groups.pop()
        try:
            done: Sequence[Result | Fault] = task.run([row for _, row in group])
        except BadInput as error:
            if len(group) > 1:
                middle = len(group) // 2
                groups += [group[:middle], group[middle:]]
                continue
            done = [Fault(_line(error))]
        for (place, _), result in zip(group, done, strict=True):
            results[place] = result
    return results


def _line(error: BadInput) -> str:
    return f"{error.cause}; {error.remedy}" if error.remedy else error.cause


def run_texts(task: Task, texts: Sequence[str]) -> list[Any]:
    """Runs a task that reads one text on several.

    Raises:
        BadInput: One of them is bad; the message names which.
    """
    return run_all(task, [{task.columns[0].name: text} for text in texts])


def run_all(task: Task, rows: Sequence[Row]) -> list[Any]:
    """Runs a task on rows in memory, chunk by chunk.

    Raises:
        BadInput: One of them is bad; the message names which.
    """
    results: list[Any] = []
    for start in range(0, len(rows), task.chunk):
        for place, result in enumerate(run_rows(task, rows[start : start + task.chunk]), start=start + 1):
            if isinstance(result, Fault):
                raise BadInput(result.message, where=f"{place} of {len(rows)}" if len(rows) > 1 else None)
            results.append(result)
    return results

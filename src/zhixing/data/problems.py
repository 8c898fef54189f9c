"""The tally of everything in the input that was skipped, mended or odd. It never decides; readers report to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

KINDS: Mapping[str, str] = {
    "binary": "binary file(s) skipped",
    "hidden": "hidden file(s) and folder(s) skipped",
    "duplicate": "file(s) met twice, read once",
    "encoding": "file(s) read in another encoding than UTF-8",
    "chosen": "file(s) whose text field was found by its name",
    "empty": "empty text(s) skipped",
    "undecodable": "text(s) skipped that do not decode",
    "json": "broken JSON record(s) skipped",
    "csv": "broken table row(s) skipped",
    "field": "record(s) skipped that have no text",
    "misfit": "record(s) skipped that do not fit their shape",
    "long": "record(s) skipped that are too long",
    "unreadable": "file(s) that could not be read to the end",
    "unsupported": "file(s) skipped whose format is not read",
    "changed": "file(s) that changed while they were read",
    "shape": "file(s) whose shape was found by looking",
    "moved": "answer(s) whose place in the text was mended",
    "border": "line(s) that only mark where a document begins",
}
"""Every kind of problem, with the words of its summary."""

NOTES = frozenset({"binary", "hidden", "duplicate", "encoding", "chosen", "empty", "shape", "moved", "border"})
"""The kinds that are worth knowing but cost no text that was meant."""


class Problem(NamedTuple):
    """One thing that was wrong, and where."""

    kind: str
    source: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.message}"


class Problems:
    """Counts problems by kind and keeps the first few of each as examples, so that memory stays bounded.

    Args:
        keep: How many examples to keep of each kind.
    """

    def __init__(self, keep: int = 5) -> None:
        self.keep = keep
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[Problem]] = {}

    def report(self, kind: str, source: str, message: str, *, line: int | None = None) -> None:
        """Counts one problem.

        Args:
            kind: One of `KINDS`.
            source: The file, as `path` or `archive.zip!member`.
            message: What is wrong, and how to mend it where that is known.
            line: The line or record, counted from 1.
        """
        if kind not in KINDS:
            raise KeyError(kind)
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < self.keep:
            examples.append(Problem(kind, source, line, message))

    def report_file(self, kind: str, source: str, message: str, *, line: int | None = None) -> None:
        """Counts a problem of which nothing of the file can be read; see `report`."""
        self.report(kind, source, message, line=line)

    @property
    def total(self) -> int:
        """The number of problems of all kinds, notes included."""
        return self.counts.total()

    @property
    def faults(self) -> int:
        """The number of problems that cost text, so without the notes."""
        return sum(count for kind, count in self.counts.items() if kind not in NOTES)

    def first(self) -> Problem | None:
        """Returns the gravest example: a fault when there is one, else a note, else None."""
        for notes in (False, True):
            for kind in KINDS:
                if (kind in NOTES) == notes and self.examples.get(kind):
                    return self.examples[kind][0]
        return None

    def summary(self, examples: int = 1) -> list[str]:
        """Returns one line per kind, faults first, each with its first `examples` examples indented below it."""
        lines = []
        for kind in sorted(self.counts, key=lambda kind: (kind in NOTES, list(KINDS).index(kind))):
            lines += self.lines(kind, examples)
        return lines

    def lines(self, kind: str, examples: int = 1) -> list[str]:
        """Returns the line of one kind, with its first examples below it; none when there is no such problem."""
        if not self.counts[kind]:
            return []
        return [f"{self.counts[kind]} {KINDS[kind]}", *(f"  {one}" for one in self.examples[kind][:examples])]

    def merge(self, other: Problems) -> None:
        """Adds the counts and examples of `other`."""
        self.counts.update(other.counts)
        for kind, examples in other.examples.items():
            mine = self.examples.setdefault(kind, [])
            mine += examples[: max(0, self.keep - len(mine))]

    def to_json(self) -> dict[str, Any]:
        """Returns the counts and the examples as plain JSON values."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "examples": [problem._asdict() for kind in sorted(self.examples) for problem in self.examples[kind]],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Problems:
        """Rebuilds what `to_json` wrote."""
        problems = cls()
        problems.counts.update(value["counts"])
        for entry in value["examples"]:
            problems.examples.setdefault(entry["kind"], []).append(Problem(**entry))
        return problems

"""What rewards share: the attempt that is judged, and the interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from zhixing.core.errors import BadInput


@dataclass(frozen=True)
class Attempt:
    """One answer to be judged.

    Attributes:
        prompt: What was asked.
        completion: What the model wrote.
        answer: The right answer as the record has it; empty where it has none.
        record: The fields of the record's row in its file, for rewards that need more (the `tests` of a piece of code).
        finished: Whether the model ended the answer itself, rather than running out of room.
    """

    prompt: str
    completion: str
    answer: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = True


class RecordFault(BadInput):
    """A record lacks what a reward compares with."""


class Reward(Protocol):
    """Judges attempts."""

    name: str

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """Returns one figure for each attempt; more is better.

        Raises:
            RecordFault: A record lacks what this reward compares with.
        """

    def check(self, attempt: Attempt) -> None:
        """Looks at a record before training; its right answer stands for what the model will write.

        Raises:
            RecordFault: The reward could not judge answers to it.
            BadInput: The reward itself fails.
        """


def wanted(attempt: Attempt, field_name: str, reward: str) -> Any:
    """Returns a field of the attempt's record; `answer` is the right answer.

    Raises:
        RecordFault: The record has no such field.
    """
    value = attempt.answer if field_name == "answer" else attempt.record.get(field_name)
    if value is None or value == "":
        raise RecordFault(
            f"the reward {reward!r} needs the field {field_name!r}, which the record of {attempt.prompt[:60]!r} lacks",
            where=f"record field {field_name!r}",
            remedy="add it to the records, or name another one with `field`",
        )
    return value

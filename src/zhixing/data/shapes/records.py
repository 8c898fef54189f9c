"""The shapes of records: what training objectives, tasks and measures take. How files map onto them is `layouts`'
concern."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

Shape = Literal["text", "pair", "labelled", "tagged", "qa", "chat", "preference", "unpaired_preference", "image_text"]
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Text:
    """A text to model."""

    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and what is to be made of it: a translation, a summary, a correction."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, or two that belong together, with a label.

    Attributes:
        text: The text.
        label: Its label, as it is written in the file; several labels that hold at once are a tuple. A number to
            predict is written as text too: `float(label)`.
        second: The other text of a pair (a hypothesis, say), else None.
    """

    text: str
    label: str | tuple[str, ...]
    second: str | None = None


@dataclass(frozen=True, slots=True)
class Tagged:
    """Tokens with a tag each, as they are written in the file (see `schemes` for what tags mean)."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A stretch of a context: context[start : start + len(text)] == text. `start` is None when it is no stretch."""

    text: str
    start: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a text.

    Attributes:
        context: The text.
        question: The question.
        answers: All accepted answers; empty when the text does not answer it.
        id: Its name in the data set, "" when it has none.
    """

    context: str
    question: str
    answers: tuple[Answer, ...]
    id: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function by the assistant: its name, its arguments, and an id where the file has one."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said; "" when the turn is nothing but calls.
        calls: Functions that the assistant calls.
        call_id: For a tool's answer, the call that it answers, else "".
        name: Of the speaker or tool, else "".
    """

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the message in OpenAI's form, with arguments as an object: what chat templates take."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    **({"id": call.id} if call.id else {}),
                    "function": {"name": call.name, "arguments": dict(call.arguments)},
                }
                for call in self.calls
            ]
        if self.call_id:
            message["tool_call_id"] = self.call_id
        if self.name:
            message["name"] = self.name
        return message


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation with at least one turn of the assistant's, and the tools it may use, as JSON schemas."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the conversation in OpenAI's form."""
        values: dict[str, Any] = {"messages": [message.to_json() for message in self.messages]}
        if self.tools:
            values["tools"] = [dict(tool) for tool in self.tools]
        return values


@dataclass(frozen=True, slots=True)
class Preference:
    """A conversation so far, and two ways to go on of which one is better; each ends with a turn of the assistant's."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class UnpairedPreference:
    """A conversation so far, and one way to go on that is good or bad: what KTO learns from."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    good: bool


@dataclass(frozen=True, slots=True)
class ImageText:
    """A picture, as a file or as its bytes, and a text about it."""

    image: Path | bytes
    text: str


Record = Text | Pair | Labelled | Tagged | Question | Chat | Preference | UnpairedPreference | ImageText

SHAPES: dict[Shape, type[Record]] = {
    "text": Text,
    "pair": Pair,
    "labelled": Labelled,
    "tagged": Tagged,
    "qa": Question,
    "chat": Chat,
    "preference": Preference,
    "unpaired_preference": UnpairedPreference,
    "image_text": ImageText,
}


class Placed(NamedTuple):
    """A record and where it stands.

    Attributes:
        record: The record.
        source: The file, as `path` or `archive.zip!member`.
        line: The line, or for Parquet the row, counted from 1.
        row: What the record was built from, where that has named fields: some may be no part of the record.
    """

    record: Record
    source: str
    line: int | None
    row: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """`file:line`, for messages."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


class Misfit(Exception):
    """A record does not fit its shape.

    Args:
        cause: What is wrong, naming the field and its value.
        remedy: The edit that mends it.
        kind: The kind of problem, of `data.problems.KINDS`.
    """

    def __init__(self, cause: str, remedy: str = "", kind: str = "misfit") -> None:
        self.cause, self.remedy, self.kind = cause, remedy, kind
        super().__init__(f"{cause}; {remedy}" if remedy else cause)


def brief(value: Any, length: int = 60) -> str:
    """Returns a value for a message, as JSON where it can be, cut when it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."

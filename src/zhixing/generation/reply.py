"""An answer in a conversation: the message that it makes, and how it arrives piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from zhixing.core.errors import BadInput
from zhixing.generation.result import Generation


@dataclass(frozen=True)
class Reply:
    """One answer of a conversation.

    Attributes:
        message: What to append to the messages: role, content, and "tool_calls" in OpenAI's structure where there are.
        generation: How it was written: tokens, why it ended, speed, seed.
        reused: Tokens of the prompt that had been read before.
        notes: What the user should know, in sentences.
    """

    message: dict[str, Any]
    generation: Generation
    reused: int = 0
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What it says, without calls of tools."""
        content: str = self.message["content"]
        return content

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tools that it calls, in OpenAI's structure; none for most answers."""
        calls: list[dict[str, Any]] = self.message.get("tool_calls", [])
        return calls

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {**self.generation.to_json(), "message": self.message, "reused": self.reused, "notes": [*self.notes]}


class Pieces(Protocol):
    """Text as it is written: what `generate.Stream` is."""

    def __next__(self) -> str:
        """Returns the next piece."""

    def stop(self) -> str:
        """Ends the answer where it is; returns the text that was held back."""

    @property
    def generation(self) -> Generation:
        """The whole answer, once it is over."""


class WholeAnswer:
    """An answer in one piece, for strategies under which nothing is certain before the end.

    Args:
        write: Writes it.
    """

    def __init__(self, write: Callable[[], Generation]) -> None:
        self._write = write
        self._generation: Generation | None = None

    def __next__(self) -> str:
        if self._generation is not None:
            raise StopIteration
        self._generation = self._write()
        return self._generation.text

    def stop(self) -> str:
        """See `Pieces`."""
        return ""

    @property
    def generation(self) -> Generation:
        """See `Pieces`."""
        if self._generation is None:
            raise _not_over()
        return self._generation


def _not_over() -> BadInput:
    return BadInput("the answer is still being written", remedy="iterate over it first, or call stop()")


class ReplyStream:
    """An answer as it is written: iterate over it for pieces of text; then `reply` is the whole.

    Args:
        pieces: The text.
        finish: Makes the reply of what was written.
        release: Called once, when nothing more will be written.
    """

    def __init__(
        self, pieces: Pieces, finish: Callable[[Generation], Reply], release: Callable[[], None] | None = None
    ) -> None:
        self._pieces, self._finish, self._release_once = pieces, finish, release
        self._reply: Reply | None = None
        self._shown = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._end()
            if rest := self._missing():
                return rest
            raise
        except BaseException:
            self._release()
            raise
        self._shown += piece
        return piece

    def stop(self) -> str:
        """Ends the answer where it is; returns the text that was held back. What is there counts as the answer."""
        self._pieces.stop()
        self._end()
        return self._missing()

    def _missing(self) -> str:
        """Returns what an interruption has left between the answer and whoever reads it."""
        text, shown = self._pieces.generation.text, self._shown
        self._shown = text
        return text[len(shown) :] if text.startswith(shown) else ""

    def _release(self) -> None:
        release, self._release_once = self._release_once, None
        if release is not None:
            release()

    def __del__(self) -> None:
        self._release()

    def _end(self) -> None:
        self._release()
        if self._reply is None:
            self._reply = self._finish(self._pieces.generation)

    @property
    def reply(self) -> Reply:
        """The whole answer, once the iteration is over.

        Raises:
            BadInput: It is not over yet.
        """
        if self._reply is None:
            raise _not_over()
        return self._reply

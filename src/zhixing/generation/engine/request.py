"""One answer in the engine: what its user holds, and what the scheduler knows of it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from zhixing.generation.result import Generation
from zhixing.generation.sequence import Sequence as Answer

if TYPE_CHECKING:
    from zhixing.generation.engine.choice import CoreChoice
    from zhixing.generation.engine.sampled import Sampled
    from zhixing.generation.sampling import Filter, LogitsProcessor

    Choice: TypeAlias = CoreChoice | Sampled
    """How tokens are chosen: by the core, or on tensors."""


@dataclass(frozen=True)
class Wishes:
    """What the user asked for beside the options, for one answer.

    Attributes:
        processors: Logits processors of the user's own.
        filters: Filters, likewise.
    """

    processors: Sequence[LogitsProcessor] = ()
    filters: Sequence[Filter] = ()

    def __bool__(self) -> bool:
        return bool(self.processors or self.filters)


class Request:
    """An answer that is being written: iterate over it for pieces of text, from one thread.

    Args:
        answer: The answer, empty so far.
        choice: How its tokens are chosen.
        abort: Tells the engine that nobody waits for this any more.
        deadline: When to stop, by `time.monotonic`; None: never.

    Attributes:
        tokens: Prompt and answer, as far as it is written.
        read: How many of them the model has read.
        blocks: Where their keys and values are.
        preempted: How often its blocks were given to others, after which its tokens were read again.
        reused: Tokens of the prompt that were found in the cache.
    """

    def __init__(
        self,
        answer: Answer,
        choice: Choice,
        abort: Callable[[Request], None],
        deadline: float | None,
    ) -> None:
        self.answer, self.choice, self.deadline = answer, choice, deadline
        self.tokens = list(answer.prompt.tokens)
        self.read = 0
        self.blocks: list[int] = []
        self.preempted = self.reused = 0
        self.prompt_seconds = 0.0
        self._submitted = time.monotonic()
        self._abort = abort
        self._events: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self._over = False

    @property
    def pending(self) -> int:
        """Tokens that the model has not read."""
        return len(self.tokens) - self.read

    @property
    def longest(self) -> int:
        """Tokens that it can come to."""
        return len(self.answer.prompt.tokens) + self.answer.longest_answer

    def give(self, token: int) -> None:
        """Adds a token to the answer; the text that is certain now goes to the user."""
        if not self.answer.progress.tokens:
            self.prompt_seconds = time.monotonic() - self._submitted
        self.tokens.append(token)
        if piece := self.answer.take(token):
            self._events.put(piece)

    def end(self, reason: str, detail: str) -> None:
        """Ends the answer where it is, unless it has ended."""
        if self.answer.reason is None and (rest := self.answer.end(reason, detail)):
            self._events.put(rest)

    def fail(self, error: BaseException) -> None:
        """Ends the answer with an error, which its user gets."""
        if self.answer.reason is None:
            self.answer.end("error", str(error))
            self._error = error

    def finish(self) -> None:
        """Tells the user that this was all; its blocks are free by now."""
        self._events.put(self._error)
        self._finished.set()

    def abort(self) -> None:
        """Ends the answer where it is, from any thread; its blocks are free before the next step."""
        self._abort(self)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._over:
            raise StopIteration
        try:
            event = self._events.get()
        except KeyboardInterrupt:
            self.abort()
            raise
        if isinstance(event, str):
            return event
        self._over = True
        if event is not None:
            raise event
        raise StopIteration

    def generation(self) -> Generation:
        """Waits for the end; returns the whole answer.

        Raises:
            BadInput: What a processor, a rule or the model's predictions gave cause for.
        """
        try:
            self._finished.wait()  # woken once, and not for every piece
        except KeyboardInterrupt:
            self.abort()
            raise
        if self._error is not None:
            raise self._error
        return self.answer.generation(self.prompt_seconds)

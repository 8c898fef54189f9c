"""When an answer ends: end tokens, stop texts across token borders, the longest length, and rules of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True)
class Progress:
    """One answer on its way: what a stopping rule may look at.

    Attributes:
        prompt: The prompt's tokens.
        tokens: The answer's tokens so far.
        pieces: The answer's text so far, in pieces; what may be the beginning of a stop text is not yet among them.
        started: When the first token came, by `time.monotonic`.
    """

    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    started: float = 0.0

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self.pieces)

    def fork(self) -> Progress:
        """Returns a copy that grows on its own."""
        self.pieces = [self.text]  # one piece, so that copying it copies no text
        return Progress(self.prompt, self.tokens.copy(), self.pieces.copy(), self.started)


class StoppingRule(Protocol):
    """A reason to stop."""

    def __call__(self, progress: Progress) -> str | None:
        """Returns the finish reason when the answer is to end after its newest token, else None."""


class StopTexts:
    """Lets text through until a stop text appears in it, wherever the borders of its pieces are.

    The answer ends with the character that completes a stop text first; when several are completed by the same
    character, the longest counts. What could still become a stop text is held back, and nothing else.

    Args:
        stops: The stop texts, none empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Takes more text; returns what is certain to belong to the answer."""
        if not self._stops or not piece:
            return piece
        text = self._held + piece
        ends = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            _, start, self.found = min(ends)
            self._held = ""
            return text[:start]
        held = self._possible(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _possible(self, text: str) -> int:
        """Returns the length of the longest end of `text` that is the beginning of a stop text."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

    def fork(self) -> StopTexts:
        """Returns another that stands where this one does."""
        twin = StopTexts(self._stops)
        twin._held, twin.found = self._held, self.found
        return twin

    def finish(self) -> str:
        """Returns what was held back, when the answer has ended for another reason."""
        held, self._held = self._held, ""
        return held

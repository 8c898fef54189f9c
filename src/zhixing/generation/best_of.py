"""Best of several: draw more answers than are wanted, and return those that score highest."""

from __future__ import annotations

import math
from typing import Protocol

from zhixing.core.errors import BadInput
from zhixing.generation.loop import TokenLoop
from zhixing.generation.result import Generation
from zhixing.generation.sequence import Sequence as Answer
from zhixing.generation.writing import Pieces, Writing


class Scorer(Protocol):
    """Says how good an answer is."""

    def __call__(self, answer: Generation) -> float:
        """Returns a number, the higher the better."""


class BestOf:
    """Draws `best_of` answers of every prompt, and keeps the `n` best.

    Args:
        writing: The call.
        scorer: Judges the answers; None: their mean log-probability by the model itself.
    """

    def __init__(self, writing: Writing, scorer: Scorer | None = None) -> None:
        self._writing, self._scorer = writing, scorer
        self._loop = TokenLoop(writing)

    def pieces(self) -> Pieces:
        """See `Strategy`."""
        return self._loop.pieces()

    def end(self, reason: str, detail: str) -> list[tuple[Answer, str]]:
        """See `Strategy`."""
        return self._loop.end(reason, detail)

    def results(self) -> list[Answer]:
        """See `Strategy`: best first, `sample` telling which draw each was."""
        options = self._writing.options
        answers, best = self._loop.results(), []
        for answer in answers:
            answer.score = self._score(answer)
        for start in range(0, len(answers), options.drawn):
            of_prompt = answers[start : start + options.drawn]
            best += sorted(of_prompt, key=lambda answer: -(answer.score or 0.0))[: options.n]
        return best

    def _score(self, answer: Answer) -> float:
        if self._scorer is None:
            return answer.logprob / len(answer.progress.tokens) if answer.progress.tokens else -math.inf
        score = self._scorer(answer.generation(self._writing.prompt_seconds))
        if not isinstance(score, int | float) or math.isnan(score):
            raise BadInput(f"the scorer {self._scorer!r} must give a number for every answer, it gave {score!r}")
        return float(score)

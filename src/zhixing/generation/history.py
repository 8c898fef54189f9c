"""All tokens of the texts under way, for the processors that look at them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zhixing.generation.sampling import Context
from zhixing.generation.sequence import Sequence as Answer


class History:
    """Prompts and answers, one row each; nothing is kept when no processor needs it.

    Args:
        answers: The texts, whose answers are empty so far.
        device: Where the tokens are kept.
        needed: Whether any processor will look.
    """

    def __init__(self, answers: Sequence[Answer], device: torch.device, needed: bool) -> None:
        self._prompt = longest = max(len(answer.prompt.tokens) for answer in answers)
        self._time = longest
        self._needed = needed
        room = [answer.longest_answer for answer in answers]
        lacking = [longest - len(answer.prompt.tokens) for answer in answers]
        self._padding = torch.tensor(lacking, device=device)
        self._longest = torch.tensor(room, device=device)
        self._tokens = torch.zeros((len(answers), longest + max(room) if needed else 0), dtype=torch.long)
        if needed:
            for row, answer in enumerate(answers):
                self._tokens[row, lacking[row] : longest] = torch.tensor(answer.prompt.tokens)
        self._tokens = self._tokens.to(device)

    def context(self) -> Context:
        """Returns what processors may look at; without tokens where none are kept."""
        return Context(self._tokens[:, : self._time], self._padding, self._prompt, self._longest)

    def append(self, tokens: Tensor) -> None:
        """Adds the newest token of every row, (rows)."""
        if self._needed:
            self._tokens[:, self._time] = tokens
            self._time += 1

    def keep(self, rows: Tensor) -> None:
        """Keeps these rows in this order, (new rows)."""
        self._tokens, self._padding, self._longest = self._tokens[rows], self._padding[rows], self._longest[rows]

"""Answers that a policy wrote and what they are worth: drawn when the trainer asks for a batch, and kept for reuse.

What is not here: how the loss follows from them (`training.policy`, `training.objectives.policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.data.length_batches import LengthSampler, RawBatch
from zhixing.training.answers import padded_answers


@dataclass(frozen=True)
class Rollout:
    """One answer.

    Attributes:
        prompt: Token ids.
        answer: Token ids, with the one that ended it.
        advantage: How much better than the others it was.
        old: Log-probability of each token of the answer when it was written; empty where that is the present policy.
    """

    prompt: list[int]
    answer: list[int]
    advantage: float
    old: list[float]


@dataclass(frozen=True)
class Rollouts:
    """The answers of one batch of prompts."""

    rows: list[Rollout]

    def to_json(self) -> list[dict[str, Any]]:
        """Returns plain values, exactly: JSON keeps every bit of a number."""
        return [asdict(row) for row in self.rows]

    @classmethod
    def from_json(cls, values: Any) -> Rollouts:
        """Reads what `to_json` returned.

        Raises:
            BadInput: It is something else.
        """
        try:
            return cls([Rollout(**row) for row in values])
        except TypeError as error:
            raise BadInput("the checkpoint's answers are damaged") from error


class RolloutSampler:
    """Gives each batch of answers to the trainer as often as they are to be used, then has new ones drawn.

    Args:
        prompts: Where prompts come from.
        draw: Writes and judges answers with the policy as it is then.
        reuse: Steps made with the same answers.
    """

    def __init__(self, prompts: LengthSampler, draw: Callable[[RawBatch], Rollouts], reuse: int) -> None:
        self._prompts, self._draw, self._reuse = prompts, draw, reuse
        self._rollouts: Rollouts | None = None
        self._used = 0

    def next(self) -> Rollouts:
        """Returns the answers of the next step."""
        if self._rollouts is None or self._used >= self._reuse:
            self._rollouts, self._used = self._draw(self._prompts.next()), 0
        self._used += 1
        return self._rollouts

    def state_dict(self) -> dict[str, Any]:
        """Returns where the sampler stands; answers that will be used again are part of it."""
        kept = self._rollouts if self._used < self._reuse else None
        return {
            **self._prompts.state_dict(), "used": self._used, "rollouts": None if kept is None else kept.to_json(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where `state_dict` was taken."""
        self._prompts.load_state_dict(state)
        kept = state.get("rollouts")
        self._rollouts = None if kept is None else Rollouts.from_json(kept)
        self._used = int(state.get("used", 0))


def padded_rows(rows: Sequence[Rollout], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lays prompts and answers side by side; see `training.answers.padded_answers`."""
    lines = [
        (np.array([*row.prompt, *row.answer]), np.array([0] * len(row.prompt) + [1] * len(row.answer))) for row in rows
    ]
    return padded_answers(lines, device)

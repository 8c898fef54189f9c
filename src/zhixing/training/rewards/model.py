"""A reward model as a reward: the figure that it gives the conversation."""

from __future__ import annotations

from collections.abc import Sequence

from zhixing.checkpoints.references import resolve
from zhixing.checkpoints.scorer_folder import load_scorer
from zhixing.data.shapes.records import Message, Misfit
from zhixing.models.scorer import score_rows
from zhixing.training.answers import AnswerEncoder, judged
from zhixing.training.rewards.base import Attempt


class ModelReward:
    """Gives each answer the figure of a reward model; to an empty one, the lowest of those judged with it.

    Args:
        reference: The model, as trained by the objective `reward_model` or by `transformers` with one label.
    """

    name = "model"

    def __init__(self, reference: str) -> None:
        self._model, tokenizer = load_scorer(resolve(reference))
        self._model.eval()
        self._encoder = AnswerEncoder(tokenizer)

    def check(self, attempt: Attempt) -> None:
        """See `Reward`: nothing of a record is compared with."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """See `Reward`."""
        rows, places = [], []
        context = self._model.config.context
        for place, attempt in enumerate(attempts):
            if not attempt.completion.strip():
                continue
            turns = (Message("user", attempt.prompt),), (Message("assistant", attempt.completion),)
            try:
                rows.append(judged(self._encoder, *turns)[-context:])
                places.append(place)
            except Misfit:  # the model's chat template does not take it
                continue
        found = score_rows(self._model, rows)
        values = [min(found, default=0.0)] * len(attempts)
        for place, value in zip(places, found, strict=True):
            values[place] = value
        return values

"""How the held-out predictions of an objective are measured: by the same functions as `zhixing score`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.metrics.registry import score
from zhixing.training.objectives import RecordObjective


def registered(objective: RecordObjective) -> list[str]:
    """Returns the objective's measures that `zhixing score` knows."""
    return [name for name in objective.measured() if name not in objective.own]


def measure_for(objective: RecordObjective) -> Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]:
    """Returns what turns predictions and right answers into figures while a run goes on."""
    names = registered(objective)

    def measure(predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        if not names:
            return {}
        return {one.name: one.value for one in score(names, predictions, references, resamples=0)}

    return measure


def final_scores(objective: RecordObjective, predictions: Sequence[Any], references: Sequence[Any]) -> list[Score]:
    """Returns the scores of a finished run, each with its interval and its signature."""
    names = registered(objective)
    return score(names, predictions, references) if names else []

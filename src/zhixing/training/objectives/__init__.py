"""What a model learns to do: one file each, listed here by name with the record shape that it needs."""

from __future__ import annotations

from zhixing.core.errors import unknown_name
from zhixing.training.objectives.base import Objective, TensorBatch
from zhixing.training.objectives.causal import Causal

__all__ = ["OBJECTIVES", "Objective", "TensorBatch", "objective_named"]

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (Causal(),)}
"""Every objective, by name."""


def objective_named(name: str) -> Objective:
    """Returns an objective by name.

    Raises:
        BadInput: There is none of that name.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES, where="train.objective")
    return OBJECTIVES[name]

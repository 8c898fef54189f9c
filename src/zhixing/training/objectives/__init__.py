"""What a model learns to do: one file each, listed here by name. See `base` for what an objective has to say."""

from __future__ import annotations

from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.recipe import Recipe, TaskRecipe
from zhixing.training.objectives.base import (
    Counted,
    Encoded,
    NetworkKind,
    Objective,
    RecordObjective,
    Sampler,
    TensorBatch,
)
from zhixing.training.objectives.caption import Caption
from zhixing.training.objectives.causal import Causal
from zhixing.training.objectives.chat import ChatTurns
from zhixing.training.objectives.classification import Classification
from zhixing.training.objectives.contrastive import Contrastive
from zhixing.training.objectives.denoising import Denoising
from zhixing.training.objectives.distillation import Distillation
from zhixing.training.objectives.masked import Masked
from zhixing.training.objectives.policy import Grpo, Reinforce
from zhixing.training.objectives.preference import Dpo, Ipo, Kto, Orpo, SimPo
from zhixing.training.objectives.regression import Regression
from zhixing.training.objectives.replaced import Replaced
from zhixing.training.objectives.reward_model import RewardModel
from zhixing.training.objectives.seq2seq import Seq2Seq
from zhixing.training.objectives.span import Span
from zhixing.training.objectives.span_corruption import SpanCorruption
from zhixing.training.objectives.tagging import Tagging

__all__ = [
    "OBJECTIVES",
    "Counted",
    "Encoded",
    "NetworkKind",
    "Objective",
    "RecordObjective",
    "Sampler",
    "TensorBatch",
    "check_objective",
    "objective_named",
    "record_objective",
]

OBJECTIVES: dict[str, type[Causal] | type[RecordObjective]] = {
    objective.name: objective
    for objective in (
        Caption,
        Causal,
        ChatTurns,
        Classification,
        Distillation,
        Contrastive,
        Denoising,
        Dpo,
        Grpo,
        Ipo,
        Kto,
        Masked,
        Orpo,
        Regression,
        Reinforce,
        Replaced,
        Seq2Seq,
        RewardModel,
        SimPo,
        Span,
        SpanCorruption,
        Tagging,
    )
}
"""Every objective, by name."""


def objective_named(name: str) -> type[Causal] | type[RecordObjective]:
    """Returns an objective's class by name.

    Raises:
        BadInput: There is none of that name.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES, where="train.objective")
    return OBJECTIVES[name]


def record_objective(name: str) -> type[RecordObjective] | None:
    """Returns an objective on records by name, None where it is one on packed text."""
    found = objective_named(name)
    return found if issubclass(found, RecordObjective) else None


def check_objective(recipe: Recipe) -> None:
    """Refuses options of the task that the objective does not know, and those that contradict each other.

    Raises:
        BadInput: There is no such objective, or an option is not one of its own.
    """
    objective = objective_named(recipe.train.objective)
    for key, field in TaskRecipe.model_fields.items():
        usual = field.get_default(call_default_factory=True)
        if key not in objective.options and getattr(recipe.task, key) != usual:
            known = ", ".join(sorted(objective.options)) or "none"
            raise BadInput(
                f"the objective {objective.name!r} has no option {key!r}",
                where=f"task.{key}",
                remedy=f"leave it out; its options: {known}",
            )
    if issubclass(objective, RecordObjective):
        objective.check_recipe(recipe)

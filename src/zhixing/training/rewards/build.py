"""From the recipe's list of rewards to their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zhixing.core.errors import BadInput, ZhixingError, unknown_name
from zhixing.core.recipe import RewardRecipe
from zhixing.training.rewards.base import Attempt, Reward
from zhixing.training.rewards.code import UnitTests
from zhixing.training.rewards.function import UserFunction
from zhixing.training.rewards.model import ModelReward
from zhixing.training.rewards.numeric import ExactNumber
from zhixing.training.rewards.pattern import Pattern
from zhixing.training.rewards.schema import JsonSchema


def _pattern(recipe: RewardRecipe) -> Reward:
    return Pattern(_given(recipe, "pattern", recipe.pattern), whole=recipe.whole)


def _schema(recipe: RewardRecipe) -> Reward:
    if recipe.json_schema is None:
        raise BadInput("a reward of the kind 'schema' needs `json_schema`", where="task.rewards")
    return JsonSchema(recipe.json_schema)


def _function(recipe: RewardRecipe) -> Reward:
    return UserFunction(_given(recipe, "function", recipe.function))


def _given(recipe: RewardRecipe, key: str, value: str | None) -> str:
    if value is None:
        raise BadInput(f"a reward of the kind {recipe.kind!r} needs `{key}`", where="task.rewards")
    return value


REWARDS: dict[str, Callable[[RewardRecipe], Reward]] = {
    "number": lambda recipe: ExactNumber(recipe.field or "answer"),
    "pattern": _pattern,
    "schema": _schema,
    "tests": lambda recipe: UnitTests(
        recipe.field or "answer", all_or_nothing=recipe.whole, isolation=recipe.isolation
    ),
    "function": _function,
    "model": lambda recipe: ModelReward(_given(recipe, "model", recipe.model)),
}
"""Every kind of reward, by name."""


@dataclass(frozen=True)
class Scores:
    """What some attempts are worth.

    Attributes:
        total: The weighted sum for each attempt: what training raises.
        parts: Each reward by name, those that are only watched included.
    """

    total: list[float]
    parts: dict[str, list[float]]


class WeightedRewards:
    """Several rewards at once.

    Args:
        rewards: Each with its weight; a weight of 0 is watched and not trained on.
    """

    def __init__(self, rewards: Sequence[tuple[Reward, float]]) -> None:
        if not any(weight for _, weight in rewards):
            raise BadInput(
                "no reward has a weight, so there is nothing to learn from",
                where="task.rewards",
                remedy="give at least one, such as {kind: number}",
            )
        self.rewards = tuple(rewards)
        names: list[str] = []
        for reward, _ in rewards:
            same = sum(name == reward.name or name.startswith(f"{reward.name}-") for name in names)
            names.append(f"{reward.name}-{same + 1}" if same else reward.name)
        self.names = tuple(names)

    @property
    def watched(self) -> tuple[str, ...]:
        """The names of the rewards that are not trained on."""
        return tuple(name for name, (_, weight) in zip(self.names, self.rewards, strict=True) if not weight)

    def check(self, attempt: Attempt) -> None:
        """Looks, before training, whether every reward can judge answers to a record; see `Reward.check`."""
        for reward, _ in self.rewards:
            reward.check(attempt)

    def given_up(self) -> int:
        """Returns how many matches of patterns have been given up so far, because they took too long."""
        return sum(reward.late for reward, _ in self.rewards if isinstance(reward, Pattern))

    def __call__(self, attempts: Sequence[Attempt]) -> Scores:
        """Judges attempts."""
        parts = {name: reward(attempts) for name, (reward, _) in zip(self.names, self.rewards, strict=True)}
        weights = [weight for _, weight in self.rewards]
        total = [
            sum(weight * value for weight, value in zip(weights, values, strict=True))
            for values in zip(*parts.values(), strict=True)
        ]
        return Scores(total, parts)


def build_rewards(recipes: Sequence[RewardRecipe]) -> WeightedRewards:
    """Builds the rewards that a recipe lists.

    Raises:
        BadInput: A kind is unknown, an option is missing or wrong, or nothing is weighted.
        MissingResource: The user's module, or a sandbox for code, is not there.
    """
    built = []
    for number, recipe in enumerate(recipes):
        place = f"task.rewards.{number}"
        if recipe.kind not in REWARDS:
            raise unknown_name("reward", recipe.kind, REWARDS, where=place)
        _check_options(recipe, place)
        try:
            built.append((REWARDS[recipe.kind](recipe), recipe.weight))
        except ZhixingError as error:
            if error.where is not None and error.where.partition(".")[0] == "schema":
                place += f".json_{error.where}"
            elif error.where != "task.rewards":
                raise
            raise type(error)(error.cause, where=place, remedy=error.remedy) from error
    return WeightedRewards(built)


OPTIONS = {
    "number": {"field"}, "pattern": {"pattern", "whole"}, "schema": {"json_schema"},
    "tests": {"field", "whole", "isolation"}, "function": {"function"}, "model": {"model"},
}  # fmt: skip
"""What each kind of reward is told; anything else would be without effect."""


def _check_options(recipe: RewardRecipe, place: str) -> None:
    """Refuses options of another kind, which the user believes to act."""
    given = recipe.model_dump(exclude_defaults=True).keys() - {"kind", "weight"} - OPTIONS[recipe.kind]
    if given:
        known = ", ".join(sorted(OPTIONS[recipe.kind]))
        raise BadInput(
            f"a reward of the kind {recipe.kind!r} has no option {min(given)!r}", where=place, remedy=f"it has {known}"
        )

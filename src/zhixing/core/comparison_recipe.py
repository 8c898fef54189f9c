"""The recipe of `zhixing compare`: a base recipe, variants of it, seeds, and one budget for all; a strict schema.

What a variant's recipe becomes is decided here; running it is `workflows.compare`'s concern.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from zhixing.core.errors import BadInput, MissingResource, nearest
from zhixing.core.files import os_fault
from zhixing.core.recipe import INT64, Recipe, Section, apply_override, build_recipe
from zhixing.core.yaml_text import load_yaml

LENGTHS = ("steps", "tokens", "minutes", "flops", "epochs")
"""Fields of `train` that say how long; in a comparison the budget does."""


class Budget(Section):
    """What every variant may spend; exactly one of these."""

    tokens: int | None = Field(None, ge=1, lt=INT64, description="training tokens")
    seconds: float | None = Field(None, gt=0, description="time for training steps, planned from a measured step")
    flops: float | None = Field(None, gt=0, description="floating-point operations of training (running text)")
    epochs: float | None = Field(None, gt=0, description="passes over the training records")


class ComparisonRecipe(Section):
    """A whole comparison."""

    name: str = Field("comparison", pattern=r"^\w[\w.\-]*$", description="names the folder, runs/NAME")
    base: dict[str, Any] = Field(default_factory=dict, description="the recipe that all variants share")
    variants: dict[str, dict[str, Any]] = Field(description="NAME: what differs, as in {model.family: lstm}")
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1, description="train.seed of each run")
    budget: Budget

    def to_yaml(self) -> str:
        """Returns the recipe as YAML."""
        text: str = yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True)
        return text

    def family(self, name: str) -> str:
        """Returns the model family that a variant names, "" when it leaves it to the default."""
        values = copy.deepcopy(self.base)
        merge(values, self.variants[name], f"variants.{name}")
        model = values.get("model")
        return str(model.get("family", "")) if isinstance(model, dict) else ""

    def variant(self, name: str, seed: int, *, spends: bool = True, ignored: Sequence[str] = ()) -> Recipe:
        """Returns the recipe of one run.

        Args:
            name: The variant.
            seed: The run's `train.seed`.
            spends: Whether the budget says how long it is trained; a model that is counted reads its text once.
            ignored: `section.key`s of the base that mean nothing for this variant.

        Raises:
            BadInput: A key is unknown, or a value is wrong.
        """
        where = f"variants.{name}"
        values = copy.deepcopy(self.base)
        for key in ignored:
            section, _, field = key.partition(".")
            if isinstance(values.get(section), dict):
                values[section].pop(field, None)
        merge(values, self.variants[name], where)
        values["name"] = name
        train = values.setdefault("train", {})
        train["seed"] = seed
        train |= self.spending() if spends else {}
        return build_recipe(values, where)

    def spending(self) -> dict[str, int | float]:
        """Returns the field of `train` that the budget sets."""
        budget = self.budget
        if budget.tokens is not None:
            return {"tokens": budget.tokens}
        if budget.seconds is not None:
            return {"minutes": budget.seconds / 60}
        if budget.epochs is not None:
            return {"epochs": budget.epochs}
        assert budget.flops is not None
        return {"flops": budget.flops}


def merge(values: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    """Writes changes into nested sections; keys are `section.key` or nested themselves.

    Raises:
        BadInput: A value stands where a section is expected.
    """
    for key, value in changes.items():
        if not isinstance(key, str):
            raise BadInput(f"the key {key!r} is not a name", where=where)
        *sections, last = key.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise BadInput(f"{section!r} is a value, not a section", where=where)
        if isinstance(value, dict) and isinstance(target.get(last), dict):
            merge(target[last], value, where)
        else:
            target[last] = copy.deepcopy(value)


def load_comparison(path: Path, overrides: Sequence[str] = ()) -> ComparisonRecipe:
    """Reads a comparison's recipe and applies `key=value` overrides; `base.train.batch_size=8` changes the base.

    Raises:
        MissingResource: The file is not there.
        BadInput: It is not YAML, a key is unknown, a value is wrong, or a variant is.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingResource("no such recipe", where=str(path), remedy="ready ones are in recipes/") from error
    except UnicodeDecodeError as error:
        raise BadInput("a recipe is a UTF-8 text file, this one is not", where=str(path)) from error
    except OSError as error:
        raise os_fault(error, path, "reading the recipe") from error
    values = load_yaml(text, str(path)) or {}
    if not isinstance(values, dict):
        raise BadInput(
            "a comparison's recipe is a mapping", where=str(path), remedy="see recipes/compare-shakespeare.yaml"
        )
    if isinstance(values.get("base"), str):
        values["base"] = _base(path.parent / values["base"])
    for override in overrides:
        apply_override(values, override)
    return build_comparison(values, str(path))


def _base(path: Path) -> dict[str, Any]:
    """Reads the recipe file that is named as the base."""
    try:
        values = load_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    except FileNotFoundError as error:
        raise MissingResource(
            "no such recipe", where=str(path), remedy="base names a recipe file beside this one"
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput("a recipe is a UTF-8 text file, this one is not", where=str(path)) from error
    except OSError as error:
        raise os_fault(error, path, "reading the recipe") from error
    if not isinstance(values, dict):
        raise BadInput("a recipe is a mapping of sections", where=str(path))
    return values


def build_comparison(values: dict[str, Any], where: str) -> ComparisonRecipe:
    """Checks a mapping against the schema; see `load_comparison`."""
    try:
        recipe = ComparisonRecipe.model_validate(values)
    except ValidationError as error:
        raise _explain(error, where) from error
    given = [key for key, value in recipe.budget.model_dump().items() if value is not None]
    if len(given) != 1:
        raise BadInput(
            f"the budget names {' and '.join(given) or 'nothing'}",
            where=f"{where}: budget",
            remedy="give exactly one of tokens, seconds, flops, epochs",
        )
    if len(recipe.variants) < 1:
        raise BadInput("there is nothing to compare: no variants", where=f"{where}: variants")
    if len(set(recipe.seeds)) < len(recipe.seeds):
        raise BadInput(f"a seed comes twice: {recipe.seeds}", where=f"{where}: seeds")
    for name in recipe.variants:
        if not name or any(not (character.isalnum() or character in "-_.") for character in name) or name[0] == ".":
            raise BadInput(
                f"a variant's name names folders: {name!r} cannot",
                where=f"{where}: variants",
                remedy="use letters, digits, - and _",
            )
    _check_lengths(recipe, where)
    return recipe


def _check_lengths(recipe: ComparisonRecipe, where: str) -> None:
    """Refuses a variant or base that says itself how long it is trained."""
    for place, values in (("base", recipe.base), *((f"variants.{name}", v) for name, v in recipe.variants.items())):
        train = values.get("train")
        nested = train if isinstance(train, dict) else {}
        for key in LENGTHS:
            if nested.get(key) is not None or values.get(f"train.{key}") is not None:
                raise BadInput(
                    f"train.{key} says how long to train, but the budget does, for all alike",
                    where=f"{where}: {place}",
                    remedy=f"leave train.{key} out",
                )


def _explain(error: ValidationError, where: str) -> BadInput:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = list(Budget.model_fields if path[0] == "budget" else ComparisonRecipe.model_fields)
        close = nearest(path[-1], known)
        guess = f"did you mean {close!r}? " if close else ""
        return BadInput(f"unknown key {key!r}", where=where, remedy=f"{guess}known: {', '.join(known)}")
    if first["type"] == "missing":
        example = "budget: {tokens: 1_000_000}" if key == "budget" else "variants: {lstm: {model.family: lstm}}"
        return BadInput(f"{key!r} is missing", where=where, remedy=f"for example: {example}")
    message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    return BadInput(f"{key} = {repr(first['input'])[:80]}: {message}", where=where)

"""The recipe: everything that decides a run, as one strict schema that YAML, `--set` and Python all fill.

Fields that are null are derived (most of them from `model.depth`) when the run starts; the run folder keeps the
complete, resolved recipe. Deriving is done where the knowledge is: sizes in `training.resolve`, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from zhixing.core.errors import BadInput, MissingResource, command, nearest
from zhixing.core.files import os_fault
from zhixing.core.recipe_sections import (
    INT64,
    MOST_STEPS,
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    RewardRecipe,
    ScheduleRecipe,
    Section,
    TaskRecipe,
    TokenizerRecipe,
    TrainRecipe,
    TuneRecipe,
)
from zhixing.core.yaml_text import load_yaml

__all__ = [
    "INT64",
    "MOST_STEPS",
    "DataRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "RewardRecipe",
    "ScheduleRecipe",
    "Section",
    "TaskRecipe",
    "TokenizerRecipe",
    "TrainRecipe",
    "TuneRecipe",
    "apply_override",
    "build_recipe",
    "load_recipe",
    "parse_recipe",
]


class Recipe(Section):
    """A whole run."""

    name: str = Field("run", pattern=r"^\w[\w.\-]*$", description="names the run folder, runs/NAME")
    data: DataRecipe = DataRecipe()
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    model: ModelRecipe = ModelRecipe()
    tune: TuneRecipe = TuneRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    task: TaskRecipe = TaskRecipe()
    train: TrainRecipe = TrainRecipe()

    def to_yaml(self) -> str:
        """Returns the recipe as YAML, in the order of the schema."""
        text: str = yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
        return text


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file and applies `section.key=value` overrides.

    Raises:
        MissingResource: The file is not there.
        BadInput: It is not YAML, a key is unknown (the nearest right key is named), or a value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingResource(
            "no such recipe", where=str(path), remedy="ready ones are in recipes/; `zhixing quickstart` needs none"
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput(
            "a recipe is a UTF-8 text file, this one is not", where=str(path), remedy="ready ones are in recipes/"
        ) from error
    except IsADirectoryError as error:
        again = (
            f"; to go on with a run: {command('zhixing', 'resume', path)}" if (path / "recipe.yaml").exists() else ""
        )
        raise BadInput(
            "a recipe is a file, this is a folder", where=str(path), remedy=f"name the file{again}"
        ) from error
    except OSError as error:
        raise os_fault(error, path, "reading the recipe") from error
    return parse_recipe(text, overrides, where=str(path))


def parse_recipe(text: str, overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
    """Builds a recipe from YAML text; see `load_recipe`."""
    values = load_yaml(text, where) or {}
    if not isinstance(values, dict):
        raise BadInput(
            f"a recipe is a mapping of sections, not {'a list' if isinstance(values, list) else repr(values)[:60]}",
            where=where,
            remedy=f"begin lines with one of: {', '.join(Recipe.model_fields)}",
        )
    for override in overrides:
        apply_override(values, override)
    return build_recipe(values, where, [override.partition("=")[0].strip() for override in overrides])


def apply_override(values: dict[str, Any], override: str) -> None:
    """Sets one field of a nested mapping from `section.key=value`; the value is read as YAML."""
    key, equals, raw = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise BadInput(f"{override!r} is not KEY=VALUE", where="--set", remedy="for example: --set train.steps=500")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise BadInput(f"the value {raw!r} is not valid YAML", where=f"--set {key}") from error
    except RecursionError as error:
        raise BadInput("the value is nested beyond all bounds", where=f"--set {key}") from error
    *sections, last = parts
    target: Any = values
    for section in sections:
        target = target[_place(section, target, key)] if isinstance(target, list) else target.setdefault(section, {})
        if not isinstance(target, dict | list):
            raise BadInput(
                f"{section!r} is a value, not a section",
                where=f"--set {key}",
                remedy=f"known sections: {', '.join(name for name in Recipe.model_fields if name != 'name')}",
            )
    target[_place(last, target, key) if isinstance(target, list) else last] = value


def _place(part: str, items: list[Any], key: str) -> int:
    """Returns the place in a list that a part of a key names, as in task.rewards.0.weight."""
    if part.isascii() and part.isdigit() and int(part) < len(items):
        return int(part)
    raise BadInput(
        f"{part!r} names none of the {len(items)} items of a list",
        where=f"--set {key}",
        remedy=f"they are counted from 0 to {len(items) - 1}" if items else "the list is empty",
    )


def build_recipe(values: dict[str, Any], where: str = "recipe", overridden: Iterable[str] = ()) -> Recipe:
    """Checks a nested mapping against the schema.

    Args:
        values: The sections.
        where: Where they come from, for messages.
        overridden: Keys that come from `--set` instead.

    Raises:
        BadInput: A key is unknown, or a value is wrong.
    """
    try:
        return Recipe.model_validate(_floats(values))
    except ValidationError as error:
        raise _explain(error, where, set(overridden)) from error
    except RecursionError as error:  # a YAML alias can make a mapping hold itself
        raise BadInput("nested beyond all bounds", where=where) from error


def _floats(value: Any) -> Any:
    """Reads numbers such as 3e-4, which YAML 1.1 takes for text, as numbers."""
    if isinstance(value, dict):
        return {key: item if key == "json_schema" else _floats(item) for key, item in value.items()}
    if isinstance(value, list):  # of sections; texts in lists, such as labels, are texts
        return [_floats(item) if isinstance(item, dict) else item for item in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError, where: str, overridden: set[str]) -> BadInput:
    """Turns pydantic's report into one message about the first fault, and says how many there are."""
    faults = error.errors(include_url=False)
    first = faults[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    more = f" ({len(faults) - 1} more faults)" if len(faults) > 1 else ""
    if key in overridden:
        where = f"--set {key}"
    if first["type"] in ("extra_forbidden", "invalid_key"):
        section: Any = Recipe
        for part in path[:-1]:
            section = section if part.isdigit() else _section(section.model_fields[part].annotation)
        known = list(section.model_fields)
        prefix = "".join(f"{part}." for part in path[:-1])
        close = nearest(path[-1], known)
        guess = _elsewhere(path[-1], exactly=True) or (prefix + close if close else _elsewhere(path[-1]))
        return BadInput(
            f"unknown key {key!r}{more}",
            where=where,
            remedy=f"{f'did you mean {guess}? ' if guess else ''}"
            f"known in {'.'.join(path[:-1]) or 'the recipe'}: {', '.join(known)}",
        )
    message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    if first["type"] == "model_type":
        message = f"a section holds fields, as in {key}: {{NAME: VALUE}}"
    elif first["type"] == "string_pattern_mismatch":
        message = "only letters, digits, '_', '-' and '.' (not at the beginning) can be in it"
    remedy = f"--set {key}=VALUE overrides it" if "." in key and not where.startswith("--set") else "give another value"
    return BadInput(f"{key} = {repr(first['input'])[:80]}: {message}{more}", where=where, remedy=remedy)


def _section(annotation: Any) -> Any:
    """Returns the section that a field holds, also where it holds a list of them, or nothing."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part)) is not None), None)


def _elsewhere(key: str, *, exactly: bool = False) -> str | None:
    """Finds the section that has this key, or one like it, for a key that was put in the wrong one."""
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            close = key if key in section.model_fields else None if exactly else nearest(key, section.model_fields)
            if close is not None:
                return f"{name}.{close}"
    return None

"""What a comparison cannot do, found before its first run: data that are not there, variants measured on other data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.problems import Problems
from zhixing.data.sources import find_sources
from zhixing.training.resolve_counting import FAMILY as COUNTED

HELD_OUT = (
    *("data.validation_paths", "data.field", "data.columns", "data.split", "data.validation_fraction", "data.seed"),
    *("data.too_long", "data.skip_faulty", "train.evaluation_tokens"),
)
"""Fields that decide what is held out, on which all variants are measured."""


def check_variants(plan: Sequence[tuple[str, int, Recipe]]) -> None:
    """Makes sure that all variants are measured alike, and that their data are there and long enough.

    Args:
        plan: Variant, seed and recipe of each run; those of one seed suffice.

    Raises:
        BadInput: One is measured on other data or by another measure, or reads more than there is.
        MissingResource: Data are not there.
    """
    reference, _, first = plan[0]
    for name, _, one in plan:
        where = f"variants.{name}"
        if one.train.objective != first.train.objective:
            raise BadInput(
                f"{reference} learns {first.train.objective!r} and {name} {one.train.objective!r}:"
                " they have no measure in common",
                where=where,
                remedy="compare variants with one train.objective",
            )
        held = HELD_OUT if one.data.validation_paths else (*HELD_OUT, "data.paths")
        for key in held:
            mine, other = _value(one, key), _value(first, key)
            if mine != other and not _irrelevant(key, first, one):
                raise BadInput(
                    f"{key} is {mine!r}, of {reference} it is {other!r}: they would be measured on other data",
                    where=where,
                    remedy=f"set {key} in the base, for all alike",
                )
        _check_data(one, where)


def _irrelevant(key: str, first: Recipe, one: Recipe) -> bool:
    """Tells whether a field has no meaning for one of the two: a counted model has none of training's."""
    return key.startswith("train.") and COUNTED in (first.model.family, one.model.family)


def _check_data(one: Recipe, where: str) -> None:
    problems = Problems()
    sources = find_sources(one.data.paths, problems) if one.data.paths else []
    if one.data.validation_paths:
        find_sources(one.data.validation_paths, problems)
    plain = sources and all(source.compression == "none" and source.member is None for source in sources)
    if not plain or one.train.objective != "causal" or not one.model.context or one.model.family == COUNTED:
        return
    if any(source.format == "parquet" for source in sources):
        return  # packed in itself
    size = sum(source.size for source in sources)
    if one.model.context > size:
        raise BadInput(
            f"model.context is {one.model.context:,} tokens, and all of the text has {size:,} bytes",
            where=where,
            remedy="give more text, or a shorter context",
        )


def _value(recipe: Recipe, key: str) -> Any:
    section, _, field = key.partition(".")
    return getattr(getattr(recipe, section), field)

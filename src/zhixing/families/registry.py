"""The list of known families, and how one is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.families.base import Family
from zhixing.families.gpt2 import GPT2
from zhixing.families.llama import LLAMA
from zhixing.families.mistral import MISTRAL
from zhixing.families.nanochat import NANOCHAT
from zhixing.families.qwen import QWEN2, QWEN3

FAMILIES: dict[str, Family] = {family.name: family for family in (GPT2, LLAMA, MISTRAL, NANOCHAT, QWEN2, QWEN3)}
"""Every family, by its `model_type`."""


def family_named(name: str) -> Family:
    """Returns a family by name.

    Raises:
        BadInput: There is none of that name.
    """
    if name not in FAMILIES:
        raise unknown_name("model family", name, FAMILIES, where="model.family")
    return FAMILIES[name]


def family_for_config(values: Mapping[str, Any], where: str) -> Family:
    """Finds the family that a published config.json belongs to.

    Raises:
        BadInput: The architecture is not supported, or the file does not say which it is.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise BadInput("no 'model_type' field: this is not a model's config.json", where=where)
    if kind not in FAMILIES:
        raise unknown_name("architecture", kind, FAMILIES, where=where)
    return FAMILIES[kind]

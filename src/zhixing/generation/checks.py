"""Checks of single option values: each returns the value in its stored form, or says what is allowed and what came; and
the error for predictions that are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zhixing.core.errors import BadInput

Bias = tuple[str | tuple[int, ...], float]
"""A text or token ids, and what is added to the logit of its last token."""


def refused(name: str, value: object, allowed: str) -> BadInput:
    """Builds the error for a value outside of what is allowed."""
    return BadInput(f"{name} must be {allowed}, got {value!r}")


def number(name: str, value: object, low: float, high: float, allowed: str, *, above: bool = False) -> None:
    """Checks a finite number between bounds; with `above` the lower one itself is excluded."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refused(name, value, f"a number, {allowed}")
    if not low <= value <= high or (above and value == low):
        raise refused(name, value, allowed)


def whole(name: str, value: object, low: int | None, allowed: str) -> None:
    """Checks a whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        raise refused(name, value, f"a whole number, {allowed}" if low is not None else allowed)


def switch(name: str, value: object) -> None:
    """Checks a truth value."""
    if not isinstance(value, bool):
        raise refused(name, value, "true or false")


def texts(name: str, value: object) -> tuple[str, ...]:
    """Checks a text or several, none empty."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, tuple | list) or not all(isinstance(text, str) and text for text in value):
        raise refused(name, value, "a text or a list of texts, none of them empty")
    return tuple(value)


def token_ids(name: str, value: object) -> tuple[int, ...]:
    """Checks a token id or several."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, tuple | list):
        raise refused(name, value, "token ids, or none")
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise refused(name, token, "token ids, each 0 or more")
    return tuple(value)


def phrases(name: str, value: object) -> tuple[str | tuple[int, ...], ...]:
    """Checks phrases: a text, or a list of texts and lists of token ids."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, tuple | list):
        raise refused(name, value, "a list of texts and lists of token ids")
    return tuple(phrase(name, part) for part in value)


def phrase(name: str, value: object) -> str | tuple[int, ...]:
    """Checks one text, token id or list of token ids, not empty."""
    if isinstance(value, str):
        if not value:
            raise refused(name, value, "made of texts that are not empty")
        return value
    tokens = token_ids(name, value)
    if not tokens:
        raise refused(name, value, "made of lists of token ids that are not empty")
    return tokens


def biases(name: str, value: object) -> tuple[Bias, ...]:
    """Checks a mapping from phrases to numbers; also the published form, a list of [token ids, number]."""
    pairs: list[Any] = list(value.items()) if isinstance(value, Mapping) else value  # type: ignore[assignment]
    if not isinstance(pairs, tuple | list):
        raise refused(name, value, "a mapping from token ids or texts to numbers")
    checked: list[Bias] = []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise refused(name, pair, "made of pairs of token ids (or a text) and a number")
        key, bias = pair
        number(name, bias, -1e6, 1e6, "a number for each token or text, -1000000 to 1000000")
        checked.append((phrase(name, key), float(bias)))
    return tuple(checked)


def not_numbers() -> BadInput:
    """Builds the error for a model that predicts no numbers."""
    return BadInput(
        "the model's predictions are not numbers (NaN)",
        remedy="its weights are damaged or its training diverged: use an earlier checkpoint",
    )

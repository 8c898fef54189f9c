"""Schemas of tools from Python functions, as transformers makes them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Literal

import pytest

from zhixing.core.errors import BadInput
from zhixing.tokenization.tool_schema import function_schema, tool_schemas

from .chat_samples import WEATHER


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


def weather(city: str, days: int = 1, unit: Unit = Unit.CELSIUS) -> dict[str, float]:
    """Gives the weather in a city.

    It knows the present and the future.

    Args:
        city: Which city, in any
            language.
        days: How far to look ahead.
        unit: The scale.

    Returns:
        The temperatures by day.

    Raises:
        ValueError: There is no such city.
    """
    raise NotImplementedError(city, days, unit)


def search(
    query: str,
    tags: list[str],
    limit: int | None = None,
    where: Literal["web", "notes"] = "web",
    deep: bool | None = None,
) -> list[str]:
    """Searches.

    Args:
        query: What for.
        tags: Only with these.
        limit: At most so many.
        where: The place to look in.
        deep: Whether to take long (choices: [true, false])
    """
    raise NotImplementedError(query, tags, limit, where, deep)


def varied(
    a: int | str, b: dict[str, int], c: tuple[int, str], d: Any, e: list[dict[str, Any]], f: list[int] | str, g: float
) -> None:
    """Takes everything.

    Args:
        a: one
        b: two
        c: three
        d: four
        e: five
        f: six
        g: seven (choices: [1.5, 2])
    """


class Owner:
    def method(self, x: str) -> str:
        """Does a thing.

        Args:
            x: The thing.

        Returns:
            The thing done.
        """
        return x


@pytest.mark.parametrize("function", [weather, search, varied, Owner().method])
def test_transformers_makes_the_same_schema(function: Callable[..., Any]) -> None:
    utilities = pytest.importorskip("transformers.utils")
    assert function_schema(function) == utilities.get_json_schema(function)


def no_docstring(x: int) -> None:
    raise NotImplementedError(x)


def no_hint(x) -> None:  # type: ignore[no-untyped-def]
    """Does.

    Args:
        x: It.
    """


def no_description(x: int) -> None:
    """Does."""


def strange(x: Callable[..., Any]) -> None:
    """Does.

    Args:
        x: It.
    """


def any_number(*x: int) -> None:
    """Does.

    Args:
        x: It.
    """


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (no_docstring, "function no_docstring: a tool needs a docstring"),
        (no_hint, "'x' has no type hint"),
        (no_description, "does not describe the argument 'x'"),
        (strange, "no counterpart in JSON"),
        (any_number, "of any number"),
        ({"type": "function"}, r"tools\[0\]: a tool's schema needs a name"),
        ("weather", "a tool is a JSON schema or a function, got a str"),
        (7, "got a int"),
    ],
)
def test_what_is_no_tool(tool: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tool_schemas([tool])


def test_schemas_pass_through() -> None:
    assert tool_schemas(None) is None
    assert tool_schemas([WEATHER, {"name": "bare"}]) == [WEATHER, {"name": "bare"}]
    with pytest.raises(BadInput, match="must be a list"):
        tool_schemas(WEATHER)  # type: ignore[arg-type]

"""JSON of a given form: finds the JSON in an answer and checks it against a JSON schema.

The part of JSON Schema that is known here is `KEYWORDS`; a schema with any other keyword is refused by name instead of
being checked in part. Booleans and integers are told apart as the standard does: 1.0 is an integer, true is no number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.training.rewards.base import Attempt

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "number": (int, float), "boolean": bool, "null": type(None),
}  # fmt: skip
KEYWORDS = frozenset(
    (
        "type enum const properties required additionalProperties items minItems maxItems uniqueItems minLength"
        " maxLength minimum maximum exclusiveMinimum exclusiveMaximum anyOf allOf oneOf not"
        " title description default examples $schema $comment"
    ).split()
)
MOST_CHARACTERS = 100_000
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


def find_json(text: str) -> Any:
    """Returns the JSON value of an answer: the last fenced block that is one, else the whole text.

    Raises:
        ValueError: There is none.
    """
    text = text[:MOST_CHARACTERS]
    for candidate in [*reversed(_FENCED.findall(text)), text]:
        try:
            return json.loads(candidate, parse_constant=_refuse)
        except (ValueError, RecursionError):
            continue
    raise ValueError("no JSON")


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


class JsonSchema:
    """1 where the answer is JSON that the schema allows; else 0.

    Args:
        schema: The schema.
        valid_share: What JSON that the schema does not allow is worth.
    """

    name = "schema"

    def __init__(self, schema: Mapping[str, Any], valid_share: float = 0.0) -> None:
        check_schema(schema)
        self.schema, self.valid_share = schema, valid_share

    def check(self, attempt: Attempt) -> None:
        """See `Reward`: nothing of a record is compared with."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """See `Reward`."""
        return [self._one(attempt.completion) for attempt in attempts]

    def _one(self, text: str) -> float:
        try:
            value = find_json(text)
        except ValueError:
            return 0.0
        return 1.0 if allows(self.schema, value) else self.valid_share


def check_schema(schema: Any, where: str = "schema") -> None:
    """Refuses a schema that cannot be checked in full.

    Raises:
        BadInput: A keyword is not known here, or its value is of the wrong kind.
    """
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise BadInput(f"a schema is an object or a boolean, not {str(schema)[:60]!r}", where=where)
    for keyword, value in schema.items():
        if keyword not in KEYWORDS:
            known = ", ".join(sorted(KEYWORDS))
            raise BadInput(f"the keyword {keyword!r} is not known", where=where, remedy=f"known: {known}")
        place = f"{where}.{keyword}"
        if keyword == "properties":
            _require(isinstance(value, Mapping), value, place, "an object")
            for name, part in value.items():
                check_schema(part, f"{place}.{name}")
        elif keyword in ("anyOf", "allOf", "oneOf"):
            _require(isinstance(value, list) and bool(value), value, place, "a list of schemas")
            for index, part in enumerate(value):
                check_schema(part, f"{place}[{index}]")
        elif keyword in ("items", "not", "additionalProperties"):
            check_schema(value, place)
        elif keyword == "type":
            names = value if isinstance(value, list) else [value]
            known_types = [*TYPES, "integer"]
            _require(all(name in known_types for name in names), value, place, f"one of {', '.join(known_types)}")
        elif keyword in ("enum", "required"):
            _require(isinstance(value, list), value, place, "a list")
        elif keyword.startswith(("min", "max", "exclusive")):
            _require(isinstance(value, int | float) and not isinstance(value, bool), value, place, "a number")


def _require(good: bool, value: Any, where: str, kind: str) -> None:
    if not good:
        raise BadInput(f"{str(value)[:60]!r} is not {kind}", where=where)


def allows(schema: Any, value: Any) -> bool:
    """Tells whether a schema that `check_schema` has passed allows a value."""
    if isinstance(schema, bool):
        return schema
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, name) for name in names):
            return False
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    return (
        _allows_parts(schema, value)
        and _allows_size(schema, value)
        and ("anyOf" not in schema or any(allows(part, value) for part in schema["anyOf"]))
        and ("allOf" not in schema or all(allows(part, value) for part in schema["allOf"]))
        and ("oneOf" not in schema or sum(allows(part, value) for part in schema["oneOf"]) == 1)
        and ("not" not in schema or not allows(schema["not"], value))
    )


def _is(value: Any, name: str) -> bool:
    if name == "integer":
        return _is(value, "number") and (isinstance(value, int) or value.is_integer())
    if name == "number" and isinstance(value, bool):
        return False
    return isinstance(value, TYPES[name])


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: 1 equals 1.0, but not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _allows_parts(schema: Mapping[str, Any], value: Any) -> bool:
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        return all(name in value for name in schema.get("required", ())) and all(
            allows(properties.get(name, others), part) for name, part in value.items()
        )
    if isinstance(value, list):
        items = schema.get("items", True)
        if schema.get("uniqueItems") and any(_same(a, b) for i, a in enumerate(value) for b in value[:i]):
            return False
        return all(allows(items, part) for part in value)
    return True


def _allows_size(schema: Mapping[str, Any], value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return (
            value >= schema.get("minimum", value)
            and value <= schema.get("maximum", value)
            and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
            and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        )
    if not isinstance(value, str | list):
        return True
    what = "Length" if isinstance(value, str) else "Items"
    return bool(schema.get(f"min{what}", 0) <= len(value) <= schema.get(f"max{what}", len(value)))

"""Tools as a chat template is told of them: JSON schemas, given as such or read from Python functions.

A function's schema is made of its type hints and its docstring in Google style, as published templates expect it
(OpenAI's structure: {"type": "function", "function": {"name", "description", "parameters"}}).
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union

from zhixing.core.errors import BadInput

Tool = Mapping[str, Any] | Callable[..., Any]
"""A JSON schema in OpenAI's structure, or a function with type hints and a docstring."""

JSON_TYPES: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
    list: "array",
    tuple: "array",
    dict: "object",
}
SCALARS = (int, float, str, bool, type(None))

SECTION = re.compile(r"\n[ \t]*(Args|Arguments|Returns|Raises|Yields|Example|Examples|Note|Notes):[ \t]*\n")
ARGUMENT = re.compile(r"^([ \t]*)(\w+)[ \t]*(?:\([^)\n]*\))?:[ \t]*(.*)$")
CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def tool_schemas(tools: Sequence[Tool] | None, where: str = "tools") -> list[dict[str, Any]] | None:
    """Returns the schemas of tools, or None when none are given.

    Raises:
        BadInput: One is neither a schema nor a function that can be read.
    """
    if tools is None:
        return None
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise BadInput(f"tools must be a list of JSON schemas or functions, got {_kind(tools)}", where=where)
    return [_schema(tool, f"{where}[{index}]") for index, tool in enumerate(tools)]


def _schema(tool: Tool, where: str) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadInput("a tool's schema needs a name", where=where, remedy=EXAMPLE)
        return dict(tool)
    if inspect.isfunction(tool) or inspect.ismethod(tool):
        return function_schema(tool)
    raise BadInput(f"a tool is a JSON schema or a function, got {_kind(tool)}", where=where, remedy=EXAMPLE)


EXAMPLE = (
    'for example {"type": "function", "function": {"name": "weather", "description": "The weather in a city",'
    ' "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}'
)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the schema of a function.

    Args:
        function: With a type hint for every argument, and a docstring in Google style that describes every argument. A
            description that ends in `(choices: ["a", "b"])` lists the allowed values.

    Raises:
        BadInput: A hint or a description is missing, or a type has no counterpart in JSON.
    """
    name = getattr(function, "__name__", "function")
    where = f"function {name}"
    text = inspect.getdoc(function)
    if not text:
        raise BadInput("a tool needs a docstring, by which the model knows what it does", where=where)
    description, described, returned = read_docstring(text)
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # a hint can be any expression, and any of them can fail
        raise BadInput(f"the type hints cannot be read: {error}", where=where) from error
    properties: dict[str, Any] = {}
    required: list[str] = []
    for index, (key, parameter) in enumerate(inspect.signature(function).parameters.items()):
        if index == 0 and key in ("self", "cls") and key not in hints:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadInput(f"the argument *{key} of any number has no schema", where=where, remedy="name each argument")
        if key not in hints:
            raise BadInput(f"the argument {key!r} has no type hint", where=where)
        if key not in described:
            raise BadInput(
                f"the docstring does not describe the argument {key!r}", where=where, remedy="add it under 'Args:'"
            )
        schema = _type_schema(hints[key], f"{where}, argument {key!r}")
        properties[key] = {**schema, **_description(described[key], where)}
        if parameter.default is parameter.empty:
            required.append(key)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    content: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    if "return" in hints:
        try:
            content["return"] = _type_schema(hints["return"], where)
        except BadInput:  # the model never writes a return value: a type without a schema is left out, not described
            return {"type": "function", "function": content}
        if returned is not None:
            content["return"]["description"] = returned
    return {"type": "function", "function": content}


def _description(text: str, where: str) -> dict[str, Any]:
    found = CHOICES.search(text)
    if found is None:
        return {"description": text}
    try:
        choices = json.loads(found[1])
    except json.JSONDecodeError as error:
        raise BadInput(f"the choices {found[1]!r} are not a JSON list", where=where) from error
    return {
        "enum": [choice.strip() if isinstance(choice, str) else choice for choice in choices],
        "description": text[: found.start()].strip(),
    }


def read_docstring(text: str) -> tuple[str, dict[str, str], str | None]:
    """Returns the description, the arguments' descriptions and that of the result, of a docstring in Google style."""
    parts = SECTION.split(f"\n{text.strip()}\n")
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    described = _read_arguments(sections.get("Args", sections.get("Arguments", "")))
    returned = sections.get("Returns")
    return parts[0].strip(), described, returned.strip() if returned else None


def _read_arguments(text: str) -> dict[str, str]:
    """Reads "name: description" lines; what is indented deeper than a name goes on with its description."""
    described: dict[str, list[str]] = {}
    depth, current = None, ""
    for line in text.splitlines():
        if not line.strip():
            continue
        found = ARGUMENT.match(line)
        if found and (depth is None or len(found[1]) <= depth):
            depth, current = len(found[1]), found[2]
            described[current] = [found[3].strip()]
        elif current:
            described[current].append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in described.items()}


def _type_schema(hint: Any, where: str) -> dict[str, Any]:
    """Returns the JSON schema of a type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        if hint is Any:
            return {}
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _enumeration([member.value for member in hint], where)
        if hint in JSON_TYPES:
            return {"type": JSON_TYPES[hint]}
    elif origin is Union or origin is types.UnionType:
        return _union(arguments, where)
    elif origin is Literal:
        return _enumeration(list(arguments), where)
    elif origin is list:
        return {"type": "array", "items": _type_schema(arguments[0], where)}
    elif origin is tuple and len(arguments) > 1 and ... not in arguments:
        return {"type": "array", "prefixItems": [_type_schema(argument, where) for argument in arguments]}
    elif origin is dict:
        schema: dict[str, Any] = {"type": "object"}
        if len(arguments) == 2:
            schema["additionalProperties"] = _type_schema(arguments[1], where)
        return schema
    raise BadInput(
        f"the type {hint!r} has no counterpart in JSON",
        where=where,
        remedy="use str, int, float, bool, list[...], dict[...], Literal[...] or Optional, or give a JSON schema",
    )


def _enumeration(values: list[Any], where: str) -> dict[str, Any]:
    if not values or any(type(value) not in SCALARS for value in values):
        raise BadInput(f"the allowed values {values} are not texts, numbers or truth values", where=where)
    kinds = list(dict.fromkeys(JSON_TYPES[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _union(arguments: tuple[Any, ...], where: str) -> dict[str, Any]:
    parts = [_type_schema(argument, where) for argument in arguments if argument is not type(None)]
    if len(parts) == 1:
        schema = parts[0]
    elif all(part.keys() == {"type"} and isinstance(part["type"], str) for part in parts):
        names = sorted({part["type"] for part in parts})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": parts}
    return {**schema, "nullable": True} if type(None) in arguments else schema

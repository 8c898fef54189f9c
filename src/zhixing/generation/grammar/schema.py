"""JSON schemas as the machine follows them. What is not supported is refused by name: nothing is passed over.

Supported: type (one or several), properties and required, items with minItems and maxItems, enum, const, anyOf, oneOf,
allOf of one, $ref into the schema itself (also recursive), minLength and maxLength, minimum of 0. Objects are written
with their properties in the order of the schema, and hold no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zhixing.core.errors import BadInput

ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "format",
     "deprecated", "readOnly", "writeOnly"}
)  # fmt: skip
"""Keywords that say nothing about what fits; `format` is a remark unless one asks for more."""

KNOWN = {
    "string": {"minLength", "maxLength"},
    "integer": {"minimum"},
    "number": {"minimum"},
    "boolean": set(),
    "null": set(),
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
}
"""Keywords of each type."""

STRING_LIMIT = 300
"""Characters of a string where the schema does not say how long it may be: a model that repeats itself must come to an
end."""
ARRAY_LIMIT = 100
"""Items of an array, likewise."""
MOST_NODES = 2000

Kind = Literal["string", "integer", "number", "literal", "object", "array", "any_of"]


@dataclass(eq=False)
class Node:
    """One place of a schema.

    Attributes:
        kind: What stands there.
        least: Characters or items at least.
        most: Characters or items at most.
        capped: The schema itself has no such bound: `most` is there for a model that repeats itself.
        negative: A number may be below zero.
        literals: The texts that fit, of `literal`.
        keys: Of an object: each property's text before its value (`"name": `), its node's number, whether it must be.
        parts: Of an array its items' node; of `any_of` the alternatives.
        shortest: The shortest JSON that fits, as far as is known.
    """

    kind: Kind
    least: int = 0
    most: int = 0
    capped: bool = False
    negative: bool = True
    literals: tuple[bytes, ...] = ()
    keys: tuple[tuple[bytes, int, bool], ...] = ()
    parts: tuple[int, ...] = ()
    shortest: bytes | None = field(default=None, compare=False)


class Schema:
    """A compiled schema: nodes by number, the first is the root."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def fits(self, value: Any, number: int = 0) -> bool:
        """Tells whether a value fits a node, the root when none is named."""
        node = self.nodes[number]
        match node.kind:
            case "literal":
                return _written(value) in node.literals
            case "string":
                return isinstance(value, str) and node.least <= len(value) <= node.most
            case "integer" | "number":
                return _is_of(value, node.kind) and (node.negative or value >= 0)
            case "any_of":
                return any(self.fits(value, part) for part in node.parts)
            case "array":
                if (
                    not isinstance(value, list)
                    or len(value) < node.least
                    or (len(value) > node.most and not node.capped)
                ):
                    return False
                return all(self.fits(item, node.parts[0]) for item in value)
        if not isinstance(value, dict):
            return False
        keys = {name: (part, needed) for name, part, needed in self.properties(number)}
        return all(name in value for name, (_, needed) in keys.items() if needed) and all(
            name in keys and self.fits(one, keys[name][0]) for name, one in value.items()
        )

    def properties(self, number: int) -> list[tuple[str, int, bool]]:
        """Returns the properties of an object in their order: name, number of the value's node, whether it must be."""
        return [(json.loads(key[:-2]), value, needed) for key, value, needed in self.nodes[number].keys]


def compile_schema(schema: Any, where: str | None = None) -> Schema:
    """Compiles a JSON schema.

    Args:
        schema: As read from JSON.
        where: Where it comes from, for messages.

    Raises:
        BadInput: A keyword is not supported, the schema is broken, or nothing fits it.
    """
    compiler = _Compiler(schema, where)
    compiler.node(schema, "#")
    nodes = compiler.nodes
    _find_shortest(nodes)
    if nodes[0].shortest is None:
        raise BadInput("no JSON can fit this schema: it asks for itself without end, or for nothing", where=where)
    return Schema(nodes)


class _Compiler:
    def __init__(self, schema: Any, where: str | None) -> None:
        self.root, self.where = schema, where
        self.nodes: list[Node] = []
        self._by_pointer: dict[str, int] = {}

    def fault(self, at: str, cause: str, remedy: str | None = None) -> BadInput:
        return BadInput(f"{at}: {cause}", where=self.where or "schema", remedy=remedy)

    def node(self, schema: Any, at: str) -> int:
        """Compiles the schema at a pointer; returns its number."""
        if at in self._by_pointer:
            return self._by_pointer[at]
        number = len(self.nodes)
        if number >= MOST_NODES:
            raise self.fault(at, f"more than {MOST_NODES} places: the schema is too large")
        self._by_pointer[at] = number
        self.nodes.append(Node("literal"))
        self.nodes[number] = self._compiled(schema, at)
        return number

    def _compiled(self, schema: Any, at: str) -> Node:
        if schema is False:
            raise self.fault(at, "false: nothing fits this place")
        if not isinstance(schema, Mapping):
            raise self.fault(at, f"a schema is an object, got {json.dumps(schema)[:60]}", "say which type is wanted")
        given = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
        for key in ("$ref", "anyOf", "oneOf", "allOf"):
            if key in given:
                if len(given) > 1 and not (key == "$ref" and set(given) == {"$ref"}):
                    others = ", ".join(sorted(set(given) - {key, "type"}))
                    if others:
                        raise self.fault(at, f"{key} beside {others} is not supported")
                return self._combined(key, given[key], at)
        if "const" in given:
            given["enum"] = [given.pop("const")]
        kinds = given.pop("type", None)
        if kinds is None and "enum" not in given:
            kinds = self._guessed(given, at)
        names = [kinds] if isinstance(kinds, str) else list(kinds or [])
        for name in names:
            if name not in KNOWN:
                raise self.fault(at, f"unknown type {name!r}", f"known: {', '.join(KNOWN)}")
        if "enum" in given:
            return self._enum(given, names, at)
        if len(names) > 1:
            parts = [self._part(schema, {**given, "type": name}, f"{at}/type/{name}") for name in names]
            return Node("any_of", parts=tuple(parts))
        self._refuse_unknown(given, names[0], at)
        return self._typed(given, names[0], at)

    def _part(self, schema: Mapping[str, Any], given: dict[str, Any], at: str) -> int:
        kept = {"type", *KNOWN[given["type"]]}
        every = set().union(*KNOWN.values())
        return self.node({key: value for key, value in given.items() if key in kept or key not in every}, at)

    def _guessed(self, given: Mapping[str, Any], at: str) -> str:
        if "properties" in given:
            return "object"
        if "items" in given:
            return "array"
        raise self.fault(at, "no type", 'say which is wanted: {"type": "string"}')

    def _refuse_unknown(self, given: Mapping[str, Any], kind: str, at: str) -> None:
        for key in given:
            if key not in KNOWN[kind]:
                raise self.fault(
                    at,
                    f"the keyword {key!r} of {kind} is not supported",
                    f"take it out; supported: {sorted(KNOWN[kind])}",
                )

    def _combined(self, key: str, value: Any, at: str) -> Node:
        if key == "$ref":
            return Node("any_of", parts=(self._referred(value, at),))
        if not isinstance(value, list) or not value:
            raise self.fault(at, f"{key} must be a list that is not empty")
        if key == "allOf" and len(value) > 1:
            raise self.fault(at, "allOf of several schemas is not supported", "write them as one")
        return Node("any_of", parts=tuple(self.node(one, f"{at}/{key}/{index}") for index, one in enumerate(value)))

    def _referred(self, pointer: Any, at: str) -> int:
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise self.fault(at, f"$ref {pointer!r} leads out of the schema", "copy what it names into $defs")
        schema: Any = self.root
        for name in pointer.removeprefix("#").strip("/").split("/") if pointer.strip("#/") else []:
            name = name.replace("~1", "/").replace("~0", "~")
            if isinstance(schema, list) and name.isdigit() and int(name) < len(schema):
                schema = schema[int(name)]
            elif isinstance(schema, Mapping) and name in schema:
                schema = schema[name]
            else:
                raise self.fault(at, f"$ref {pointer!r} names nothing")
        return self.node(schema, pointer if pointer != "#/" else "#")

    def _enum(self, given: Mapping[str, Any], names: list[str], at: str) -> Node:
        values = given["enum"]
        if not isinstance(values, list):
            raise self.fault(at, "enum must be a list")
        others = set(given) - {"enum"} - set().union(*KNOWN.values())
        if others:
            raise self.fault(at, f"the keyword {sorted(others)[0]!r} beside enum is not supported")
        fitting = [value for value in values if not names or any(_is_of(value, name) for name in names)]
        if not fitting:
            raise self.fault(at, f"nothing fits: no value of enum is of type {', '.join(names) or 'any'}")
        return Node("literal", literals=tuple(_written(value) for value in fitting))

    def _typed(self, given: Mapping[str, Any], kind: str, at: str) -> Node:
        if kind == "boolean":
            return Node("literal", literals=(b"true", b"false"))
        if kind == "null":
            return Node("literal", literals=(b"null",))
        if kind in ("integer", "number"):
            least = given.get("minimum")
            if least not in (None, 0):
                raise self.fault(at, f"minimum {least!r} is not supported, only 0", "check the value afterwards")
            return Node("integer" if kind == "integer" else "number", negative=least is None)
        if kind == "string":
            least, most = self._bounds(given, "minLength", "maxLength", STRING_LIMIT, at)
            return Node("string", least=least, most=most)
        if kind == "array":
            if "items" not in given:
                raise self.fault(at, "an array without items", 'say what is in it: {"items": {"type": "string"}}')
            least, most = self._bounds(given, "minItems", "maxItems", ARRAY_LIMIT, at)
            items = (self.node(given["items"], f"{at}/items"),)
            return Node("array", least=least, most=most, capped="maxItems" not in given, parts=items)
        return self._object(given, at)

    def _bounds(self, given: Mapping[str, Any], low: str, high: str, limit: int, at: str) -> tuple[int, int]:
        least, most = given.get(low, 0), given.get(high)
        for key, value in ((low, least), (high, most)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise self.fault(at, f"{key} must be a whole number of 0 or more, got {value!r}")
        if most is None:
            most = max(limit, least)
        if least > most:
            raise self.fault(at, f"nothing fits: {low} {least} is above {high} {most}")
        return least, most

    def _object(self, given: Mapping[str, Any], at: str) -> Node:
        properties, required = given.get("properties"), given.get("required", [])
        if not isinstance(properties, Mapping) or not properties:
            raise self.fault(
                at, "an object without properties", 'name them: {"properties": {"name": {"type": "string"}}}'
            )
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise self.fault(at, "required must be a list of names")
        if absent := [name for name in required if name not in properties]:
            raise self.fault(at, f"nothing fits: {absent[0]!r} is required but not among the properties")
        if given.get("additionalProperties", False) not in (False, True):
            raise self.fault(at, "additionalProperties with a schema is not supported", "name the properties")
        keys = tuple(
            (_written(name) + b": ", self.node(schema, f"{at}/properties/{name}"), name in required)
            for name, schema in properties.items()
        )
        return Node("object", keys=keys)


def _is_of(value: Any, name: str) -> bool:
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    kinds: dict[str, type] = {"string": str, "boolean": bool, "null": type(None), "object": dict, "array": list}
    return isinstance(value, kinds[name])


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8")


def _find_shortest(nodes: list[Node]) -> None:
    """Finds the shortest JSON of every node, those of recursive ones from those of others until nothing changes."""
    changed = True
    while changed:
        changed = False
        for node in nodes:
            found = _shortest(node, nodes)
            if found is not None and (node.shortest is None or len(found) < len(node.shortest)):
                node.shortest, changed = found, True


def _shortest(node: Node, nodes: list[Node]) -> bytes | None:
    if node.kind == "literal":
        return min(node.literals, key=len)
    if node.kind == "string":
        return b'"' + b"-" * node.least + b'"'
    if node.kind in ("integer", "number"):
        return b"0"
    parts = [nodes[part].shortest for part in node.parts]
    if node.kind == "any_of":
        return min((part for part in parts if part is not None), key=len, default=None)
    if node.kind == "array":
        if node.least == 0:
            return b"[]"
        return None if parts[0] is None else b"[" + b", ".join([parts[0]] * node.least) + b"]"
    inside = []
    for key, number, needed in node.keys:
        if needed:
            value = nodes[number].shortest
            if value is None:
                return None
            inside.append(key + value)
    return b"{" + b", ".join(inside) + b"}"

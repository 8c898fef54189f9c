"""Follows JSON byte by byte along a schema: which bytes may come next, and the shortest way to an end.

A stack says what is still to come, its last entry first. Several stacks are followed at once where what was read can
mean several things (the alternatives of anyOf, a number that may go on). Entries:

    ("literal", bytes)              these bytes
    ("value", node)                 a value of a node
    ("string", needed, left, utf8)  the rest of a string: characters it must have, may have, and the byte under way
    ("number", phase, digits, fractions)  the rest of a number
    ("object", node, next, begun)   further properties from the `next` one on
    ("array", node, count)          further items
"""

from __future__ import annotations

from typing import Any

from zhixing.generation.grammar.schema import Schema

Entry = tuple[Any, ...]
Stack = tuple[Entry, ...]
State = frozenset[Stack]
"""All stacks that fit what was read; the empty stack among them says that it may end here."""

MOST_DIGITS = 15
_ESCAPED = frozenset(b'"\\/bfnrt')
_LEADS = {
    **dict.fromkeys(range(194, 224), (1, 128, 191)),
    **dict.fromkeys(range(224, 240), (2, 128, 191)),
    **dict.fromkeys(range(240, 245), (3, 128, 191)),
    0xE0: (2, 0xA0, 0xBF), 0xED: (2, 0x80, 0x9F), 0xF0: (3, 0x90, 0xBF), 0xF4: (3, 0x80, 0x8F),
}  # fmt: skip
"""First bytes of characters in UTF-8: how many follow, and the bounds of the next one (RFC 3629)."""


class Machine:
    """Follows JSON along a schema.

    Args:
        schema: The compiled schema.
    """

    def __init__(self, schema: Schema) -> None:
        self.nodes = schema.nodes
        self.start: State = frozenset(self._opened((("value", 0),)))
        self._steps: dict[tuple[Stack, int], tuple[Stack, ...]] = {}

    def advance(self, state: State, byte: int) -> State:
        """Returns the state behind one more byte; the empty set when it may not come."""
        found: set[Stack] = set()
        for stack in state:
            key = (stack, byte)
            steps = self._steps.get(key)
            if steps is None:
                steps = tuple(found for moved in self._moved(stack, byte) for found in self._opened(moved))
                self._steps[key] = steps
            found.update(steps)
        return frozenset(found)

    def read(self, state: State, data: bytes) -> State:
        """Returns the state behind some bytes."""
        for byte in data:
            state = self.advance(state, byte)
            if not state:
                break
        return state

    def forget(self) -> None:
        """Lets the steps go that were worked out, when there are very many."""
        if len(self._steps) > 500_000:
            self._steps.clear()

    def _opened(self, stack: Stack) -> list[Stack]:
        """Returns the stacks that begin with bytes, for one that may begin with a place of the schema."""
        todo, done, seen = [stack], [], {stack}
        while todo:
            one = todo.pop()
            entry = one[-1] if one else None
            if entry is None or entry[0] in ("literal", "string") or (entry[0] == "number" and entry[1] in _UNENDED):
                done.append(one)
                continue
            if entry[0] == "number":  # it may end here
                done.append(one)
                following = [one[:-1]]
            elif entry[0] == "value":
                following = self._value(one[:-1], entry[1])
            elif entry[0] == "object":
                following = self._object(one[:-1], *entry[1:])
            else:
                following = self._array(one[:-1], *entry[1:])
            for new in following:
                if new not in seen:
                    seen.add(new)
                    todo.append(new)
        return done

    def _value(self, rest: Stack, number: int) -> list[Stack]:
        node = self.nodes[number]
        match node.kind:
            case "literal":
                return [(*rest, ("literal", text)) for text in node.literals]
            case "string":
                return [(*rest, ("string", node.least, node.most, ()), ("literal", b'"'))]
            case "integer" | "number":
                return [(*rest, ("number", "begin" if node.negative else "first", 0, node.kind == "number"))]
            case "any_of":
                return [(*rest, ("value", part)) for part in node.parts if self.nodes[part].shortest is not None]
            case "array":
                return [(*rest, ("array", number, 0), ("literal", b"["))]
        return [(*rest, ("object", number, 0, False), ("literal", b"{"))]

    def _object(self, rest: Stack, number: int, following: int, begun: bool) -> list[Stack]:
        keys, found = self.nodes[number].keys, []
        for index in range(following, len(keys)):
            key, value, needed = keys[index]
            if self.nodes[value].shortest is not None:
                text = b", " + key if begun else key
                found.append((*rest, ("object", number, index + 1, True), ("value", value), ("literal", text)))
            if needed:
                return found
        return [*found, (*rest, ("literal", b"}"))]

    def _array(self, rest: Stack, number: int, count: int) -> list[Stack]:
        node, found = self.nodes[number], []
        if count >= node.least:
            found.append((*rest, ("literal", b"]")))
        if count < node.most and self.nodes[node.parts[0]].shortest is not None:
            more: Stack = (*rest, ("array", number, count + 1), ("value", node.parts[0]))
            found.append((*more, ("literal", b", ")) if count else more)
        return found

    def _moved(self, stack: Stack, byte: int) -> list[Stack]:
        """Returns the stacks behind a byte, not opened yet."""
        if not stack:
            return []
        rest, entry = stack[:-1], stack[-1]
        if entry[0] == "literal":
            if entry[1][0] != byte:
                return []
            return [(*rest, ("literal", entry[1][1:])) if len(entry[1]) > 1 else rest]
        if entry[0] == "string":
            return _in_string(rest, byte, *entry[1:])
        return _in_number(rest, byte, *entry[1:])

    def ending(self, state: State) -> bytes:
        """Returns the shortest bytes that make what was read complete."""
        return min((b"".join(self._ended(entry) for entry in reversed(stack)) for stack in state), key=len)

    def _ended(self, entry: Entry) -> bytes:
        match entry[0]:
            case "literal":
                return bytes(entry[1])
            case "value":
                return bytes(self.nodes[entry[1]].shortest or b"")
            case "string":
                _, needed, _, pending = entry
                return bytes(_completed(pending) + b"-" * needed + b'"')
            case "number":
                return b"0" if entry[1] in _UNENDED else b""
            case "array":
                node = self.nodes[entry[1]]
                item = self.nodes[node.parts[0]].shortest or b""
                lacking = max(0, node.least - entry[2])
                return (b", " if entry[2] and lacking else b"") + b", ".join([item] * lacking) + b"]"
        _, number, following, begun = entry
        parts = [
            key + (self.nodes[value].shortest or b"")
            for key, value, needed in self.nodes[number].keys[following:]
            if needed
        ]
        inside: bytes = b", ".join(parts)
        return (b", " if begun and parts else b"") + inside + b"}"


def _in_string(rest: Stack, byte: int, needed: int, left: int, pending: tuple[Any, ...]) -> list[Stack]:
    def on(pending: tuple[Any, ...], counted: bool = False) -> list[Stack]:
        return [(*rest, ("string", max(0, needed - counted), left - counted, pending))]

    if pending == ("escape",):
        return on((), True) if byte in _ESCAPED else []
    if pending:
        more, low, high = pending
        if not low <= byte <= high:
            return []
        return on((more - 1, 0x80, 0xBF)) if more > 1 else on((), True)
    if byte == 0x22:
        return [rest] if needed == 0 else []
    if left == 0 or byte < 0x20 or byte == 0x7F:
        return []
    if byte == 0x5C:
        return on(("escape",))
    if byte < 0x80:
        return on((), True)
    return on(_LEADS[byte]) if byte in _LEADS else []


def _completed(pending: tuple[Any, ...]) -> bytes:
    if not pending:
        return b""
    if pending == ("escape",):
        return b"n"
    more, low = int(pending[0]), int(pending[1])
    return bytes([low, *([0x80] * (more - 1))])


_UNENDED = frozenset({"begin", "first", "point", "exponent", "signed"})
"""Phases of a number in which a digit must follow."""


def _in_number(rest: Stack, byte: int, phase: str, digits: int, fractions: bool) -> list[Stack]:
    def on(phase: str, digits: int = 0) -> list[Stack]:
        return [(*rest, ("number", phase, digits, fractions))]

    digit = 0x30 <= byte <= 0x39
    if phase == "begin" and byte == 0x2D:
        return on("first")
    if phase in ("begin", "first") and digit:
        return on("zero" if byte == 0x30 else "whole", 1)
    if phase == "whole" and digit:
        return on("whole", digits + 1) if digits < MOST_DIGITS else []
    if phase in ("zero", "whole") and byte == 0x2E and fractions:
        return on("point")
    if phase in ("point", "fraction") and digit:
        return on("fraction", digits + 1) if digits < MOST_DIGITS else []
    if phase in ("zero", "whole", "fraction") and byte in b"eE" and fractions:
        return on("exponent")
    if phase == "exponent" and byte in b"+-":
        return on("signed")
    if phase in ("exponent", "signed", "power") and digit:
        return on("power", digits + 1) if digits < 2 else []
    return []

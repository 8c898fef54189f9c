"""Calls of tools in a model's answer: the formats that models write, read into OpenAI's structure.

    {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Paris\"}"}}

Which tools there are is told to the model by its chat template (`tokenization.tool_schema`); nothing here calls them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

HERMES = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
"""Hermes, Qwen 2.5 and 3, SmolLM 2 and 3: JSON in tags, as often as wanted."""

MISTRAL = "[TOOL_CALLS]"
"""Mistral: a JSON list behind the token; newer ones write NAME[ARGS]{...} or NAME{...} behind a token each."""

MISTRAL_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*(\w+)\s*)?(?:\[ARGS\])?\s*(\{.*\})\s*", re.DOTALL)

LLAMA_PREFIX = "<|python_tag|>"
"""Llama 3.1 and later: the whole answer is one JSON object, sometimes behind this token, several with ; between."""


@dataclass(frozen=True)
class ParsedReply:
    """What an answer says and what it calls.

    Attributes:
        content: The text beside the calls.
        calls: The calls, in OpenAI's structure.
        notes: What looked like a call and could not be read, in sentences.
    """

    content: str
    calls: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


def parse_reply(text: str, names: Iterable[str] = (), first: int = 1) -> ParsedReply:
    """Reads the calls of tools in an answer.

    Args:
        text: The answer, special tokens included, without what ends it.
        names: The names of the tools that the model was told of. A bare JSON object counts as a call only when it
            names one of them: an answer may be JSON for other reasons.
        first: The number of the first call, for the ids.
    """
    stripped = text.strip()
    if "<tool_call>" in text:
        parts = [found[1] for found in HERMES.finditer(text)]
        content = HERMES.sub("", text).strip()
        read = [_objects(part) for part in parts]
    elif MISTRAL in text:
        content, *parts = (part.strip() for part in text.split(MISTRAL))
        read = [_named(part) or _objects(part) for part in parts]
    else:
        bare = stripped.removeprefix(LLAMA_PREFIX).strip()
        known = set(names)
        found = _objects(bare) or _separated(bare)
        if not found or not all(call.get("name") in known for call in found):
            return ParsedReply(text)
        content, parts, read = "", [bare], [found]
    calls: list[dict[str, Any]] = []
    broken: list[str] = []
    for part, objects in zip(parts, read, strict=True):
        made = [_call(value, first + len(calls) + place) for place, value in enumerate(objects or [])]
        if made and all(made):
            calls.extend(call for call in made if call)
        else:
            broken.append(part)
    if broken:
        content = text if not calls else "\n".join(filter(None, [content, *broken]))
    notes = tuple(f"the answer holds a call of a tool that cannot be read: {_short(part)}" for part in broken)
    return ParsedReply(content, tuple(calls), notes)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _objects(text: str) -> list[dict[str, Any]] | None:
    """Returns the JSON objects of a text that is one of them or a list; None when it is neither."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    values = value if isinstance(value, list) else [value]
    return values if values and all(isinstance(one, dict) for one in values) else None


def _separated(text: str) -> list[dict[str, Any]] | None:
    """Returns the objects of a text of several, with semicolons or line ends between."""
    decoder, place, found = json.JSONDecoder(), 0, []
    try:
        while place < len(text):
            value, place = decoder.raw_decode(text, place)
            found.append(value)
            while place < len(text) and text[place] in "; \n\r\t":
                place += 1
    except (ValueError, RecursionError):
        return None
    return found if all(isinstance(one, dict) for one in found) else None


def _named(text: str) -> list[dict[str, Any]] | None:
    found = MISTRAL_NAMED.fullmatch(text)
    arguments = _objects(found[3]) if found else None
    if found is None or arguments is None:
        return None
    return [{"name": found[1], "arguments": arguments[0], **({"id": found[2]} if found[2] else {})}]


def _call(value: dict[str, Any], number: int) -> dict[str, Any] | None:
    """Returns one call in OpenAI's structure; None when it has no name, or arguments that are none."""
    value = value["function"] if isinstance(value.get("function"), dict) else value
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        parsed = _objects(arguments)
        arguments = parsed[0] if parsed and len(parsed) == 1 else None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    given = value.get("id")
    # Nine letters and digits: what Mistral's templates ask for.
    identity = given if isinstance(given, str) and given else f"call{number:05d}"
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": identity, "type": "function", "function": function}


def for_template(messages: Sequence[Any]) -> list[Any]:
    """Returns messages in which the arguments of calls are objects, as chat templates expect them, and not JSON text as
    in OpenAI's protocol."""
    return [
        _with_objects(message) if isinstance(message, dict) and "tool_calls" in message else message
        for message in messages
    ]


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_object_call(call) for call in calls]}


def _object_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    parsed = _objects(function["arguments"])
    if parsed is None or len(parsed) != 1:
        return call
    return {**call, "function": {**function, "arguments": parsed[0]}}

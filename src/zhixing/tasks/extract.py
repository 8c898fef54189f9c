"""`extract`: key information as JSON that fits a schema, whatever the model is: it can write nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.core.files import hash_json, read_json
from zhixing.generation.grammar import JsonConstraint, compile_schema
from zhixing.generation.grammar.schema import Node, Schema
from zhixing.generation.grammar.tokens import TokenTree
from zhixing.tasks.base import TEXT, Row
from zhixing.tasks.prompting import LANGUAGES, language_of, load_prompt
from zhixing.tasks.writer import CHAT_MODEL, ChatWriter


@dataclass(frozen=True)
class Extracted:
    """What was found.

    Attributes:
        value: It fits the schema.
        parts: In how many parts the text was read.
        completed: Of how many parts the answer broke off and got the shortest end that fits.
        absent: Strings among the values that do not stand in the text: they may be invented.
    """

    value: Any
    parts: int = 1
    completed: int = 0
    absent: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        absent = list(self.absent)
        return {"prediction": self.value, "parts": self.parts, "completed": self.completed, "absent": absent}

    def __str__(self) -> str:
        return json.dumps(self.value, ensure_ascii=False)


def read_schema(schema: Mapping[str, Any] | str | Path) -> Any:
    """Returns a schema: as it is, from a file, or from fields in words.

    Args:
        schema: A JSON schema; the path of one; or fields as "name, age:integer, tags:[string]".

    Raises:
        BadInput: It is none of these.
    """
    if isinstance(schema, Mapping):
        return schema
    if isinstance(schema, str) and schema.lstrip().startswith("{"):  # before "/", which $ref has too
        try:
            return json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"not JSON: {error}", where="--schema") from error
    if isinstance(schema, Path) or str(schema).endswith(".json") or "/" in str(schema) or _is_file(str(schema)):
        return read_json(Path(schema))
    properties: dict[str, Any] = {}
    for field in str(schema).replace("，", ",").split(","):
        name, _, kind = (part.strip() for part in field.partition(":"))
        if not name or name in properties:
            raise BadInput(f"the field {name!r} is empty or there twice", where="--schema", remedy="name, age:integer")
        inner = kind[1:-1].strip() if kind.startswith("[") and kind.endswith("]") else None
        one = {"type": inner or kind or "string"}
        properties[name] = {"type": "array", "items": one} if inner is not None else one
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _is_file(name: str) -> bool:
    """Tells whether a text is the name of a file, and so not the name of a field; long lists of fields cannot be."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def schema_of(values: Sequence[Any]) -> dict[str, Any]:
    """Returns the narrowest schema that fits all of some values: types, and the keys that all objects have.

    Raises:
        BadInput: There is no value, or one that is no JSON.
    """
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_kind(value), []).append(value)
    if "integer" in kinds and "number" in kinds:
        kinds["number"] += kinds.pop("integer")
    found = [_schema_of_kind(kind, same) for kind, same in kinds.items()]
    if not found:
        raise BadInput("there is no value to find a schema from")
    return found[0] if len(found) == 1 else {"anyOf": found}


def _schema_of_kind(kind: str, values: Sequence[Any]) -> dict[str, Any]:
    if kind == "array":
        items = [item for value in values for item in value]
        return {"type": kind, "items": schema_of(items) if items else {"type": "string"}}
    if kind != "object":
        return {"type": kind}
    keys = dict.fromkeys(key for value in values for key in value)
    return {
        "type": kind,
        "properties": {key: schema_of([value[key] for value in values if key in value]) for key in keys},
        "required": [key for key in keys if all(key in value for value in values)],
        "additionalProperties": False,
    }


def _kind(value: Any) -> str:
    kinds = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    if isinstance(value, Mapping):
        return "object"
    if type(value) not in kinds:
        raise BadInput(f"{type(value).__name__} is no JSON")
    return kinds[type(value)]


class Extract:
    """The task `extract`.

    Args:
        schema: See `read_schema`.
        ref: A model that writes.
        prompt: A prompt file.
        max_tokens: Longest answer; None: as the prompt says.
        task: Whose prompt is taken.
        values: What stands for more names of the prompt.
        per_part: The schema is for each part of a long text; together they may hold more than it allows.

    Raises:
        BadInput: No JSON can fit the schema, or it uses what is not supported.
    """

    name = "extract"
    columns = (TEXT,)
    outputs = ("prediction", "parts", "completed", "absent")
    chunk = 8

    def __init__(
        self,
        schema: Mapping[str, Any] | str | Path,
        ref: str | Path = CHAT_MODEL,
        *,
        prompt: str | Path | None = None,
        max_tokens: int | None = None,
        task: str = "extract",
        values: Mapping[str, str] | None = None,
        per_part: bool = False,
    ) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise BadInput(f"at least one token must be allowed, got {max_tokens}", where="--max-tokens")
        self.schema = read_schema(schema)
        compiled = compile_schema(self.schema, str(schema) if isinstance(schema, Path) else None)
        self.prompts = {language: load_prompt(task, language, prompt) for language in LANGUAGES}
        self.max_tokens = max_tokens or max(one.max_tokens or 400 for one in self.prompts.values())
        self._values = {"schema": json.dumps(self.schema, ensure_ascii=False), **(values or {})}
        self.prompts["en"].messages({**self._values, "text": ""})
        self.writer = ChatWriter.open(ref)
        self._merging = None if per_part else compiled
        tree = TokenTree(self.writer.tokenizer, self.writer.network.config.vocab_size)
        self.constraint = JsonConstraint(compiled, tree, self.writer.ends)

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        prompts = [prompt.fingerprint() for prompt in self.prompts.values()]
        values = {"schema": hash_json(self.schema), "max_tokens": self.max_tokens, "values": self._values}
        return {"model": self.writer.fingerprint(), "prompts": prompts, **values}

    def run(self, rows: Sequence[Row]) -> list[Extracted]:
        """See `Task.run`."""
        cut, prompts = [], []
        for row in rows:
            prompt = self.prompts[language_of(row["text"])]
            parts = self.writer.parts(row["text"], prompt.messages({**self._values, "text": ""}), self.max_tokens)
            cut.append(parts)
            prompts += [self.writer.encode(prompt.messages({**self._values, "text": part})) for part in parts]
        answers = self.writer.write(prompts, max_tokens=self.max_tokens, processors=[self.constraint])
        read = iter([(self.constraint.completed(answer.text.strip())) for answer in answers])
        results = []
        for row, parts in zip(rows, cut, strict=True):
            found = [next(read) for _ in parts]
            value = _merged([json.loads(text) for text, _ in found], self._merging)
            absent = tuple(dict.fromkeys(text for text in _strings(value) if text not in row["text"]))
            results.append(Extracted(value, len(parts), sum(mended for _, mended in found), absent))
        return results


def _strings(value: Any) -> list[str]:
    """Returns all strings among the values of some JSON."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _strings(one)]


def _merged(values: Sequence[Any], schema: Schema | None = None, number: int = 0) -> Any:
    """Puts what the parts of one text gave together: lists are joined, of all else the first that says something.

    Args:
        values: What the parts gave, each of which fits the schema.
        schema: What all of it has to fit; None: nothing.
        number: The place in the schema.
    """
    first = next((value for value in values if value not in (None, "", [], {})), values[0])
    node = schema.nodes[number] if schema is not None else None
    if schema is not None and node is not None and node.kind == "any_of":
        chosen = next((part for part in node.parts if schema.fits(first, part)), None)
        if chosen is None:
            return first
        return _merged([value for value in values if schema.fits(value, chosen)], schema, chosen)
    if len(values) == 1 or not all(isinstance(value, type(values[0])) for value in values):
        return first
    if isinstance(first, list):
        joined: list[Any] = []
        for value in values:
            joined += [item for item in value if item not in joined]
        return first if node is not None and len(joined) < node.least else joined[: _most(node)]
    if isinstance(first, dict):
        keys: dict[str, int] = dict.fromkeys((key for value in values for key in value), 0)
        if schema is not None:  # in the order in which the schema has them
            keys = {name: part for name, part, _ in schema.properties(number) if name in keys}
        return {
            key: _merged([value[key] for value in values if key in value], schema, part) for key, part in keys.items()
        }
    return first


def _most(node: Node | None) -> int | None:
    """Returns how many items a list may have; None where the schema does not say."""
    return None if node is None or node.capped else node.most

"""Prompts as files: what a chat model is told for a task, in English and Chinese, for everybody to see and to edit.

A prompt file is YAML with the keys `system`, `user`, `examples` (each with the inputs and `answer`), `max_tokens` and
`description`. `{{text}}` and the other names of the task stand for what the row has; nothing else is replaced, so
braces of JSON stay as they are. The files that come with the package are in `tasks/prompts/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from zhixing.core.errors import BadInput, MissingResource, unknown_name
from zhixing.core.files import hash_json, os_fault

LANGUAGES = ("en", "zh")
KEYS = {"description", "system", "user", "examples", "max_tokens"}
MOST_BYTES = 1 << 20
READ = ("text", "passages", "question")
"""Names for what a row holds: a prompt without one of those that its task has would ask about nothing."""
_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Prompt:
    """What a chat model is told.

    Attributes:
        user: The message, with places for the inputs.
        system: The system prompt; "" for none.
        examples: Inputs, each with the answer, given as turns of a conversation.
        max_tokens: Longest answer; None: the task's own.
        where: The file.
    """

    user: str
    system: str = ""
    examples: tuple[Mapping[str, str], ...] = ()
    max_tokens: int | None = None
    where: str = ""

    def messages(self, values: Mapping[str, str]) -> list[dict[str, Any]]:
        """Returns the conversation that asks for an answer.

        Args:
            values: What stands for the names.

        Raises:
            BadInput: The prompt has a name that the task does not know, or none for what a row holds.
        """
        for name in READ:
            if name in values and name not in self.names() and self.names() <= set(values):
                raise BadInput(
                    f"the model would not see the {name}: {{{{{name}}}}} is not in the prompt",
                    where=self.where,
                    remedy=f"write {{{{{name}}}}} where it is to stand; zhixing prompts show classify.en shows how",
                )
        messages = [{"role": "system", "content": self._filled(self.system, values)}] if self.system else []
        for example in self.examples:
            messages.append({"role": "user", "content": self._filled(self.user, {**values, **example})})
            messages.append({"role": "assistant", "content": example["answer"]})
        return [*messages, {"role": "user", "content": self._filled(self.user, values)}]

    def _filled(self, text: str, values: Mapping[str, str]) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] not in values:
                raise unknown_name("name in a prompt", match[1], values, where=self.where)
            return values[match[1]]

        return _PLACE.sub(value, text)

    def names(self) -> set[str]:
        """Returns the names that the message and the system prompt ask for."""
        return set(_PLACE.findall(f"{self.system}\n{self.user}"))

    def fingerprint(self) -> str:
        """Returns a hash of what decides the conversation."""
        return hash_json([self.system, self.user, [dict(one) for one in self.examples], self.max_tokens])


@cache
def prompt_names() -> tuple[str, ...]:
    """Returns the names of the prompts that come with the package: "classify.en", ..."""
    folder = files("zhixing.tasks") / "prompts"
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


def prompt_text(name: str) -> str:
    """Returns the file of a prompt that comes with the package.

    Raises:
        BadInput: There is none of this name.
    """
    if name not in prompt_names():
        raise unknown_name("prompt", name, prompt_names())
    return (files("zhixing.tasks") / "prompts" / f"{name}.yaml").read_text(encoding="utf-8")


def language_of(text: str) -> str:
    """Returns the language whose prompt suits a text: "zh" when at least a fifth of its characters are Han."""
    sample = text[:2000]
    return "zh" if len(_HAN.findall(sample)) * 5 >= len(sample.strip()) > 0 else "en"


def load_prompt(task: str, language: str, path: str | Path | None = None) -> Prompt:
    """Returns the prompt of a task.

    Args:
        task: The task's name.
        language: "en" or "zh".
        path: A file of the user's own, instead.

    Raises:
        BadInput: The file is no prompt.
        MissingResource: There is no such file.
    """
    if path is None:
        name = f"{task}.{language}"
        return parse_prompt(prompt_text(name), f"{name}.yaml")
    path = Path(path)
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise BadInput("a prompt of more than 1 MB", where=str(path))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingResource(
            "no such prompt file", where=str(path), remedy=f"zhixing prompts copy {task}.{language} {path}"
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"not UTF-8 text (byte {error.start})", where=str(path)) from error
    except OSError as error:
        raise os_fault(error, path, "reading the prompt") from error
    return parse_prompt(text, str(path))


def parse_prompt(text: str, where: str) -> Prompt:
    """Reads a prompt file.

    Raises:
        BadInput: It is no YAML, has unknown keys or values of another kind, or no message.
    """
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"not YAML: {str(error).splitlines()[0]}", where=where) from error
    if not isinstance(values, dict):
        raise BadInput("a prompt is a mapping", where=where, remedy="see one with: zhixing prompts show classify.en")
    for key in values:
        if key not in KEYS:
            raise unknown_name("key", str(key), KEYS, where=where)
    for key in ("system", "user", "description"):
        if not isinstance(values.get(key, ""), str):
            raise BadInput(f"{key} is not a text", where=where)
    if not values.get("user", "").strip():
        raise BadInput("there is no message: the key 'user' is missing or empty", where=where)
    examples = values.get("examples") or []
    if not isinstance(examples, list) or not all(
        isinstance(one, dict) and "answer" in one and all(isinstance(value, str) for value in one.values())
        for one in examples
    ):
        raise BadInput("examples are a list of mappings of texts, each with an 'answer'", where=where)
    most = values.get("max_tokens")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise BadInput(f"max_tokens must be a whole number above 0, got {most!r}", where=where)
    return Prompt(values["user"].strip(), values.get("system", "").strip(), tuple(examples), most, where)


def parse_description(name: str) -> str:
    """Returns what a prompt that comes with the package says about itself."""
    return str(yaml.safe_load(prompt_text(name)).get("description", ""))

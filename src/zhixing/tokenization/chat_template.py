"""Chat templates: from messages to the text that a model was trained to read.

A model folder brings its own template, a jinja2 program; only that one is ever run, and only in the sandbox
(`template_sandbox`). Here: which of several templates is meant, what it is told, what its text is. How that text
becomes tokens, and what of it the assistant said, is in `chat_format`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from jinja2 import meta, nodes

from zhixing.core.errors import BadInput, unknown_name
from zhixing.tokenization.template_budget import MAX_DEPTH, Budget
from zhixing.tokenization.template_files import named_templates
from zhixing.tokenization.template_program import Program, compile_template
from zhixing.tokenization.template_sandbox import Sandbox
from zhixing.tokenization.tool_schema import Tool, tool_schemas

Message = Mapping[str, Any]
"""A message: "role", "content", and what else the template knows ("tool_calls", "name", "reasoning_content")."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names that a message's reasoning goes by; templates read the first or the second."""

NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Code points that no text uses, by which parts of a rendering are found again."""

Mark = Callable[[str, str | None], str]
"""Changes a text inside of a message before it is rendered: takes the text and the message's role (None for tools,
documents and options)."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a template wrote.

    Attributes:
        text: All of it.
        generations: The places, as (begin, end), that the template itself marks as the assistant's.
    """

    text: str
    generations: tuple[tuple[int, int], ...] = ()


class ChatTemplate:
    """The chat template of a model, or several by name ("default", "tool_use", "rag").

    Args:
        source: The template, or a mapping from names to templates, or a list of {"name", "template"} as some
            tokenizer_config.json files have it.
        special_tokens: What the template knows the special tokens by: "bos_token", "eos_token" and so on.
        where: The file it came from, for messages.

    Raises:
        BadInput: A template is broken or too long, or there is none.
    """

    def __init__(
        self,
        source: str | Mapping[str, str] | Sequence[Mapping[str, str]],
        special_tokens: Mapping[str, str] | None = None,
        where: str | None = None,
    ) -> None:
        self.sources = named_templates(source, where)
        self.special_tokens = dict(special_tokens or {})
        self.where = where
        self._codes = {name: self._compiled(name) for name in self.sources}
        self._idle: dict[str, list[Program]] = {name: [] for name in self.sources}
        self._parts: dict[str, tuple[frozenset[str], str]] = {}

    def _compiled(self, name: str) -> CodeType:
        try:
            return compile_template(self.sources[name])
        except BadInput as error:
            raise BadInput(error.cause, where=self._place(name), remedy="mend the template") from error

    def _place(self, name: str) -> str | None:
        return self.where if len(self.sources) == 1 or self.where is None else f"{self.where}, template {name!r}"

    def choose(self, name: str | None = None, *, tools: bool = False, documents: bool = False) -> str:
        """Returns the name of the template that is meant: the given one, else the one made for tools or documents.

        Raises:
            BadInput: There is no such template, or none for this purpose.
        """
        if name is not None:
            if name not in self.sources:
                raise unknown_name("chat template", name, self.sources, where=self.where)
            return name
        if len(self.sources) == 1:
            return next(iter(self.sources))
        wanted = ["tool_use"] if tools else ["rag"] if documents else []
        for candidate in (*wanted, "default"):
            if candidate in self.sources:
                return candidate
        raise BadInput(
            "the model has several chat templates and none is the default",
            where=self.where,
            remedy=f"name one of them: {', '.join(sorted(self.sources))}",
        )

    def _parsed(self, name: str) -> tuple[frozenset[str], str]:
        """Returns the variables that a template asks for, and the texts that it may write, separated by NUL."""
        if name not in self._parts:
            tree = Sandbox().parse(self.sources[name])
            texts = [node.data for node in tree.find_all(nodes.TemplateData)]
            texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
            self._parts[name] = frozenset(meta.find_undeclared_variables(tree)), "\0".join(texts)
        return self._parts[name]

    def uses(self, variable: str, name: str | None = None) -> bool:
        """Tells whether a template asks for a variable, such as "tools" or "documents"."""
        return variable in self._parsed(self.choose(name))[0]

    def literal_text(self, name: str | None = None) -> str:
        """Returns all texts that stand in the template itself, separated by NUL."""
        return self._parsed(self.choose(name))[1]

    @property
    def marks_generations(self) -> bool:
        """Whether the template marks by itself what the assistant says."""
        return any(re.search(r"\{%-?\s*generation\s*-?%\}", source) for source in self.sources.values())

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        name: str | None = None,
        mark: Mark | None = None,
        **variables: Any,
    ) -> Rendering:
        """Renders a conversation.

        Args:
            messages: In their order; at least one.
            tools: What the model may call, as JSON schemas or functions.
            documents: What it may look up, each with "title" and "text".
            add_generation_prompt: End with what begins an answer.
            continue_final_message: Leave the last message open, so that the model goes on with it.
            name: Which of several templates; chosen by what is given when None.
            mark: Changes texts on their way in; see `chat_format`.
            **variables: What else the template asks for (`enable_thinking=False`).

        Raises:
            BadInput: The messages have a wrong form, the template refuses them, fails, or costs too much; or it has no
                place for tools or documents that were given.
        """
        if continue_final_message and add_generation_prompt:
            raise BadInput("the last message cannot be gone on with and answered at once", remedy="ask for one of both")
        copier = _Copier(mark)
        conversation = copier.messages(messages)
        given: dict[str, Any] = {
            "tools": copier.copy(tool_schemas(tools), "tools", None),
            "documents": copier.copy(_documents(documents), "documents", None),
        }
        chosen = self.choose(name, tools=bool(tools), documents=bool(documents))
        for key, value in given.items():
            if value and not self.uses(key, chosen):
                raise BadInput(
                    f"this model's chat template has no place for {key}: the model would never see them",
                    where=self._place(chosen),
                    remedy=f"leave the {key} out, put them into a message, or use a model that was trained for them",
                )
        tag = _open_final_message(conversation) if continue_final_message else None
        values = {
            **self.special_tokens,
            **{key: copier.copy(value, key, None) for key, value in variables.items()},
            **given,
            "messages": conversation,
            "add_generation_prompt": add_generation_prompt,
        }
        text, generations = self._run(chosen, values, copier.characters)
        if tag is not None:
            text = _cut_at(tag, text)
        return Rendering(text, tuple(generations))

    def _run(self, name: str, values: Mapping[str, Any], characters: int) -> tuple[str, list[tuple[int, int]]]:
        idle = self._idle[name]
        try:
            program = idle.pop()  # every thread renders in a sandbox of its own
        except IndexError:
            program = Program(self._codes[name])
        try:
            return program.run(values, Budget(characters))
        except BadInput as error:
            raise type(error)(error.cause, where=self._place(name)) from error
        finally:
            idle.append(program)


def _documents(documents: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]] | None:
    if documents is None:
        return None
    if isinstance(documents, str | Mapping) or not all(isinstance(document, Mapping) for document in documents):
        raise BadInput('documents must be a list of mappings, each with "title" and "text"', where="documents")
    return list(documents)


class _Copier:
    """Copies what a user gives into plain values of Python, and counts its size: a template shall meet no object that
    can do something.

    Args:
        mark: Applied to every text.
    """

    def __init__(self, mark: Mark | None) -> None:
        self._mark = mark
        self.characters = 0

    def messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Returns plain messages: without keys that are None, and with their reasoning under each of its names."""
        if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
            raise BadInput('messages must be a list of {"role": ..., "content": ...}', where="messages")
        if not messages:
            raise BadInput("there are no messages", remedy='give at least {"role": "user", "content": "..."}')
        return [self._message(message, f"messages[{index}]") for index, message in enumerate(messages)]

    def _message(self, message: object, where: str) -> dict[str, Any]:
        if not isinstance(message, Mapping):
            raise BadInput(f"a message is a mapping with role and content, got a {type(message).__name__}", where=where)
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise BadInput(f"a message needs a role, got {role!r}", where=where, remedy='"user", for example')
        values = {key: value for key, value in message.items() if value is not None}
        copied: dict[str, Any] = self.copy(values, where, role)
        reasoning = next((copied[key] for key in REASONING if copied.get(key) is not None), None)
        if reasoning is not None:
            copied = {"thinking": reasoning, **copied, "reasoning_content": reasoning}
        return copied

    def copy(self, value: Any, where: str, role: str | None, depth: int = 0) -> Any:
        """Returns a plain copy of a value.

        Raises:
            BadInput: It is nested too deep, or something else than texts, numbers, lists and mappings.
        """
        self.characters += 8
        if isinstance(value, str):
            self.characters += len(value)
            text = str.__str__(value)
            return text if self._mark is None else self._mark(text, role)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if depth >= MAX_DEPTH // 2:  # a template may put a few lists of its own around it
            raise BadInput(f"nested more than {MAX_DEPTH // 2} deep", where=where)
        if isinstance(value, Mapping):
            return {
                self._key(key, where, role): self.copy(part, f"{where}.{key}", role, depth + 1)
                for key, part in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.copy(part, f"{where}[{index}]", role, depth + 1) for index, part in enumerate(value)]
        raise BadInput(
            f"a {type(value).__name__} cannot be shown to a chat template",
            where=where,
            remedy="give texts, numbers, true, false, lists and mappings, as JSON has them",
        )

    def _key(self, key: object, where: str, role: str | None) -> str:
        if not isinstance(key, str):
            raise BadInput(f"the key {key!r} is not a text", where=where)
        self.characters += len(key)
        return key if self._mark is None else self._mark(key, role)


def _open_final_message(messages: list[dict[str, Any]]) -> str:
    """Puts a tag behind the last message's text, at which the rendering will be cut; returns the tag."""
    final = messages[-1]
    content = final.get("content")
    if isinstance(content, list):
        block = next((part for part in reversed(content) if isinstance(part, dict) and "text" in part), None)
        holder, key = block, "text"
    else:
        holder, key = final, "content"
    if holder is None or not isinstance(holder.get(key), str):
        raise BadInput("the last message has no text to go on with", where=f"messages[{len(messages) - 1}]")
    tag = f"{unused(NONCHARACTERS, holder[key])} "  # the space shows whether the template trims what it writes
    holder[key] += tag
    return tag


def _cut_at(tag: str, text: str) -> str:
    place = text.rfind(tag[0])
    if place < 0:
        raise BadInput("the chat template leaves the last message out, so nothing can go on with it")
    return text[:place] if text.startswith(tag, place) else text[:place].rstrip()


def unused(candidates: Sequence[str], text: str) -> str:
    """Returns the first of several characters that a text does not hold.

    Raises:
        BadInput: It holds all of them.
    """
    for candidate in candidates:
        if candidate not in text:
            return candidate
    raise BadInput("the text uses every code point that is reserved for no use", remedy="remove U+FDD0 to U+FDEF")

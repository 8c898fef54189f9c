"""Conversations in files: JSON with the messages as OpenAI's protocol has them.

    {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello"}], "tools": [...]}

A bare list of messages is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.core.files import atomic_write, os_fault, read_json
from zhixing.tokenization.tool_schema import Tool, tool_schemas
from zhixing.tokenization.utf8 import utf8_size

MAX_BYTES = 256_000_000


def write_conversation(
    path: Path, messages: Sequence[Mapping[str, Any]], *, model: str = "", tools: Sequence[Tool] | None = None
) -> None:
    """Writes a conversation; what was in the file is replaced at once or not at all.

    Args:
        path: The file.
        messages: The conversation.
        model: Whom it was with.
        tools: What the model could call.

    Raises:
        MissingResource: The file cannot be written.
        BadInput: A message holds half a character.
    """
    content: dict[str, Any] = {"model": model, "messages": list(messages)}
    if tools:
        content["tools"] = tool_schemas(tools)
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    utf8_size(text)
    if not path.parent.is_dir():
        raise os_fault(FileNotFoundError(2, "no such folder"), path.parent, "saving the conversation")
    atomic_write(path, text)


def read_conversation(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Returns the messages and the tools of a file.

    Raises:
        MissingResource: There is no such file.
        BadInput: It is not a conversation.
    """
    content = _read(path)
    messages = content.get("messages") if isinstance(content, dict) else content
    if not isinstance(messages, list):
        raise BadInput("not a conversation: no list of messages", where=str(path), remedy=FORM)
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadInput("not a message with a role", where=f"{path}: messages[{index}]", remedy=FORM)
    return messages, _tools(content.get("tools"), path) if isinstance(content, dict) else None


FORM = 'write it as {"messages": [{"role": "user", "content": "Hello"}]}'


def read_tools(path: Path) -> list[dict[str, Any]]:
    """Returns the tools of a file: a list of JSON schemas, or {"tools": [...]}.

    Raises:
        MissingResource: There is no such file.
        BadInput: It holds something else.
    """
    content = _read(path)
    tools = _tools(content.get("tools", content) if isinstance(content, dict) else content, path)
    if not tools:
        raise BadInput("no tools in this file", where=str(path), remedy="write a JSON list of tools' schemas")
    return tools


def _tools(tools: Any, path: Path) -> list[dict[str, Any]] | None:
    if tools is not None and not isinstance(tools, list):
        raise BadInput("the tools are not a list", where=str(path), remedy="write a JSON list of tools' schemas")
    try:
        return tool_schemas(tools)
    except BadInput as error:
        raise BadInput(error.cause, where=f"{path}: {error.where}", remedy=error.remedy) from error


def _read(path: Path) -> Any:
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise BadInput(f"more than {MAX_BYTES // 1_000_000} MB: no conversation is so long", where=str(path))
    return read_json(path)

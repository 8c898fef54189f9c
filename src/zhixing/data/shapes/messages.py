"""Turns of conversations as files write them: OpenAI's role and content, ShareGPT's from and value, calls of tools."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from zhixing.data.shapes.records import Message, Misfit, Role, ToolCall, brief

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
    "系统": "system",
    "用户": "user",
    "助手": "assistant",
}
"""Names that roles go by."""
CALL_ROLES = frozenset({"function_call", "tool_call"})
"""Turns that are nothing but calls by the assistant, as JSON in their text."""
ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text")


def meant_role(name: str) -> str | None:
    """Returns the role that a misspelled name means, None where it may mean none or several."""
    near = difflib.get_close_matches(name.strip().lower(), ["system", "user", "assistant", "human"], n=2, cutoff=0.75)
    return near[0] if len(near) == 1 else None


def looks_like_messages(value: Any) -> bool:
    """Tells whether a value is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and any(key in turn for key in ROLE_KEYS) for turn in value[:4])
    )


def parse_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Reads a list of turns.

    Args:
        value: What the file holds.
        where: The name of the field, for messages.

    Raises:
        Misfit: It is not a list of turns, or one of them has no known role or no text.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = _json(value, where)
    if isinstance(value, Mapping):
        value = [value]
    if value is not None and not isinstance(value, str | Sequence):
        raise Misfit(f"{where} is {brief(value)}, and not a text", "write it in quotation marks")
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Misfit(f"{where} is {brief(value)}", 'a list of turns is expected: [{"role": "user", "content": ...}]')
    return tuple(_message(turn, f"{where}[{number}]") for number, turn in enumerate(value))


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise Misfit(f"{where} is {brief(turn)}", 'a turn is an object with "role" and "content"')
    role_key = next((key for key in ROLE_KEYS if key in turn), None)
    if role_key is None:
        raise Misfit(f"{where} has no role, only {brief(list(turn))}", 'add "role": "user" or "assistant"')
    named = turn[role_key]
    key = str(named).strip().lower() if isinstance(named, str) else ""
    content_key = next((name for name in CONTENT_KEYS if turn.get(name) is not None), None)
    content = _content(turn[content_key], f"{where}.{content_key}") if content_key else ""
    calls = _calls(turn, where)
    if key in CALL_ROLES:
        return Message("assistant", "", _parse_calls(content, where))
    if key not in ROLES:
        guess = meant_role(key)
        hint = f"did you mean {guess}? " if guess else ""
        raise Misfit(f"{where} has the role {brief(named)}", f"{hint}roles are system, user, assistant and tool")
    role = ROLES[key]
    if content_key is None and not calls:
        raise Misfit(f"{where} has no text, only {brief(list(turn))}", 'add "content"')
    name = turn.get("name")
    call_id = turn.get("tool_call_id")
    return Message(
        role,
        content,
        calls,
        call_id if isinstance(call_id, str) else "",
        name if isinstance(name, str) else "",
    )


def _content(value: Any, where: str) -> str:
    """Returns the text of a turn; OpenAI's list of parts may hold nothing but text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = []
        for part in value:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
                parts.append(part["text"])
            else:
                raise Misfit(f"{where} holds {brief(part)}", "only text is read: leave out pictures and sound")
        return "".join(parts)
    raise Misfit(f"{where} is {brief(value)}", "a text is expected")


def _calls(turn: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:
    if turn.get("tool_calls"):
        listed = turn["tool_calls"]
        if not isinstance(listed, list):
            raise Misfit(f"{where}.tool_calls is {brief(listed)}", "a list of calls is expected")
        return tuple(_call(call, f"{where}.tool_calls[{k}]") for k, call in enumerate(listed))
    if turn.get("function_call"):
        return (_call(turn["function_call"], f"{where}.function_call"),)
    return ()


def _parse_calls(text: str, where: str) -> tuple[ToolCall, ...]:
    value = _json(text, where)
    listed = value if isinstance(value, list) else [value]
    return tuple(_call(call, where) for call in listed)


def _call(value: Any, where: str) -> ToolCall:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Misfit(f"{where} is {brief(value)}", 'a call is {"name": ..., "arguments": {...}}')
    if not function["name"].strip():
        raise Misfit(f"{where} calls a tool without a name", "write the tool's name, or leave the call out")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{where}.arguments") if arguments.strip() else {}
    if not isinstance(arguments, Mapping):
        raise Misfit(f"{where}.arguments is {brief(arguments)}", "an object is expected: {...}")
    identity = value.get("id")
    return ToolCall(function["name"], dict(arguments), identity if isinstance(identity, str) else "")


def parse_tools(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    """Reads the tools of a conversation: a list of JSON schemas, or such a list as text.

    Raises:
        Misfit: It is something else.
    """
    if value in (None, "", []):
        return ()
    if isinstance(value, str):
        value = _json(value, where)
    listed = value if isinstance(value, list) else [value]
    tools: list[Mapping[str, Any]] = []
    for number, tool in enumerate(listed):
        if isinstance(tool, str):
            tool = _json(tool, f"{where}[{number}]")
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise Misfit(f"{where}[{number}] is {brief(tool)}", 'a tool is {"name": ..., "parameters": {...}}')
        tools.append(tool if "function" in tool else {"type": "function", "function": dict(inner)})
    return tuple(tools)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Misfit(f"{where} is not JSON: {brief(text)}", f"mend it: {error}") from None


def check_chat(messages: Sequence[Message], where: str) -> None:
    """Makes sure that a conversation can be learnt from.

    Raises:
        Misfit: The assistant says nothing in it.
    """
    for message in messages:
        if message.role == "assistant" and (message.content.strip() or message.calls):
            return
    if any(message.role == "assistant" for message in messages):
        raise Misfit(f"{where}: every turn of the assistant's is empty", "write the answer, or leave the record out")
    raise Misfit(
        f"{where}: there is no turn of the assistant's, only {brief([m.role for m in messages])}",
        "add the answer, or leave the record out",
    )

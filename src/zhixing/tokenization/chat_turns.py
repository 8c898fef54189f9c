"""What of a rendered conversation the assistant said: found by rendering parts of it, for any template.

A turn is what comes between the prompt before it (the conversation so far, with what begins an answer) and the end
of the conversation that includes it. Where a template renders earlier messages differently once later ones follow, the
turn is found by exchanging its message for another and looking where the text differs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.tokenization.chat_template import NONCHARACTERS, ChatTemplate, Mark, Message

Span = tuple[int, int]
"""A place in a text: begin and end, in characters."""

PROBE = NONCHARACTERS[-1]
"""A message that no other text is equal to."""

TAILS = range(32, 3, -1)
"""So many characters at the end of a prompt tell where it ends, the more the better."""


class Renderer:
    """One way of rendering: a template with all options but the messages.

    Args:
        template: The template.
        options: What else it is given: tools, documents, variables.
        mark: Changes texts on their way in.
    """

    def __init__(self, template: ChatTemplate, options: Mapping[str, Any], mark: Mark | None = None) -> None:
        self._template, self._options, self._mark = template, options, mark

    def shown(self, text: str, role: str) -> str:
        """Returns a text as it goes into the template."""
        return text if self._mark is None else self._mark(text, role)

    def __call__(self, messages: Sequence[Message], prompt: bool = False) -> str | None:
        """Returns the text, or None when the template does not take these messages."""
        try:
            return self._template.render(messages, add_generation_prompt=prompt, mark=self._mark, **self._options).text
        except BadInput:
            return None


def text_after_answer(renderer: Renderer) -> str:
    """Returns what a template writes behind an answer at the end of a conversation; "" when that cannot be seen."""
    text = renderer([{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}])
    return "" if text is None else text.rpartition(PROBE)[2]


def first_control(text: str, control: Sequence[str]) -> str | None:
    """Returns the token that a text begins with, blanks aside; the longest where several fit."""
    fitting = [name for name in control if text.lstrip().startswith(name)]
    return max(fitting, key=len, default=None)


def assistant_turns(
    messages: Sequence[Message], text: str, renderer: Renderer, control: Sequence[str]
) -> tuple[Span, ...]:
    """Returns the places of all turns of the assistant, each with the token that ends it.

    Args:
        messages: The conversation.
        text: Its rendering.
        renderer: How it was rendered.
        control: The tokens that may end a turn.

    Raises:
        BadInput: The place of a turn cannot be told from this template.
    """
    ending = first_control(text_after_answer(renderer), control)
    turns: list[Span] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        least = turns[-1][1] if turns else 0
        turn = _by_prefixes(messages, index, text, renderer, ending) or _by_exchange(
            messages, index, text, renderer, ending
        )
        if turn is None or turn[0] < least:
            raise BadInput(
                "what the assistant says here cannot be told from what the chat template writes around it",
                where=f"messages[{index}]",
                remedy="mark it in the template with {% generation %} ... {% endgeneration %}",
            )
        turns.append(_with_ending(turn, text, ending))
    return tuple(turns)


def _by_prefixes(
    messages: Sequence[Message], index: int, text: str, renderer: Renderer, ending: str | None
) -> Span | None:
    """The turn lies between the prompt before it and the conversation that ends with it, if both begin the text."""
    before = renderer(messages[:index], prompt=True) if index else None
    after = text if index == len(messages) - 1 else renderer(messages[: index + 1])
    if before is None or after is None or not text.startswith(before):
        return None
    begin, end = len(before), common_length(after, text)
    # Some templates close a conversation with a token that is not there when it goes on: the turn has ended before.
    whole = end == len(after) or (ending is not None and ending in text[begin:end])
    if end < begin or not whole:
        return None
    content = messages[index].get("content")
    if isinstance(content, str) and not messages[index].get("tool_calls"):
        whole = renderer.shown(_last_word(content), "assistant") in text[begin:end]
    return (begin, end) if whole else None


def _last_word(content: str) -> str:
    """Returns the last word of a content: templates trim, and drop what is before it, but never this."""
    return (content.split() or [""])[-1]


def _by_exchange(
    messages: Sequence[Message], index: int, text: str, renderer: Renderer, ending: str | None
) -> Span | None:
    """The turn is where the text differs from that of a conversation in which something else was said."""
    other = renderer([*messages[:index], {"role": "assistant", "content": PROBE}, *messages[index + 1 :]])
    calls = messages[index].get("tool_calls")
    if other is not None or not calls:
        return _difference(text, other)
    # Results of tools must follow a call: another one is made, and the turn begins where the prompt before it ends.
    other = renderer([*messages[:index], _other_call(messages[index]), *messages[index + 1 :]])
    found, prompt = _difference(text, other), renderer(messages[:index], prompt=True)
    end = -1 if found is None or ending is None else text.find(ending, found[1])
    if found is None or not prompt or end < 0:
        return None
    for length in TAILS:
        place = text.rfind(prompt[-length:], 0, found[0])
        if place >= 0:
            return place + len(prompt[-length:]), end
    return None


def _other_call(message: Message) -> Message:
    """Returns a message that calls tools of another name."""
    calls = [
        {**call, "function": {**call["function"], "name": PROBE}} if "function" in call else {**call, "name": PROBE}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _difference(text: str, other: str | None) -> Span | None:
    if other is None or PROBE not in other:
        return None
    begin = common_length(text, other)
    return begin, len(text) - common_length(text[begin:][::-1], other[begin:][::-1])


def common_length(first: str, second: str) -> int:
    """Returns how many characters two texts begin with alike."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _with_ending(turn: Span, text: str, ending: str | None) -> Span:
    """Moves the end of a turn to just behind the token that ends it: what the model is to write, and no more."""
    if ending is None:
        return turn
    begin, end = turn
    token = re.compile(f"(?<![{NONCHARACTERS[0]}-{NONCHARACTERS[-1]}]){re.escape(ending)}")  # in fences it is data
    inside = [found.end() for found in token.finditer(text, begin, end)]
    if inside:
        return begin, inside[-1]
    behind = token.search(text, end)
    return (begin, behind.end()) if behind and not text[end : behind.start()].strip() else turn

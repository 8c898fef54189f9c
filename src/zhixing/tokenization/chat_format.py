"""A conversation as tokens: the model's chat template and its tokenizer together.

What a template writes is a program's text, in which "<|im_end|>" is a special token; what a user writes is data, in
which it is ten characters. Both come out as one string, so data that looks like a special token is fenced (`fences`).

Here: tokens, which of them the assistant wrote (for training), and the tokens that end an answer. The rendering itself
is in `chat_template`, the finding of turns in `chat_turns`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as Backend

from zhixing.core.errors import BadInput
from zhixing.tokenization import definition as definitions
from zhixing.tokenization.chat_template import ChatTemplate, Message
from zhixing.tokenization.chat_turns import Renderer, Span, assistant_turns, first_control, text_after_answer
from zhixing.tokenization.fences import Fences
from zhixing.tokenization.tokenizer import Tokenizer

TAG = re.compile(r"</?[a-z_]+>")
"""Tokens such as <think>: a model writes them inside an answer, so the assistant's text may hold them."""


@dataclass(frozen=True)
class EncodedChat:
    """A conversation as the model reads it.

    Attributes:
        text: What the template wrote.
        tokens: The same as token ids.
        turns: Where in `text` the assistant's turns are, as (begin, end), with the token that ends each of them; empty
            when they were not asked for.
        assistant: For each token whether the assistant wrote it; None when it was not asked for.
        notes: What the user should know, in sentences.
    """

    text: str
    tokens: list[int]
    turns: tuple[Span, ...] = ()
    assistant: list[bool] | None = None
    notes: tuple[str, ...] = ()


class ChatFormat:
    """How one model is talked to.

    Args:
        tokenizer: The model's tokenizer.
        template: Its chat template; None for the tokenizer's own.

    Raises:
        BadInput: The model has no chat template, or a broken one.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None = None) -> None:
        if template is None:
            if tokenizer.chat_templates is None:
                raise BadInput(
                    "this model has no chat template: it was not published for conversations",
                    remedy="write on from a text instead: zhixing generate, or zhixing chat --plain",
                )
            template = ChatTemplate(tokenizer.chat_templates, tokenizer.roles)
        self.tokenizer, self.template = tokenizer, template
        self._fenced: dict[Fences, Backend] = {}

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """The tokens that only a template may write: the special ones, and added ones that its own text spells out."""
        literal = "\0".join(self.template.literal_text(name) for name in self.template.sources)
        names = [
            token["content"]
            for token in self.tokenizer.definition["added_tokens"]
            if token.get("special") or (token["content"] in literal and not token["content"].isspace())
        ]
        return {name: self.tokenizer.vocabulary[name] for name in names if name}

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """What looks like a control token in any text, and in the assistant's."""
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        return _any_of(longest_first), _any_of([name for name in longest_first if not TAG.fullmatch(name)])

    def _pattern(self, role: str | None) -> re.Pattern[str]:
        return self._patterns[role == "assistant"]

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token that the template puts behind an answer, or None when it is not a token of its own."""
        name = first_control(text_after_answer(Renderer(self.template, {})), list(self.control_tokens))
        return None if name is None else self.control_tokens[name]

    def end_tokens(self, known: Sequence[int] = ()) -> tuple[int, ...]:
        """Returns all tokens that end an answer: the given ones, the tokenizer's end of text, the end of a turn."""
        more = (self.tokenizer.end_of_text_id, self.end_of_turn)
        return tuple(dict.fromkeys([*known, *(token for token in more if token is not None)]))

    def mentions(self, key: str) -> bool:
        """Tells whether the template reads a key of messages, as far as its text shows."""
        return any(key in source for source in self.template.sources.values())

    def takes(self, variable: str) -> bool:
        """Tells whether a template asks for a variable, such as "enable_thinking"."""
        return any(self.template.uses(variable, name) for name in self.template.sources)

    def render(self, messages: Sequence[Message], **options: Any) -> str:
        """Returns what the template writes; see `ChatTemplate.render` for the options."""
        return self.template.render(messages, **options).text

    def encode(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        assistant_mask: bool = False,
        **options: Any,
    ) -> EncodedChat:
        """Renders a conversation and returns its tokens. The template alone decides about begin and end tokens.

        Args:
            messages: In their order.
            add_generation_prompt: End with what begins an answer.
            continue_final_message: Leave the last message open.
            assistant_mask: Also say which tokens the assistant wrote.
            **options: What else the template takes: tools, documents, name, variables; see `ChatTemplate.render`.

        Raises:
            BadInput: As `ChatTemplate.render`; or it cannot be told what the assistant wrote; or the tokenizer makes a
                special token of plain text.
        """
        ending: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
        }
        seen, used = set[str](), set[str]()

        def look(text: str, role: str | None) -> str:
            seen.update(self._pattern(role).findall(text))
            used.update(text)
            return text

        rendering = self.template.render(messages, mark=look, **ending, **options)
        fences, mark = None, None
        notes: tuple[str, ...] = ()
        if seen:
            fences, plain = Fences.outside(used), rendering.text
            mark = fences.around(self._pattern)
            rendering = self.template.render(messages, mark=mark, **ending, **options)
            notes = (f"{', '.join(map(repr, sorted(seen)))} in a message was read as plain text",)
            if fences.without(rendering.text) != plain:
                notes += ("the chat template itself changes texts that look like special tokens",)
        turns = rendering.generations
        if assistant_mask and not turns:
            turns = assistant_turns(
                messages, rendering.text, Renderer(self.template, options, mark), list(self.control_tokens)
            )
        return self._encoded(rendering.text, fences, turns if assistant_mask else None, notes)

    def _encoded(
        self, rendered: str, fences: Fences | None, turns: tuple[Span, ...] | None, notes: tuple[str, ...]
    ) -> EncodedChat:
        if fences is None:
            if turns is None:
                return EncodedChat(rendered, self.tokenizer.encode(rendered, parse_special=True), notes=notes)
            tokens, offsets = self.tokenizer.encode_with_offsets(rendered, parse_special=True)
            return EncodedChat(rendered, tokens, turns, _covered(offsets, turns), notes)
        prepared = fences.prepare(rendered, self._patterns[0])
        encoding = self._backend(fences).encode(prepared.text, add_special_tokens=False)
        tokens, control = list(encoding.ids), frozenset(self.control_tokens.values())
        if sum(token in control for token in tokens) > prepared.control:
            raise BadInput(
                f"{notes[0].partition(' in a message')[0]} cannot be kept as plain text: the tokenizer itself makes a"
                " special token of it",
                remedy="take it out of the message",
            )
        text = fences.without(rendered)
        if turns is None:
            return EncodedChat(text, tokens, notes=notes)
        inside = [(prepared.place(begin), prepared.place(end)) for begin, end in turns]
        places = tuple(
            (len(fences.without(rendered[:begin])), len(fences.without(rendered[:end]))) for begin, end in turns
        )
        return EncodedChat(text, tokens, places, _covered(encoding.offsets, inside), notes)

    def _backend(self, fences: Fences) -> Backend:
        """Returns a tokenizer that knows the control tokens by their fenced names only."""
        if fences not in self._fenced:
            renamed = {name: fences.named(name) for name in self.control_tokens}
            backend = definitions.build_backend(definitions.with_renamed_tokens(self.tokenizer.definition, renamed))
            for name, index in self.control_tokens.items():
                if backend.token_to_id(renamed[name]) != index:
                    raise BadInput(
                        "a message holds text that looks like a special token, and this tokenizer also makes"
                        f" {name!r} of plain text, so the two cannot be told apart",
                        remedy="take it out of the message",
                    )
            self._fenced[fences] = backend
        return self._fenced[fences]


class PlainFormat:
    """How a model is talked to that has no chat template: it goes on from all that was said, line after line.

    Args:
        tokenizer: The model's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def end_tokens(self, known: Sequence[int] = ()) -> tuple[int, ...]:
        """Returns the tokens that end an answer: the given ones and the end of text."""
        end = self.tokenizer.end_of_text_id
        return tuple(dict.fromkeys([*known, *([] if end is None else [end])]))

    def mentions(self, key: str) -> bool:
        """Nothing but content is read."""
        return key == "content"

    def takes(self, variable: str) -> bool:
        """There are no variables."""
        return False

    def encode(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **options: Any,
    ) -> EncodedChat:
        """Returns the contents of all messages, one behind the other; roles do not show."""
        given = [name for name, value in options.items() if value]
        if given:
            raise BadInput(
                f"a model without a chat template has no place for {', '.join(given)}", remedy="leave it out"
            )
        contents = [message.get("content") for message in messages]
        for index, content in enumerate(contents):
            if not isinstance(content, str):
                raise BadInput("the content is not a text", where=f"messages[{index}]")
        text = "\n".join(str(content) for content in contents)
        return EncodedChat(text, self.tokenizer.encode(text, special=True))


def _any_of(names: Sequence[str]) -> re.Pattern[str]:
    """A pattern for any of these names, longest first; one that never matches when there are none."""
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def _covered(offsets: Sequence[Span], turns: Sequence[Span]) -> list[bool]:
    """Tells for each token, by its place, whether it belongs to a turn; a token across a border does."""
    covered, index = [], 0
    for begin, end in offsets:
        while index < len(turns) and turns[index][1] <= begin:
            index += 1
        covered.append(index < len(turns) and turns[index][0] < end)
    return covered

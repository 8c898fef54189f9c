"""A conversation with a model: messages in, answers out, as a stream; what was read is not read again.

What a message becomes (text, tokens) is in `tokenization.chat_format`; the loop over tokens is in `generate`. Not here:
the terminal (`cli.chat`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zhixing.core.errors import BadInput
from zhixing.generation.engine import Engine
from zhixing.generation.engine.stream import RequestStream
from zhixing.generation.options import SamplingOptions
from zhixing.generation.reply import Reply, ReplyStream, WholeAnswer
from zhixing.generation.result import Generation
from zhixing.generation.tool_calls import for_template, parse_reply
from zhixing.native.decoder import NativeDecoder
from zhixing.tokenization.chat_format import ChatFormat, EncodedChat, PlainFormat
from zhixing.tokenization.tool_schema import Tool, tool_schemas

if TYPE_CHECKING:
    from zhixing.generation.generate import Generator
    from zhixing.generation.memory import Memory
    from zhixing.models.network import CausalNetwork

DEFAULT_MAX_TOKENS = 1024
"""Longest answer in a conversation where neither the user nor the model names one."""

DEFAULT_SAMPLING = {"temperature": 0.7, "min_p": 0.1}
"""How tokens are drawn in a conversation where neither the user nor the model says anything about it: from all of its
distribution a small model soon draws a word that makes no sense, and goes on from there."""

THOUGHT_END = "</think>"


@dataclass
class Conversation:
    """Messages with a model, and how it answers them.

    Attributes:
        model: The network.
        format: How it is talked to.
        options: How answers are written; may be exchanged between answers.
        messages: What was said so far; may be changed between answers.
        tools: What the model may call.
        documents: What it may look up.
        variables: What else its template asks for, such as {"enable_thinking": False}.
        forget: When the context is full, leave the oldest turns out of what the model reads (they stay in `messages`),
            instead of refusing. It is said each time.
        memory: What a `Generator` has read; None for one of its own.
        extras: Processors, filters and rules of the user's own, as `Generator` takes them.
        forgotten: The number of messages, after the system's, that the model does not read any more.
        engine: What writes wherever it can, and finds again what it has read; None: always a `Generator`, which extras
            need.
    """

    model: CausalNetwork | NativeDecoder
    format: ChatFormat | PlainFormat
    options: SamplingOptions
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: Sequence[Tool] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    forget: bool = False
    memory: Memory | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    forgotten: int = 0
    engine: Engine | None = None

    def __post_init__(self) -> None:
        if self.memory is None and self.engine is None:
            from zhixing.generation.memory import Memory

            self.memory = Memory(self._network())

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.config.context

    def prompt(self, *, answer: bool = True) -> EncodedChat:
        """Returns what the model reads: the rendered text and its tokens, without the turns that were forgotten.

        Args:
            answer: With what begins an answer.
        """
        return self._encode(self.forgotten, answer)

    def _encode(self, forgotten: int, answer: bool = True, **options: Any) -> EncodedChat:
        first = self._first()
        messages = [*self.messages[:first], *self.messages[first + forgotten :]]
        return self.format.encode(
            for_template(messages),
            add_generation_prompt=answer,
            tools=self.tools,
            documents=self.documents,
            **options,
            **self.variables,
        )

    def _first(self) -> int:
        """Returns the number of messages at the beginning that are the system's."""
        return next((i for i, message in enumerate(self.messages) if message["role"] != "system"), len(self.messages))

    def say(self, content: str) -> ReplyStream:
        """Adds a message of the user's and answers it; the message is taken back when it cannot be answered."""
        self.messages.append({"role": "user", "content": content})
        try:
            return self.answer()
        except BaseException:
            self.messages.pop()
            raise

    def answer(self) -> ReplyStream:
        """Answers the messages as they are. When the answer is over, it is the last of them.

        Raises:
            BadInput: There is nothing to answer, the template refuses the messages, or they do not fit.
        """
        prompt, notes = self._fitting()
        return self._stream(prompt, lambda message: self.messages.append(message), notes)

    def go_on(self) -> ReplyStream:
        """Goes on with the last answer, which ended too early; when it is over, the message is the whole.

        Raises:
            BadInput: As `answer`; or the last message is none of the model's.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise BadInput("there is no answer to go on with")
        begun = self.messages[-1]
        prompt = self._encode(self.forgotten, answer=False, continue_final_message=True)

        def join(message: dict[str, Any]) -> None:
            message["content"] = begun["content"] + message["content"]
            self.messages[-1] = {**begun, **message}

        return self._stream(prompt, join, prompt.notes)

    def _stream(
        self, prompt: EncodedChat, take: Callable[[dict[str, Any]], None], notes: tuple[str, ...]
    ) -> ReplyStream:
        options = self.options.replace(end_tokens=self._ends())
        if options.n > 1:
            raise BadInput(f"a conversation goes on with one answer, got n = {options.n}", remedy="leave n out")
        if self.engine is not None and Engine.why_not(options) is None:
            request = self.engine.submit(prompt.tokens, options)
            pieces = RequestStream(request)
            return ReplyStream(pieces, lambda generation: self._taken(generation, request.reused, notes, take))
        if not options.streamable:
            writer = self._generator(None)
            whole = WholeAnswer(lambda: writer.generate([prompt.tokens], options)[0])
            return ReplyStream(whole, lambda generation: self._taken(generation, 0, notes, take))
        memory = self.memory if self.memory is not None and self.memory.lock.acquire(blocking=False) else None
        try:
            stream = self._generator(memory).stream(prompt.tokens, options)
        except BaseException:
            if memory is not None:
                memory.lock.release()
            raise

        def finish(generation: Generation) -> Reply:
            return self._taken(generation, memory.reused if memory is not None else 0, notes, take)

        return ReplyStream(stream, finish, memory.lock.release if memory is not None else None)

    def _taken(
        self, generation: Generation, reused: int, notes: tuple[str, ...], take: Callable[[dict[str, Any]], None]
    ) -> Reply:
        """Makes a reply, and a message of it unless it was stopped before it began."""
        reply = self._reply(generation, reused, notes)
        if generation.tokens:
            take(reply.message)
        return reply

    def reply(self) -> Reply:
        """Answers the messages as they are; returns the whole answer. See `answer`."""
        stream = self.answer()
        for _ in stream:
            pass
        return stream.reply

    def _generator(self, memory: Memory | None) -> Generator:
        from zhixing.generation.generate import Generator
        from zhixing.generation.memory import RememberingGenerator

        tokenizer = self.format.tokenizer
        if memory is None:
            return Generator(self._network(), tokenizer, **self.extras)
        return RememberingGenerator(memory, tokenizer, **self.extras)

    def _network(self) -> CausalNetwork:
        """Returns the network with the interface that a `Generator` needs."""
        if not isinstance(self.model, NativeDecoder):
            return self.model
        from zhixing.native.network import NativeNetwork

        return NativeNetwork(self.model)

    def _ends(self) -> tuple[int, ...]:
        known = self.options.end_tokens
        return () if known == () else self.format.end_tokens(known or ())

    def _fitting(self) -> tuple[EncodedChat, tuple[str, ...]]:
        """Returns the prompt, after forgetting turns where it does not fit and that is allowed."""
        if not self.messages or self.messages[-1]["role"] == "assistant":
            raise BadInput("there is nothing to answer: the last message is the model's own, or there is none")
        prompt = self._encode(self.forgotten)
        if len(prompt.tokens) < self.context - (self._room() if self.forget else 0):
            return prompt, prompt.notes
        if not self.forget:
            raise BadInput(
                f"the conversation has {len(prompt.tokens)} tokens; the model's context is {self.context}, prompt and"
                " answer together",
                remedy="let the oldest turns be forgotten (--forget, or forget=True), or begin a new conversation",
            )
        before, first = self.forgotten, self._first()
        starts = [i - first for i, message in enumerate(self.messages) if message["role"] == "user"]
        for forgotten in starts:
            if forgotten > before:
                prompt = self._encode(forgotten)
                self.forgotten = forgotten
                if len(prompt.tokens) < self.context - self._room():
                    break
        if len(prompt.tokens) >= self.context:
            self.forgotten = before
            raise BadInput(
                f"the last message alone makes {len(prompt.tokens)} tokens; the model's context is {self.context}",
                remedy="shorten the message or the system prompt",
            )
        if self.forgotten == before:
            return prompt, prompt.notes
        note = (
            f"the context of {self.context} tokens is full: the model no longer reads the first {self.forgotten}"
            f" of {len(self.messages) - first} messages"
        )
        return prompt, (*prompt.notes, note)

    def _room(self) -> int:
        """Tokens that are to be free for the answer before a turn is forgotten."""
        return min(self.options.max_tokens, self.context // 4)

    def _reply(self, generation: Generation, reused: int, notes: tuple[str, ...]) -> Reply:
        tokenizer, ends = self.format.tokenizer, set(self._ends())
        tokens = generation.tokens
        raw = tokenizer.decode(tokens[:-1] if tokens and tokens[-1] in ends else tokens)
        names = {schema.get("function", schema)["name"] for schema in tool_schemas(self.tools) or []}
        made = sum(len(message.get("tool_calls") or ()) for message in self.messages)
        parsed = parse_reply(raw, names, made + 1)
        # Where nothing is called, the text is what was shown: without special tokens, and cut at a stop text.
        content = parsed.content if parsed.calls else generation.text
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if THOUGHT_END in content and self.format.mentions("reasoning_content"):
            thought, _, content = content.rpartition(THOUGHT_END)
            message["content"] = content.lstrip("\n")
            message["reasoning_content"] = thought.replace("<think>", "").strip("\n")
        if parsed.calls:
            message["tool_calls"] = list(parsed.calls)
        return Reply(message, generation, reused, (*notes, *generation.notes, *parsed.notes))

    def undo(self) -> list[dict[str, Any]]:
        """Takes the last message of the user's back, with everything behind it; returns what was taken back.

        Raises:
            BadInput: The user has said nothing yet.
        """
        place = self._last_of_the_user()
        taken, self.messages[place:] = self.messages[place:], []
        self.forgotten = min(self.forgotten, max(0, len(self.messages) - self._first()))
        return taken

    def take_back_answer(self) -> None:
        """Takes the last answer back, with all calls and results behind the user's last message."""
        place = self._last_of_the_user()
        if place == len(self.messages) - 1:
            raise BadInput("there is no answer to take back")
        del self.messages[place + 1 :]

    def _last_of_the_user(self) -> int:
        for place in range(len(self.messages) - 1, -1, -1):
            if self.messages[place]["role"] == "user":
                return place
        raise BadInput("nothing was said yet")

    @property
    def system(self) -> str | None:
        """The system prompt, or None; set it to change it."""
        first = self.messages[0] if self.messages else None
        return first["content"] if first is not None and first["role"] == "system" else None

    @system.setter
    def system(self, content: str | None) -> None:
        if self.system is not None:
            del self.messages[0]
        if content:
            self.messages.insert(0, {"role": "system", "content": content})

    def copy_messages(self) -> list[dict[str, Any]]:
        """Returns the messages as they are now."""
        return copy.deepcopy(self.messages)

"""A model that writes, as the tasks use it: messages in, answers out, greedily unless asked otherwise.

A model with a chat template is talked to through it; one without goes on from the prompt's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zhixing.checkpoints.encoder_folder import is_encoder
from zhixing.checkpoints.references import resolve
from zhixing.checkpoints.seq2seq_folder import is_seq2seq
from zhixing.core.errors import BadInput, MissingResource
from zhixing.generation import (
    Generation,
    Generator,
    LogitsProcessor,
    SamplingOptions,
    StoppingRule,
    options_from_config,
)
from zhixing.generation.likelihood import Likelihoods
from zhixing.generation.opening import Opened, open_for_writing
from zhixing.tasks.fingerprint import model_fingerprint
from zhixing.tasks.parts import parts_of
from zhixing.tokenization.chat_format import ChatFormat, PlainFormat

CHAT_MODEL = "smollm2-135m"
"""The model that tasks take where none is named and none is trained for them."""

SIDE_BY_SIDE = 8
"""Answers written together."""

LEAST_PART = 32
"""A prompt that leaves fewer tokens than this for the text is too long for the model."""


def core_options(quantize: str | None, kv_cache: str | None) -> dict[str, Any]:
    """Returns the options of the native core that were given."""
    given = {"quantize": quantize, "kv_cache": kv_cache}
    return {name: value for name, value in given.items() if value is not None}


def side_by_side(generator: Generator, prompts: Sequence[Sequence[int]], options: SamplingOptions) -> list[Generation]:
    """Answers prompts, those of similar length together; returns the answers in the order of the prompts.

    Raises:
        KeyboardInterrupt: The user stopped it: half an answer is none.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Generation] = {}
    for start in range(0, len(order), SIDE_BY_SIDE):
        group = order[start : start + SIDE_BY_SIDE]
        for index, answer in zip(group, generator.generate([prompts[one] for one in group], options), strict=True):
            if answer.finish_reason == "interrupted":
                raise KeyboardInterrupt
            answers[index] = answer
    return [answers[index] for index in range(len(prompts))]


class ChatWriter:
    """A model that follows prompts.

    Args:
        opened: The model.
        ref: What the user called it.
        core: What the core was told, by the names of its options.

    Raises:
        MissingResource: It has no tokenizer.
    """

    def __init__(self, opened: Opened, ref: str, core: Mapping[str, Any] | None = None) -> None:
        self.core = dict(core or {})
        tokenizer = opened.tokenizer
        if tokenizer is None:
            raise MissingResource("the model has no tokenizer", where=ref, remedy="put its tokenizer.json beside it")
        self.network, self.tokenizer, self.path = opened.network, tokenizer, opened.path
        self.chats = tokenizer.chat_templates is not None
        self.format = ChatFormat(tokenizer) if self.chats else PlainFormat(tokenizer)
        settings = self.path / "generation_config.json" if self.path.is_dir() else self.path
        known, _ = options_from_config(opened.generation, str(settings))
        # Of the model's own options only what ends an answer counts: a task is no conversation.
        self.ends = self.format.end_tokens(known.end_tokens or ())
        self.likelihoods = Likelihoods(self.network, owned=True)

    @classmethod
    def open(cls, ref: str | Path, quantize: str | None = None, kv_cache: str | None = None) -> ChatWriter:
        """Opens a model by its reference; see `zhixing.load` for the options of the native core."""
        path = resolve(ref)
        if path.is_dir() and is_encoder(path):
            raise BadInput("this is an encoder, which writes no text", where=str(ref), remedy="name a chat model")
        if path.is_dir() and is_seq2seq(path):
            raise BadInput(
                "this is an encoder-decoder, and the task needs a model that goes on from a text",
                where=str(ref),
                remedy="name a chat model; encoder-decoders translate, summarize, rewrite, answer and fill",
            )
        core = core_options(quantize, kv_cache)
        return cls(open_for_writing(path, **core), str(ref), core)

    def fingerprint(self) -> str:
        """Returns the hash of the model's content."""
        return model_fingerprint(self.path)

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.network.config.context

    def encode(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Returns a conversation as tokens, ready for the answer."""
        return self.format.encode(list(messages), add_generation_prompt=True).tokens

    def parts(self, text: str, empty: Sequence[dict[str, Any]], answer: int) -> list[str]:
        """Cuts a text into parts that fit into a prompt.

        Args:
            text: The text.
            empty: The prompt without it.
            answer: Tokens that the answer needs.

        Raises:
            BadInput: The prompt alone fills the context.
        """
        return parts_of(text, self.room(empty, answer), self.tokenizer)

    def room(self, empty: Sequence[dict[str, Any]], answer: int) -> int:
        """Returns how many tokens of text fit beside a prompt and an answer.

        Raises:
            BadInput: Next to none.
        """
        used = len(self.encode(empty))
        room = self.context - used - answer - 2
        if room < LEAST_PART:
            raise BadInput(
                f"prompt ({used} tokens) and answer ({answer}) leave no room in the model's context of {self.context}",
                remedy="shorten the prompt or the answer (max_tokens), or use a model with a longer context",
            )
        return room

    def check_room(self, empties: Iterable[Sequence[dict[str, Any]]], answer: int) -> None:
        """Makes sure, before any text is read, that some prompt leaves room for one.

        Args:
            empties: The prompts of all languages, without a text.
            answer: Tokens that the answer needs.

        Raises:
            BadInput: None does: no text could be worked on.
        """
        fault: BadInput | None = None
        for empty in empties:
            try:
                self.room(empty, answer)
            except BadInput as error:
                fault = fault or error
            else:
                return
        if fault is not None:
            raise BadInput(fault.cause, where=str(self.path), remedy=fault.remedy) from fault

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        processors: Sequence[LogitsProcessor] = (),
        rules: Sequence[StoppingRule] = (),
        **options: Any,
    ) -> list[Generation]:
        """Answers prompts, those of similar length side by side.

        Args:
            prompts: Token ids.
            max_tokens: Longest answer.
            processors: Change the logits.
            rules: End answers.
            **options: Any field of `SamplingOptions`.

        Raises:
            KeyboardInterrupt: The user stopped it: half an answer is none.
        """
        chosen = SamplingOptions(**{"temperature": 0.0, "max_tokens": max_tokens, "end_tokens": self.ends, **options})
        generator = Generator(self.network, self.tokenizer, owned=True, processors=processors, rules=rules)
        return side_by_side(generator, prompts, chosen)

    def label_scores(self, prompt: Sequence[int], labels: Sequence[str]) -> list[float]:
        """Returns the log-probability of each label as the whole answer, in nats."""
        return self.likelihoods(prompt, [self._label(label) for label in labels])

    def _label(self, label: str) -> list[int]:
        tokens = self.tokenizer.encode(label if self.chats else f" {label}")
        end = self.format.end_of_turn if isinstance(self.format, ChatFormat) else None
        # With its end, lest a label that begins another one count for both.
        return [*tokens, *([end] if end is not None else [])]

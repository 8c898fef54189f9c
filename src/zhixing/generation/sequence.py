"""One answer while it is written: its tokens, its text, its random numbers, and why it ended."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from zhixing.core.errors import BadInput
from zhixing.generation.options import SamplingOptions
from zhixing.generation.prompts import EncodedPrompt
from zhixing.generation.result import Generation, TokenLogprob
from zhixing.generation.stopping import Progress, StoppingRule, StopTexts

if TYPE_CHECKING:
    from zhixing.tokenization.decoding import StreamDecoder
    from zhixing.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Limits:
    """What all answers of one call share.

    Attributes:
        options: What the user asked for.
        end_tokens: Ids that end an answer.
        context: The model's, in tokens; None when the context slides.
        rules: The user's own stopping rules.
        negative: Tokens of the negative prompt, behind which the answers are read, too.
    """

    options: SamplingOptions
    end_tokens: frozenset[int]
    context: int | None
    rules: Many[StoppingRule] = ()
    negative: int = 0


def decoder_behind(tokenizer: Tokenizer, tokens: Many[int]) -> StreamDecoder:
    """Returns a decoder that stands behind these tokens, so that the space before the next word is not lost."""
    decoder = tokenizer.stream_decoder(skip_special=True)
    seen = "".join([decoder.push(token) for token in tokens])
    if not seen and tokenizer.decode(tokens, skip_special=True):
        # A decoder that gives nothing before the end would give the prompt again, too.
        return tokenizer.stream_decoder(skip_special=True)
    return decoder


@dataclass
class Sequence:
    """One answer.

    Attributes:
        prompt: What it answers.
        index: Which prompt of the batch that is.
        sample: Which of the prompt's answers this is.
        seed: Its random seed.
        limits: When to stop.
        decoder: Turns tokens into text; None without a tokenizer.
        reason: Why the answer ended; None while it is under way.
        detail: The same in a sentence.
        forgotten: Tokens that a sliding context has left behind.
        logprobs: The model's own log-probability of every token, where asked for.
        logprob: Their sum, where answers are compared.
        score: What the answer was chosen by among others.
    """

    prompt: EncodedPrompt
    index: int
    sample: int
    seed: int
    limits: Limits
    decoder: StreamDecoder | None
    reason: str | None = None
    detail: str = ""
    forgotten: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    logprob: float = 0.0
    score: float | None = None

    def __post_init__(self) -> None:
        self.progress = Progress(self.prompt.tokens)
        self.random = sequence_random(self.seed, self.sample)
        self._stops = StopTexts(self.limits.options.stop)
        self._ended = 0.0
        self._unread: StreamDecoder | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt.tokens) + len(self.progress.tokens)

    @property
    def window(self) -> list[int]:
        """The tokens that the model sees: all, less those that a sliding context has left behind."""
        return [*self.prompt.tokens, *self.progress.tokens][self.forgotten :]

    @cached_property
    def longest_answer(self) -> int:
        """Tokens that the answer can have at most."""
        limits, prompt = self.limits, len(self.prompt.tokens)
        longest = limits.options.max_tokens
        if limits.options.max_length is not None:
            longest = min(longest, limits.options.max_length - prompt)
        return longest if limits.context is None else min(longest, limits.context - max(prompt, limits.negative))

    def fork(self) -> Sequence:
        """Returns a copy that goes on by itself: another beam with the same tokens so far."""
        twin = object.__new__(Sequence)  # a search makes thousands: `copy.copy` takes three times as long
        twin.__dict__.update(self.__dict__)
        twin.progress = self.progress.fork()
        twin.logprobs = self.logprobs.copy()
        twin.decoder = self.decoder.fork() if self.decoder is not None else None
        twin._stops = self._stops.fork()
        return twin

    def leave_text(self) -> bool:
        """Leaves the text until the end, unless something looks at the answer before; tells whether it did."""
        if self.limits.options.stop or self.limits.rules:
            return False
        self._unread, self.decoder = self.decoder, None
        return True

    def take(self, token: int) -> str:
        """Adds a token; returns the text that is now certain. Afterwards `reason` says whether this was the last."""
        progress, limits = self.progress, self.limits
        progress.started = progress.started or time.monotonic()
        progress.tokens.append(token)
        if token in limits.end_tokens:
            return self.end("stop", f"the model wrote the end token {token}")
        piece = self._stops.push(self.decoder.push(token)) if self.decoder is not None else ""
        if piece:
            progress.pieces.append(piece)
        if self._stops.found is not None:
            self.end("stop", f"the stop text {self._stops.found!r} appeared")
            return piece
        for rule in limits.rules:
            if reason := rule(progress):
                return piece + self.end(reason, f"the stopping rule {type(rule).__name__} said so")
        if len(progress.tokens) >= self.longest_answer:
            return piece + self.end("length", self._too_long())
        return piece

    def _too_long(self) -> str:
        options, context = self.limits.options, self.limits.context
        prompt, answer = len(self.prompt.tokens), len(self.progress.tokens)
        if options.max_length is not None and prompt + answer >= options.max_length:
            return f"max_length ({options.max_length}) reached (prompt {prompt}, answer {answer})"
        if answer >= options.max_tokens:
            return f"max_tokens ({options.max_tokens}) reached"
        return f"the model's context of {context} tokens is full (prompt {prompt}, answer {answer})"

    def end(self, reason: str, detail: str) -> str:
        """Closes the answer; returns the text that was held back until now."""
        self.reason, self.detail, self._ended = reason, detail, time.monotonic()
        if self._stops.found is not None:
            return ""
        if self._unread is not None:
            tokens = self.progress.tokens
            written = tokens[:-1] if tokens and tokens[-1] in self.limits.end_tokens else tokens
            self.decoder, self._unread = self._unread.fork(), None
            self.progress.pieces = ["".join(map(self.decoder.push, written))]
        rest = self._stops.push(self.decoder.finish()) if self.decoder is not None else ""
        if self._stops.found is None:
            rest += self._stops.finish()
        if rest:
            self.progress.pieces.append(rest)
        return rest

    def generation(self, prompt_seconds: float) -> Generation:
        """Returns the finished answer."""
        progress = self.progress
        return Generation(
            text=progress.text,
            tokens=progress.tokens,
            finish_reason=self.reason or "",
            detail=self.detail,
            prompt_tokens=len(self.prompt.source or self.prompt.tokens),
            prompt=self.index,
            sample=self.sample,
            seed=self.seed,
            seconds=self._ended - progress.started if progress.tokens else 0.0,
            prompt_seconds=prompt_seconds,
            notes=self.prompt.notes,
            logprobs=self.logprobs if self.limits.options.logprobs is not None else None,
            score=self.score,
        )


def sequence_random(seed: int, sample: int) -> random.Random:
    """Returns the generator of one sequence: it depends on the seed and on which sample of its prompt this is."""
    return random.Random(f"{seed}/{sample}")


def end_tokens(options: SamplingOptions, tokenizer: Tokenizer | None) -> frozenset[int]:
    """Returns the ids that end an answer: those of the options, else the tokenizer's end of text."""
    if options.end_tokens is not None:
        return frozenset(options.end_tokens)
    return frozenset(() if tokenizer is None or tokenizer.end_of_text_id is None else (tokenizer.end_of_text_id,))


def begin_answer(
    prompt: EncodedPrompt,
    index: int,
    sample: int,
    seed: int,
    limits: Limits,
    tokenizer: Tokenizer | None,
    where: str | None = None,
) -> Sequence:
    """Makes an empty answer to a prompt.

    Args:
        prompt: What it answers.
        index: Which prompt that is.
        sample: Which of the prompt's answers this is.
        seed: Its random seed.
        limits: When to stop.
        tokenizer: Turns tokens into text.
        where: The prompt's place, for messages.

    Raises:
        BadInput: The prompt leaves no room for an answer.
    """
    decoder = None
    if tokenizer is not None:
        decoder = decoder_behind(tokenizer, prompt.tokens if not prompt.source else [])
    answer = Sequence(prompt, index, sample, seed, limits, decoder)
    if answer.longest_answer < 1:
        raise BadInput(
            f"the prompt has {len(prompt.tokens)} tokens, which leaves no room for an answer within"
            f" max_length = {limits.options.max_length}",
            where=where,
            remedy="raise max_length, or give max_tokens, which counts the answer alone",
        )
    return answer

"""The loop over tokens: prompts are read once, then every sequence of the batch gets one token per step.

Prompts of unequal length are padded on the left, which the cache knows; samples of one prompt share its reading. What a
token is chosen by is in `sampling`, what ends an answer in `stopping` and `sequence`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator as Coroutine
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.generation.options import SamplingOptions
from zhixing.generation.prompts import Prompt, encode_prompt
from zhixing.generation.result import Generation, TokenLogprob
from zhixing.generation.sampling import Context, Filter, LogitsProcessor, Sampler
from zhixing.generation.sequence import Limits, decoder_behind
from zhixing.generation.sequence import Sequence as Answer
from zhixing.generation.stopping import StoppingRule
from zhixing.models.decoding import decode_step
from zhixing.models.network import Cache, CausalNetwork
from zhixing.tokenization.tokenizer import Tokenizer

Pieces = Coroutine[tuple[Answer, str], None, None]


class Generator:
    """Writes with a model.

    Args:
        model: The network; it is used as it is, in evaluation mode.
        tokenizer: Its tokenizer; None allows prompts of token ids only, and answers without text.
        owned: The model is used for nothing but generation, so that its weights may be laid out anew in memory.
        processors: Logits processors of the user's own, applied after those that the options ask for.
        filters: Filters of the user's own, likewise.
        rules: Stopping rules of the user's own.
    """

    def __init__(
        self,
        model: CausalNetwork,
        tokenizer: Tokenizer | None,
        *,
        owned: bool = False,
        processors: Sequence[LogitsProcessor] = (),
        filters: Sequence[Filter] = (),
        rules: Sequence[StoppingRule] = (),
    ) -> None:
        self.model, self.tokenizer, self.owned = model, tokenizer, owned
        self.processors, self.filters, self.rules = processors, filters, rules

    def generate(self, prompts: Sequence[Prompt], options: SamplingOptions | None = None) -> list[Generation]:
        """Answers every prompt `options.n` times.

        Ctrl-C ends all answers where they are, with the finish reason "interrupted".

        Args:
            prompts: Texts, or lists of token ids.
            options: How to choose, when to stop.

        Returns:
            The answers, prompt by prompt, those of one prompt one after the other.

        Raises:
            BadInput: A prompt is too long for the model's context, or cannot be encoded.
        """
        run = _Run(self, prompts, options or SamplingOptions())
        for _ in run.pieces():
            pass
        return run.generations()

    def stream(self, prompt: Prompt, options: SamplingOptions | None = None) -> Stream:
        """Answers one prompt piece by piece; see `Stream`.

        Raises:
            BadInput: As `generate`; also when `options.n` is not 1.
        """
        options = options or SamplingOptions()
        if options.n != 1:
            raise BadInput(f"only one answer can be streamed, got n = {options.n}", remedy="use generate, or n = 1")
        return Stream(_Run(self, [prompt], options))


class Stream:
    """An answer as it is written: iterate over it for pieces of text, which put together are the whole.

    No piece ends inside a character, and none shows the beginning of a stop text.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._pieces = run.pieces()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)[1]

    def stop(self) -> str:
        """Ends the answer where it is; returns the text that was held back."""
        try:
            return self._pieces.throw(KeyboardInterrupt())[1]
        except (StopIteration, KeyboardInterrupt):  # ended already, or not begun
            return ""
        finally:
            self._pieces.close()

    @property
    def generation(self) -> Generation:
        """The whole answer, once the iteration is over.

        Raises:
            BadInput: It is not over yet.
        """
        if any(answer.reason is None for answer in self._run.answers):
            raise BadInput("the answer is still being written", remedy="iterate over the stream first, or call stop()")
        return self._run.generations()[0]


class _Run:
    """One call: its answers, the cache that they share, and the loop."""

    def __init__(self, owner: Generator, prompts: Sequence[Prompt], options: SamplingOptions) -> None:
        model, tokenizer = owner.model, owner.tokenizer
        self.owner, self.model, self.options = owner, model, options
        ends = options.end_tokens
        if ends is None:
            ends = () if tokenizer is None or tokenizer.end_of_text_id is None else (tokenizer.end_of_text_id,)
        context = None if options.sliding else model.config.context
        limits = Limits(options, frozenset(ends), context, owner.rules)
        self.answers: list[Answer] = []
        for index, prompt in enumerate(prompts):
            where = f"prompt {index + 1} of {len(prompts)}" if len(prompts) > 1 else None
            encoded = encode_prompt(prompt, tokenizer, model.config, where)
            # Every prompt draws a seed of its own, lest equal prompts in a batch get equal answers unasked.
            seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
            for sample in range(options.n):
                decoder = decoder_behind(tokenizer, encoded.tokens) if tokenizer is not None else None
                self.answers.append(Answer(encoded, index, sample, seed, limits, decoder))
        self.sampler = Sampler(options, owner.processors, owner.filters)
        self.prompt_seconds = 0.0

    def generations(self) -> list[Generation]:
        return [answer.generation(self.prompt_seconds) for answer in self.answers]

    @torch.inference_mode()
    def pieces(self) -> Pieces:
        """Writes all answers, yielding every piece of text as soon as it is certain."""
        training = self.model.training
        self.model.eval()
        try:
            yield from self._loop()
        except KeyboardInterrupt:
            for answer in self.answers:
                if answer.reason is None and (rest := answer.end("interrupted", "stopped by the user")):
                    yield answer, rest
        finally:
            self.model.train(training)

    def _loop(self) -> Pieces:
        live = list(self.answers)
        if not live:
            return
        started = time.monotonic()
        shared = [answer.prompt.tokens for answer in live if answer.sample == 0]
        cache, logits = self._read(shared, max(answer.longest_answer for answer in live))
        if self.options.n > 1:
            cache.repeat(self.options.n)
            logits = logits.repeat_interleave(self.options.n, dim=0)
        step = decode_step(self.model, cache, self.owner.owned)
        history = _History(live, self.model.device, bool(self.sampler.processors))
        self.prompt_seconds = time.monotonic() - started
        while True:
            chosen = self.sampler(logits, history.context(), [answer.random for answer in live])
            if self.options.logprobs is not None:
                self._note_logprobs(live, logits, chosen)
            history.append(chosen)
            for answer, token in zip(live, chosen.tolist(), strict=True):
                if piece := answer.take(token):
                    yield answer, piece
            rows = [row for row, answer in enumerate(live) if answer.reason is None]
            if not rows:
                return
            changed = len(rows) < len(live)
            if changed:
                live = [live[row] for row in rows]
                kept = torch.tensor(rows, device=chosen.device)
                chosen = chosen[kept]
                history.keep(kept)
            if self.options.sliding and max(len(answer.window) for answer in live) > self.model.config.context:
                cache, logits = self._slide(live)
                step = decode_step(self.model, cache, self.owner.owned)
                continue
            if changed:
                cache.keep(kept)
                step = decode_step(self.model, cache, self.owner.owned)
            logits = step(chosen)

    def _read(self, prompts: Sequence[Sequence[int]], more: int) -> tuple[Cache, Tensor]:
        """Reads token lists into a new cache with room for `more`; returns it and the logits behind them."""
        device = self.model.device
        longest = max(map(len, prompts))
        lacking = [longest - len(prompt) for prompt in prompts]
        padding = torch.tensor(lacking, device=device) if any(lacking) else None
        tokens = torch.tensor(
            [[0] * lack + list(prompt) for lack, prompt in zip(lacking, prompts, strict=True)], device=device
        )  # (batch, longest); what stands in the padding does not matter
        cache = self.model.new_cache(len(prompts), longest + more, padding)
        return cache, self.model.next_logits(tokens, cache)

    def _slide(self, live: Sequence[Answer]) -> tuple[Cache, Tensor]:
        """Reads the newer half of every full context anew, as if it were the prompt; the others' contexts whole."""
        context = self.model.config.context
        for answer in live:
            if len(answer.window) > context:
                answer.forgotten = answer.length - max(1, context // 2)
        return self._read([answer.window for answer in live], context)

    def _note_logprobs(self, live: Sequence[Answer], logits: Tensor, chosen: Tensor) -> None:
        logprobs = logits.float().log_softmax(-1)  # (batch, vocab)
        own = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
        count = min(self.options.logprobs or 0, logprobs.shape[1])
        values, tokens = (part.tolist() for part in logprobs.topk(count, dim=-1))
        for answer, token, logprob, top, ids in zip(live, chosen.tolist(), own, values, tokens, strict=True):
            answer.logprobs.append(TokenLogprob(token, logprob, tuple(zip(ids, top, strict=True))))


class _History:
    """All tokens so far, for the processors that look at them; nothing is kept when there are none."""

    def __init__(self, live: Sequence[Answer], device: torch.device, needed: bool) -> None:
        self._prompt = longest = max(len(answer.prompt.tokens) for answer in live)
        self._time = longest
        self._needed = needed
        lacking = [longest - len(answer.prompt.tokens) for answer in live]
        self._padding = torch.tensor(lacking, device=device)
        room = max(answer.longest_answer for answer in live) if needed else 0
        self._tokens = torch.zeros((len(live), longest + room), dtype=torch.long, device=device)
        if needed:
            for row, answer in enumerate(live):
                self._tokens[row, lacking[row] : longest] = torch.tensor(answer.prompt.tokens, device=device)

    def context(self) -> Context:
        return Context(self._tokens[:, : self._time], self._padding, self._prompt)

    def append(self, chosen: Tensor) -> None:
        if self._needed:
            self._tokens[:, self._time] = chosen
            self._time += 1

    def keep(self, rows: Tensor) -> None:
        self._tokens, self._padding = self._tokens[rows], self._padding[rows]

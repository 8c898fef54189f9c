"""Writing with a model: prompts in, answers out, whole or as a stream.

Prompts of unequal length are read side by side, padded on the left, and every strategy gives each the answer that it
gets alone. The strategies are in `loop`, `beam` and `contrastive`; what a token is chosen by is in `sampling`, what
ends an answer in `stopping` and `sequence`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from zhixing.core.errors import BadInput
from zhixing.generation.beam import BeamSearch
from zhixing.generation.best_of import BestOf, Scorer
from zhixing.generation.chain import processors_for
from zhixing.generation.contrastive import ContrastiveSearch
from zhixing.generation.filters import filters_for
from zhixing.generation.guidance import ClassifierFreeGuidance
from zhixing.generation.loop import TokenLoop
from zhixing.generation.options import SamplingOptions
from zhixing.generation.prompts import EncodedPrompt, Prompt, encode_prompt
from zhixing.generation.result import Generation
from zhixing.generation.rows import NetworkRows, Reader, Rows
from zhixing.generation.sampling import Filter, LogitsProcessor
from zhixing.generation.sequence import Limits, begin_answer, end_tokens
from zhixing.generation.sequence import Sequence as Answer
from zhixing.generation.sources import SourceEncoder, SourceReader, check_options, encoded
from zhixing.generation.stopping import StoppingRule
from zhixing.generation.writing import Pieces, Strategy, Writing, alone_on
from zhixing.models.encoder_decoder import EncoderDecoder
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.tokenizer import Tokenizer


class Generator:
    """Writes with a model.

    Args:
        model: The network; it is used as it is, in evaluation mode.
        tokenizer: Its tokenizer; None allows prompts of token ids only, and answers without text.
        owned: The model is used for nothing but generation, so that its weights may be laid out anew in memory.
        processors: Logits processors of the user's own, applied after those that the options ask for.
        filters: Filters of the user's own, likewise.
        rules: Stopping rules of the user's own.
        scorer: Judges the answers of `best_of`; None: their mean log-probability.
        encode: For an encoder-decoder, which has prompts as its sources: turns one into tokens; `tokenizer` is that of
            the targets.
    """

    def __init__(
        self,
        model: CausalNetwork | EncoderDecoder,
        tokenizer: Tokenizer | None,
        *,
        owned: bool = False,
        processors: Sequence[LogitsProcessor] = (),
        filters: Sequence[Filter] = (),
        rules: Sequence[StoppingRule] = (),
        scorer: Scorer | None = None,
        encode: SourceEncoder | None = None,
    ) -> None:
        self.model, self.tokenizer, self.owned, self.encode = model, tokenizer, owned, encode
        self.processors, self.filters, self.rules, self.scorer = processors, filters, rules, scorer

    def generate(
        self, prompts: Sequence[Prompt], options: SamplingOptions | None = None, seeds: Sequence[int] | None = None
    ) -> list[Generation]:
        """Answers every prompt `options.n` times.

        Ctrl-C ends all answers where they are, with the finish reason "interrupted".

        Args:
            prompts: Texts, or lists of token ids.
            options: How to choose, when to stop.
            seeds: One for each prompt, instead of `options.seed` for all.

        Returns:
            The answers, prompt by prompt, those of one prompt one after the other.

        Raises:
            BadInput: A prompt is too long for the model's context, or cannot be encoded.
        """
        if seeds is not None and len(seeds) != len(prompts):
            raise BadInput(f"{len(prompts)} prompt(s) but {len(seeds)} seed(s)", remedy="give one for each")
        run = _Run(self, prompts, options or SamplingOptions(), seeds)
        for _ in run.pieces():
            pass
        return run.generations()

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> Rows:
        """Returns rows that have read these token ids, with room for so many more; see `Rows`."""
        assert isinstance(self.model, CausalNetwork)
        return NetworkRows(self.model, prompts, room, self.owned)

    def stream(self, prompt: Prompt, options: SamplingOptions | None = None) -> Stream:
        """Answers one prompt piece by piece; see `Stream`.

        Raises:
            BadInput: As `generate`; also when there are several answers, or none is certain before its end.
        """
        options = options or SamplingOptions()
        if not options.streamable:
            number = f"best_of = {options.best_of}" if options.best_of else f"n = {options.n}"
            if options.beams:
                number = f"num_beams = {options.num_beams}"
            raise BadInput(f"only one answer can be streamed, got {number}", remedy="use generate, or leave it out")
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
        if not self._run.over:
            raise BadInput("the answer is still being written", remedy="iterate over the stream first, or call stop()")
        return self._run.generations()[0]


class _Run:
    """One call: its answers, and the strategy that writes them."""

    def __init__(
        self, owner: Generator, prompts: Sequence[Prompt], options: SamplingOptions, seeds: Sequence[int] | None = None
    ) -> None:
        started = time.monotonic()
        model, tokenizer = owner.model, owner.tokenizer
        self.owner, self.options = owner, options
        ends = end_tokens(options, tokenizer)
        context = None if options.sliding else model.config.context
        if isinstance(model, EncoderDecoder):
            check_options(options)
        negative = self._negative(options)
        limits = Limits(options, ends, context, owner.rules, len(negative or ()))
        answers: list[Answer] = []
        for index, prompt in enumerate(prompts):
            where = f"prompt {index + 1} of {len(prompts)}" if len(prompts) > 1 else None
            encoded = self._encoded(prompt, where)
            # Every prompt draws a seed of its own, lest equal prompts in a batch get equal answers unasked.
            drawn = random.SystemRandom().getrandbits(32)
            seed = seeds[index] if seeds is not None else drawn if options.seed is None else options.seed
            answers += [
                begin_answer(encoded, index, sample, seed, limits, tokenizer, where)
                for sample in range(1 if options.beams else options.drawn)
            ]
        processors = processors_for(
            options, ends=ends, tokenizer=tokenizer, vocab_size=model.config.vocab_size, device=model.device
        )
        self.writing = Writing(
            options=options,
            answers=answers,
            read=self._reader(answers),
            context=model.config.context,
            device=model.device,
            processors=[*processors, *owner.processors],
            filters=[*filters_for(options), *owner.filters],
            on_core=getattr(model, "own_threads", False),
            deadline=started + options.max_seconds if options.max_seconds is not None else None,
        )
        if options.guidance_scale != 1:
            guidance = ClassifierFreeGuidance(owner.read, options.guidance_scale, negative)
            self.writing = replace(self.writing, read=guidance.read, processors=[guidance, *self.writing.processors])
        self.strategy = strategy_for(self.writing, model, owner.scorer)

    def _encoded(self, prompt: Prompt, where: str | None) -> EncodedPrompt:
        """Turns a prompt into what the model begins from."""
        model, owner = self.owner.model, self.owner
        if isinstance(model, EncoderDecoder):
            return encoded(prompt, owner.encode, model, where)
        return encode_prompt(prompt, owner.tokenizer, model.config, where)

    def _reader(self, answers: Sequence[Answer]) -> Reader:
        model = self.owner.model
        if not isinstance(model, EncoderDecoder):
            return self.owner.read
        return SourceReader(model, [answer.prompt.source for answer in answers if answer.sample == 0])

    def _negative(self, options: SamplingOptions) -> list[int] | None:
        """Returns the tokens of the negative prompt, if there is one."""
        if options.guidance_scale == 1 or options.negative_prompt is None:
            return None
        owner = self.owner
        return encode_prompt(options.negative_prompt, owner.tokenizer, owner.model.config, "negative_prompt").tokens

    @property
    def over(self) -> bool:
        """Whether all answers have ended."""
        return all(answer.reason is not None for answer in self.strategy.results())

    def generations(self) -> list[Generation]:
        return [answer.generation(self.writing.prompt_seconds) for answer in self.strategy.results()]

    @torch.inference_mode()
    def pieces(self) -> Pieces:
        """Writes all answers, yielding every piece of text as soon as it is certain."""
        if not self.writing.answers:
            return
        model = self.owner.model
        training = model.training
        model.eval()
        try:
            pieces = self.strategy.pieces()
            while True:
                with alone_on(model):
                    piece = next(pieces, None)
                if piece is None:
                    break
                yield piece
        except KeyboardInterrupt:
            yield from self.strategy.end("interrupted", "stopped by the user")
        finally:
            model.train(training)


def strategy_for(writing: Writing, model: CausalNetwork | EncoderDecoder, scorer: Scorer | None = None) -> Strategy:
    """Returns the strategy that the options ask for.

    Args:
        writing: The call.
        model: The network, for strategies that look into it.
        scorer: Judges answers, where the best of several are wanted.
    """
    options = writing.options
    if scorer is not None and options.best_of is None:
        raise BadInput("a scorer chooses among several answers", remedy="give best_of, the number to draw")
    if options.beams:
        return BeamSearch(writing)
    if options.contrastive:
        assert isinstance(model, CausalNetwork)
        search = ContrastiveSearch(model, writing.processors, options.penalty_alpha, options.top_k or 1)
        return TokenLoop(replace(writing, read=search.read), search)
    if options.best_of is not None:
        return BestOf(writing, scorer)
    return TokenLoop(writing)

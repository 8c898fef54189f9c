"""The engine: requests from any thread, one thread that owns the model's state."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zhixing.core.device import free_memory_bytes
from zhixing.core.errors import BadInput
from zhixing.generation.engine.blocks import Blocks
from zhixing.generation.engine.request import Request, Wishes
from zhixing.generation.engine.scheduler import Scheduler
from zhixing.generation.engine.workers import NativeWorker, Worker
from zhixing.generation.options import SamplingOptions
from zhixing.generation.prompts import Prompt, encode_prompt
from zhixing.generation.result import Generation
from zhixing.generation.sequence import Limits, begin_answer, end_tokens
from zhixing.generation.stopping import StoppingRule
from zhixing.native.decoder import NativeDecoder, decoder_of
from zhixing.native.runtime import PAGE

if TYPE_CHECKING:
    from zhixing.generation.sampling import Filter, LogitsProcessor
    from zhixing.models.network import CausalNetwork
    from zhixing.tokenization.tokenizer import Tokenizer

MOST_RUNNING = 32
CACHE_TOKENS = 32768
"""Tokens of the cache unless told otherwise, or two full contexts; it takes at most a third of the free memory."""


@dataclass(frozen=True)
class Load:
    """What an engine has to do, for those who watch it.

    Attributes:
        running: Requests of which every step reads something.
        waiting: Requests that have not begun.
        blocks: Blocks of the cache.
        free: Those that can be had.
        block_tokens: Tokens of a block.
        prompt_tokens: Tokens of all prompts so far.
        found: Those of them that were found in the cache.
        preempted: How often a request had to give its blocks up.
        steps: Steps so far.
    """

    running: int
    waiting: int
    blocks: int
    free: int
    block_tokens: int
    prompt_tokens: int
    found: int
    preempted: int
    steps: int


class Engine:
    """Writes many answers at once with one model.

    Every answer is the one that its prompt, options and seed give alone, whatever is written beside it.

    Args:
        model: The network; the engine uses it alone, in evaluation mode.
        tokenizer: Its tokenizer; None allows prompts of token ids only, and answers without text.
        owned: The model is used for nothing but writing, so that its weights may be laid out anew in memory.
        cache_tokens: Tokens that the key-value cache holds; None: see `CACHE_TOKENS`.
        most: Most answers that are written together; others wait.

    Raises:
        MissingResource: The cache does not fit into memory.
    """

    def __init__(
        self,
        model: CausalNetwork | NativeDecoder,
        tokenizer: Tokenizer | None,
        *,
        owned: bool = False,
        cache_tokens: int | None = None,
        most: int = MOST_RUNNING,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        wanted = cache_tokens or max(CACHE_TOKENS, 2 * min(model.config.context, CACHE_TOKENS))
        self._worker: Worker
        if (decoder := decoder_of(model)) is not None:
            if cache_tokens is None:
                wanted = max(PAGE, min(wanted, free_memory_bytes() // 3 // decoder.runtime.page_bytes * PAGE))
            self._worker = NativeWorker(decoder, tokenizer, -(-wanted // PAGE))
        else:
            from zhixing.generation.engine.torch_worker import TorchWorker

            assert not isinstance(model, NativeDecoder)
            self._worker = TorchWorker(model, tokenizer, owned)
        self._blocks = Blocks(-(-wanted // self._worker.block), self._worker.block, self._worker.shares)
        self._scheduler = Scheduler(self._blocks, self._worker.step_tokens, most)
        self._begin_thread()
        self._closing = self._forgetting = False
        self._preempted = self._steps = 0

    def _begin_thread(self) -> None:
        """Makes what threads meet at; the thread itself begins with the first request."""
        self._changed = threading.Condition()
        self._arrived: list[Request] = []
        self._left: list[Request] = []
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def _begin_in_child(self) -> None:
        """Begins anew behind a fork: the thread is the parent's, and so are the answers that were under way."""
        self._begin_thread()
        under_way = [*self._scheduler.running, *self._scheduler.waiting]
        for request in under_way:
            request.end("interrupted", "the process was forked")
        self._clear(under_way)

    @staticmethod
    def why_not(options: SamplingOptions) -> str | None:
        """Returns the option that needs a `Generator`, because it compares or rereads texts; None when all is well."""
        for name, asked in (
            ("num_beams", options.beams), ("penalty_alpha", options.contrastive), ("best_of", options.best_of),
            ("guidance_scale", options.guidance_scale != 1), ("sliding", options.sliding),
        ):  # fmt: skip
            if asked:
                return name
        return None

    def submit(
        self,
        prompt: Prompt,
        options: SamplingOptions | None = None,
        *,
        sample: int = 0,
        index: int = 0,
        where: str | None = None,
        processors: Sequence[LogitsProcessor] = (),
        filters: Sequence[Filter] = (),
        rules: Sequence[StoppingRule] = (),
    ) -> Request:
        """Begins an answer, from any thread.

        Args:
            prompt: A text, or token ids.
            options: How to choose, when to stop; `n` is not looked at.
            sample: Which of several answers to the prompt this is: with the same seed each is another one.
            index: Which of several prompts this is, for the result.
            where: The same in words, for messages.
            processors: Logits processors of the user's own, for this answer alone.
            filters: Filters, likewise.
            rules: Stopping rules, likewise.

        Raises:
            BadInput: The prompt cannot be read or does not fit, or an option is not for the engine.
        """
        options = options or SamplingOptions()
        if (name := self.why_not(options)) is not None:
            raise BadInput(f"{name} compares several texts, which the engine does not", remedy="use Generator")
        model, tokenizer = self.model, self.tokenizer
        ends = end_tokens(options, tokenizer)
        limits = Limits(options, ends, model.config.context, rules)
        seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
        answer = begin_answer(
            encode_prompt(prompt, tokenizer, model.config, where), index, sample, seed, limits, tokenizer, where
        )
        deadline = time.monotonic() + options.max_seconds if options.max_seconds is not None else None
        choice = self._worker.choice(answer, Wishes(processors, filters))
        request = Request(answer, choice, self._abort, deadline)
        room = self._blocks.count * self._blocks.size
        if request.longest > room:
            raise BadInput(
                f"prompt and answer can come to {request.longest} tokens, the cache holds {room}",
                remedy="lower max_tokens, or give the engine a larger cache",
            )
        if self._process != os.getpid():
            self._begin_in_child()
        with self._changed:
            if self._closing:
                raise BadInput("the engine is closed", remedy="make another one")
            self._arrived.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="zhixing-engine", daemon=True)
                self._thread.start()
            self._changed.notify()
        return request

    def generate(self, prompts: Sequence[Prompt], options: SamplingOptions | None = None) -> list[Generation]:
        """Answers every prompt `options.n` times, like `Generator.generate`; Ctrl-C ends all where they are."""
        options = options or SamplingOptions()
        requests: list[Request] = []
        try:
            for index, prompt in enumerate(prompts):
                seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
                where = f"prompt {index + 1} of {len(prompts)}" if len(prompts) > 1 else None
                requests += [
                    self.submit(prompt, options.replace(seed=seed), sample=sample, index=index, where=where)
                    for sample in range(options.drawn)
                ]
            return [request.generation() for request in requests]
        except BaseException as error:
            for request in requests:
                request.abort()
            if isinstance(error, KeyboardInterrupt):
                return [request.generation() for request in requests]
            raise

    def load(self) -> Load:
        """Tells what there is to do, from any thread."""
        scheduler, blocks = self._scheduler, self._blocks
        waiting = len(scheduler.waiting) + len(self._arrived)
        return Load(
            len(scheduler.running), waiting, blocks.count, blocks.free, blocks.size, scheduler.prompt_tokens,
            scheduler.found, self._preempted, self._steps,
        )  # fmt: skip

    def forget(self) -> None:
        """Forgets the prefixes that nobody uses: prompts that come from now on are read from their beginning."""
        with self._changed:
            self._forgetting = True

    def close(self) -> None:
        """Ends all answers and the thread; the engine cannot be used again."""
        if self._process != os.getpid():
            self._begin_in_child()
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _abort(self, request: Request) -> None:
        with self._changed:
            self._left.append(request)
            self._changed.notify()

    def _serve(self) -> None:
        """The engine's thread."""
        while self._receive():
            self._step()
        for request in [*self._scheduler.running, *self._scheduler.waiting, *self._arrived]:
            request.end("interrupted", "the engine was closed")
            request.finish()

    def _receive(self) -> bool:
        """Takes in what other threads want; waits while there is nothing to do. False when the engine is closed."""
        scheduler = self._scheduler
        with self._changed:
            while not (self._arrived or self._left or self._closing or scheduler.running or scheduler.waiting):
                self._changed.wait()
            arrived, self._arrived = self._arrived, []
            left, self._left = self._left, []
            closing = self._closing
            forgetting, self._forgetting = self._forgetting, False
        if forgetting:
            self._blocks.clear()
        for request in arrived:
            scheduler.add(request)
        for request in left:
            request.end("interrupted", "stopped by the user")
        now = time.monotonic()
        for request in [*scheduler.running, *scheduler.waiting]:
            if request.deadline is not None and now >= request.deadline:
                request.end("time", f"max_seconds ({request.answer.limits.options.max_seconds:g}) over")
        self._clear([request for request in (*scheduler.running, *scheduler.waiting) if request.answer.reason])
        return not closing

    def _clear(self, ended: Sequence[Request]) -> None:
        for request in ended:
            self._scheduler.remove(request)
        self._worker.forget(ended)
        for request in ended:
            request.finish()

    def _step(self) -> None:
        """Runs a step, or several in one go; what goes wrong in it is told to those whose it is."""
        scheduler = self._scheduler
        pieces = scheduler.step()
        if scheduler.preempted:
            self._preempted += len(scheduler.preempted)
            self._worker.forget(scheduler.preempted)
        if not pieces:
            return
        try:
            steps = scheduler.ahead(pieces, self._worker.longest([piece.request for piece in pieces]))
            self._steps += self._worker.run(pieces, steps, scheduler.done)
        except Exception as error:  # noqa: BLE001  every user learns of it; the thread must live on for the others
            for piece in pieces:
                piece.request.fail(error)
        self._clear([piece.request for piece in pieces if piece.request.answer.reason is not None])

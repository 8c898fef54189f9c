"""The plain strategy: one token per step for every answer, each by itself, whoever chooses it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from zhixing.generation.history import History
from zhixing.generation.rows import Rows
from zhixing.generation.sampling import Context, Sampler
from zhixing.generation.sequence import Sequence as Answer
from zhixing.generation.writing import Pieces, Writing, end_all, token_logprobs


class Chooser(Protocol):
    """Chooses the next token of every row."""

    def __call__(self, logits: Tensor, context: Context, generators: Sequence[random.Random]) -> Tensor:
        """Maps logits, (rows, vocab), to tokens, (rows); each row has a source of random numbers of its own."""


class TokenLoop:
    """Writes every answer token by token; the samples of one prompt share its reading.

    Args:
        writing: The call.
        choose: Chooses the tokens; None: the likeliest, or a draw, as the options say.
    """

    def __init__(self, writing: Writing, choose: Chooser | None = None) -> None:
        self._writing = writing
        options = writing.options
        self._choose = choose or Sampler(writing.processors, writing.filters, options.greedy)
        self._judged = options.logprobs is not None or options.best_of is not None

    def pieces(self) -> Pieces:
        """See `Strategy`."""
        writing, options = self._writing, self._writing.options
        live = list(writing.answers)
        started = time.monotonic()
        rows = writing.read([answer.prompt.tokens for answer in live if answer.sample == 0], writing.room)
        logits = rows.logits
        if options.drawn > 1:
            copies = torch.arange(len(logits), device=logits.device).repeat_interleave(options.drawn)
            rows.keep(copies)
            logits = logits[copies]
        history = History(live, writing.device, bool(writing.processors))
        writing.prompt_seconds = time.monotonic() - started
        while True:
            logprobs = logits.float().log_softmax(-1) if self._judged else None
            chosen = self._choose(logits, history.context(), [answer.random for answer in live])
            if logprobs is not None:
                self._judge(live, logprobs, chosen)
            history.append(chosen)
            for answer, token in zip(live, chosen.tolist(), strict=True):
                if piece := answer.take(token):
                    yield answer, piece
            if writing.late:
                yield from self.end("time", f"max_seconds ({options.max_seconds:g}) over")
            left = [row for row, answer in enumerate(live) if answer.reason is None]
            if not left:
                return
            changed = len(left) < len(live)
            if changed:
                live = [live[row] for row in left]
                kept = torch.tensor(left, device=chosen.device)
                chosen = chosen[kept]
                history.keep(kept)
            if options.sliding and max(len(answer.window) for answer in live) > writing.context:
                rows = self._slide(live)
            else:
                if changed:
                    rows.keep(kept)
                rows.feed(chosen)
            logits = rows.logits

    def _slide(self, live: Sequence[Answer]) -> Rows:
        """Reads the newer half of every full context anew, as if it were the prompt; the others' contexts whole."""
        context = self._writing.context
        for answer in live:
            if len(answer.window) > context:
                answer.forgotten = answer.length - max(1, context // 2)
        return self._writing.read([answer.window for answer in live], context)

    def _judge(self, live: Sequence[Answer], logprobs: Tensor, chosen: Tensor) -> None:
        """Notes how likely the model itself held the chosen tokens."""
        for answer, entry in zip(
            live, token_logprobs(logprobs, chosen, self._writing.options.logprobs or 0), strict=True
        ):
            answer.logprob += entry.logprob
            if self._writing.options.logprobs is not None:
                answer.logprobs.append(entry)

    def end(self, reason: str, detail: str) -> list[tuple[Answer, str]]:
        """See `Strategy`."""
        return end_all(self._writing.answers, reason, detail)

    def results(self) -> list[Answer]:
        """See `Strategy`."""
        return self._writing.answers

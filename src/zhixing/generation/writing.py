"""One call of the generator: what every strategy needs to write the answers, and what strategies have in common."""

from __future__ import annotations

import time
from collections.abc import Generator as Coroutine
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from zhixing.generation.options import SamplingOptions
from zhixing.generation.result import TokenLogprob
from zhixing.generation.rows import Reader
from zhixing.generation.sampling import Filter, LogitsProcessor
from zhixing.generation.sequence import Sequence as Answer

Pieces = Coroutine[tuple[Answer, str], None, None]
"""Answers and the text that each has just been given."""


@dataclass
class Writing:
    """What a strategy works on.

    Attributes:
        options: What is asked for.
        answers: The answers to write, empty so far, those of one prompt side by side.
        read: Reads prompts.
        context: Tokens that the model can read at once.
        device: Where the tokens are.
        processors: What changes the logits, in order.
        filters: What then narrows the choice, in order.
        deadline: When to stop, by `time.monotonic`; None: never.
        on_core: The network is on the C++ core, whose threads may look at the logits, too.
        prompt_seconds: Time that the reading of the prompts took.
    """

    options: SamplingOptions
    answers: list[Answer]
    read: Reader
    context: int
    device: torch.device
    processors: Sequence[LogitsProcessor]
    filters: Sequence[Filter]
    deadline: float | None = None
    on_core: bool = False
    prompt_seconds: float = 0.0

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def room(self) -> int:
        """Tokens of the longest possible answer."""
        return max(answer.longest_answer for answer in self.answers)


class Strategy(Protocol):
    """A way to write the answers of one call."""

    def pieces(self) -> Pieces:
        """Writes them, giving out text as soon as it is certain; `results` may be called when this is over."""

    def end(self, reason: str, detail: str) -> list[tuple[Answer, str]]:
        """Ends all answers where they are; returns those that this gave text to."""

    def results(self) -> list[Answer]:
        """Returns the answers, prompt by prompt."""


@contextmanager
def alone_on(model: nn.Module) -> Iterator[None]:
    """Keeps PyTorch to one thread, this one, beside a network that computes on threads of its own."""
    threads = torch.get_num_threads()
    if threads == 1 or not getattr(model, "own_threads", False):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def end_all(answers: Sequence[Answer], reason: str, detail: str) -> list[tuple[Answer, str]]:
    """Ends the answers that have not ended; returns those that had held back text, with it."""
    ended = [(answer, answer.end(reason, detail)) for answer in answers if answer.reason is None]
    return [(answer, rest) for answer, rest in ended if rest]


def token_logprobs(logprobs: Tensor, chosen: Tensor, count: int) -> list[TokenLogprob]:
    """Returns what the result tells of the chosen tokens.

    Args:
        logprobs: The model's own, (rows, vocab).
        chosen: Token ids, (rows).
        count: Likeliest tokens to tell, too.
    """
    own = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
    values, tokens = (part.tolist() for part in logprobs.topk(min(count, logprobs.shape[1]), dim=-1))
    return [
        TokenLogprob(token, logprob, tuple(zip(ids, top, strict=True)))
        for token, logprob, top, ids in zip(chosen.tolist(), own, values, tokens, strict=True)
    ]

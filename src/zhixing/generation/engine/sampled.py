"""Choosing tokens on tensors: every processor, every filter, log-probabilities. Needs PyTorch, whatever computes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.generation.chain import processors_for
from zhixing.generation.engine.request import Wishes
from zhixing.generation.filters import filters_for
from zhixing.generation.history import History
from zhixing.generation.sampling import Sampler, likeliest
from zhixing.generation.sequence import Sequence as Answer
from zhixing.generation.writing import token_logprobs

if TYPE_CHECKING:
    from zhixing.generation.engine.request import Request
    from zhixing.tokenization.tokenizer import Tokenizer


class Sampled:
    """How one answer's tokens are chosen.

    Args:
        answer: The answer, empty so far.
        wishes: What was asked for beside the options.
        tokenizer: The model's, for processors that look at texts.
        vocab_size: The model's.
        device: Where the logits are.
    """

    def __init__(
        self, answer: Answer, wishes: Wishes, tokenizer: Tokenizer | None, vocab_size: int, device: torch.device
    ) -> None:
        options, ends = answer.limits.options, answer.limits.end_tokens
        chain = processors_for(options, ends=ends, tokenizer=tokenizer, vocab_size=vocab_size, device=device)
        filters = [*filters_for(options), *wishes.filters]
        self.sampler = Sampler([*chain, *wishes.processors], filters, options.greedy)
        self.history = History([answer], device, bool(self.sampler.processors))

    @property
    def plain(self) -> bool:
        """Whether the next token is the likeliest one, and nothing else is asked."""
        return self.sampler.greedy and not self.sampler.processors


@torch.inference_mode()
def choose_sampled(requests: Sequence[Request], logits: Tensor) -> None:
    """Gives every request its next token: logits (requests, vocab). An error ends only the request whose it is."""
    plain = [row for row, request in enumerate(requests) if _of(request).plain]
    best: dict[int, int] = {}
    if plain:
        rows = logits if len(plain) == len(requests) else logits[plain]
        with suppress(BadInput):  # then each by itself, below, to find whose it is
            best = dict(zip(plain, likeliest(rows.float()).tolist(), strict=True))
    for row, request in enumerate(requests):
        try:
            _give(request, logits[row : row + 1], best.get(row))
        except Exception as error:  # noqa: BLE001  its user learns of it
            request.fail(error)


def _of(request: Request) -> Sampled:
    assert isinstance(request.choice, Sampled)
    return request.choice


def _give(request: Request, logits: Tensor, best: int | None) -> None:
    choice, answer = _of(request), request.answer
    count = answer.limits.options.logprobs
    logprobs = logits.float().log_softmax(-1) if count is not None else None
    if best is None:
        best = int(choice.sampler(logits, choice.history.context(), [answer.random]))
    if logprobs is not None:
        entry = token_logprobs(logprobs, torch.tensor([best], device=logits.device), count or 0)[0]
        answer.logprob += entry.logprob
        answer.logprobs.append(entry)
    if choice.sampler.processors:
        choice.history.append(torch.tensor([best], device=logits.device))
    request.give(best)

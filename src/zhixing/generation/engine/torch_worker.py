"""Running a step of the scheduler with PyTorch, sequence by sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from zhixing.generation.engine.request import Request, Wishes
from zhixing.generation.engine.sampled import Sampled, choose_sampled
from zhixing.generation.engine.scheduler import Piece
from zhixing.generation.sequence import Sequence as Answer
from zhixing.models.decoding import Step, decode_step
from zhixing.models.network import Cache, CausalNetwork
from zhixing.tokenization.tokenizer import Tokenizer

TORCH_BLOCK, TORCH_STEP = 16, 512
"""Where PyTorch computes, blocks only count memory: each sequence has a cache of its own."""


class TorchWorker:
    """PyTorch's modules: each request has a cache of its own, and its pieces are read by themselves.

    Args:
        model: The network.
        tokenizer: Its tokenizer, or None.
        owned: Its weights may be laid out anew in memory.
    """

    block, step_tokens, shares = TORCH_BLOCK, TORCH_STEP, False

    def __init__(self, model: CausalNetwork, tokenizer: Tokenizer | None, owned: bool) -> None:
        self._model, self._tokenizer, self._owned = model.eval(), tokenizer, owned
        self._caches: dict[int, Cache] = {}
        self._steps: dict[int, Step] = {}

    def choice(self, answer: Answer, wishes: Wishes) -> Sampled:
        """See `Worker`."""
        return Sampled(answer, wishes, self._tokenizer, self._model.config.vocab_size, self._model.device)

    def longest(self, requests: Sequence[Request]) -> int:
        """See `Worker`: one, for tokens are chosen between steps."""
        return 1

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece], steps: int, done: Callable[[Piece], None]) -> int:
        """See `Worker`."""
        rows = [self._read(piece) for piece in pieces]
        for piece in pieces:
            done(piece)
        whole = [number for number, piece in enumerate(pieces) if piece.last]
        if whole:
            choose_sampled([pieces[number].request for number in whole], torch.cat([rows[number] for number in whole]))
        return 1

    def _read(self, piece: Piece) -> Tensor:
        request, key = piece.request, id(piece.request)
        if key not in self._caches:
            self._caches[key] = self._model.new_cache(1, request.longest)
        cache, device = self._caches[key], self._model.device
        tokens = torch.tensor([request.tokens[request.read : request.read + piece.size]], device=device)
        if piece.size > 1 or request.read == 0:
            return self._model.next_logits(tokens, cache)
        if key not in self._steps:
            self._steps[key] = decode_step(self._model, cache, self._owned)
        return self._steps[key](tokens[0])

    def forget(self, requests: Iterable[Request]) -> None:
        """See `Worker`."""
        for request in requests:
            self._caches.pop(id(request), None)
            self._steps.pop(id(request), None)

"""Running a step of the scheduler with PyTorch, sequence by sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """Reads the pieces; returns the logits behind those that are whole, (whole, vocab)."""
        rows = [self._read(piece) for piece in pieces]
        whole = [row for row, piece in zip(rows, pieces, strict=True) if piece.last]
        return torch.cat(whole) if whole else rows[0][:0]

    def choose(self, requests: Sequence[Request], rows: Tensor) -> None:
        """See `Worker`."""
        choose_sampled(requests, rows)

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

"""Contrastive search (Su et al. 2022): likely tokens that do not make the text circle around itself.

Of the k likeliest tokens the one is chosen that maximises

    (1 - alpha) * p(token) - alpha * max over all tokens before it of cos(hidden state of token, hidden state of that).

Every candidate is read by the network, so that its hidden state and, if it is chosen, the next logits are known.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.generation.checks import not_numbers
from zhixing.generation.rows import Rows, padded
from zhixing.generation.sampling import Context, LogitsProcessor, processed
from zhixing.models.cache import KVCache
from zhixing.models.network import CausalNetwork
from zhixing.models.transformer import Transformer


class ContrastiveSearch:
    """Reads prompts, chooses tokens, and is the rows that they are chosen for; `TokenLoop` drives it.

    In the cache every text has k rows, which differ in the newest token at most.

    Args:
        model: A Transformer, in evaluation mode.
        processors: What changes the logits before, in order.
        alpha: Weight of being different.
        k: Candidates.

    Raises:
        BadInput: The model is no Transformer, so that it has no hidden states of single tokens.
    """

    logits: Tensor

    def __init__(self, model: CausalNetwork, processors: Sequence[LogitsProcessor], alpha: float, k: int) -> None:
        if not isinstance(model, Transformer):
            raise BadInput(
                f"contrastive search compares hidden states of tokens, which {type(model).__name__} does not have",
                remedy="leave penalty_alpha out",
            )
        self._model, self._processors = model, processors
        self._alpha, self._k = alpha, min(k, model.config.vocab_size)
        self._cache: KVCache
        self._states: Tensor  # (texts, capacity, width): hidden states of all tokens so far, of length 1
        self._chosen: Tensor  # (texts, width): those of the tokens just chosen
        self._choice: Tensor  # (texts): which candidates these were

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> Rows:
        """See `Reader`."""
        model = self._model
        tokens, padding = padded(prompts, model.device)
        batch, time = tokens.shape
        self._cache = model.new_cache(batch, time + room, padding)
        hidden = model.hidden_states(tokens, cache=self._cache)  # (texts, time, width)
        self._states = hidden.new_zeros((batch, self._cache.capacity, hidden.shape[2]))
        self._states[:, :time] = F.normalize(hidden, dim=-1)
        self.logits = model.logits(hidden[:, -1])
        self._cache.repeat(self._k)
        return self

    def __call__(self, logits: Tensor, context: Context, generators: Sequence[random.Random]) -> Tensor:
        """Maps logits, (texts, vocab), to the chosen tokens, (texts)."""
        if self._processors:
            logits = processed(logits, context, self._processors)
        shares, tokens = logits.float().softmax(-1).topk(self._k)  # (texts, k)
        if bool(shares.isnan().any()):
            raise not_numbers()
        length = self._cache.length
        hidden = self._model.hidden_states(tokens.reshape(-1, 1), cache=self._cache).view(*tokens.shape, -1)
        states = F.normalize(hidden, dim=-1)  # (texts, k, width)
        alike = states @ self._states[:, :length].transpose(1, 2)  # (texts, k, time)
        hollow = torch.arange(length, device=tokens.device) < context.padding[:, None]
        alike = alike.masked_fill(hollow[:, None], -1.0).amax(-1)
        scores = (1 - self._alpha) * shares - self._alpha * alike
        self._choice = scores.argmax(-1)
        texts = torch.arange(len(tokens), device=tokens.device)
        self._chosen = states[texts, self._choice]
        self.logits = self._model.logits(hidden[texts, self._choice])
        return tokens[texts, self._choice]

    def feed(self, tokens: Tensor) -> None:
        """See `Rows`: the chosen tokens were read as candidates already."""
        newest = self._cache.length - 1
        self._states[:, newest] = self._chosen
        first = torch.arange(len(tokens), device=tokens.device) * self._k
        self._cache.reorder((first + self._choice).repeat_interleave(self._k))

    def keep(self, rows: Tensor) -> None:
        """See `Rows`."""
        every = (rows[:, None] * self._k + torch.arange(self._k, device=rows.device)).flatten()
        self._cache.keep(every)
        self._states, self._chosen, self._choice = self._states[rows], self._chosen[rows], self._choice[rows]
        self.logits = self.logits[rows]

"""How likely a model holds given continuations of a prompt: choosing among labels without writing anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.generation.memory import Memory
from zhixing.generation.rows import NetworkRows
from zhixing.models.cache import KVCache
from zhixing.models.network import CausalNetwork
from zhixing.native.network import NativeCache


class Likelihoods:
    """Log-probabilities of continuations.

    What several continuations have in common is read once, and so is what a prompt has in common with the one before:
    instructions that stand in front of every text cost nothing from the second text on.

    Args:
        model: The network, in evaluation mode.
        owned: The model's weights may be laid out anew in memory.
    """

    def __init__(self, model: CausalNetwork, owned: bool = False) -> None:
        self.model = model
        self._memory = Memory(model, owned)

    @torch.inference_mode()
    def __call__(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
        """Returns log p(continuation | prompt) in nats, summed over its tokens.

        Args:
            prompt: Token ids, at least one.
            continuations: Token ids, each at least one.

        Raises:
            BadInput: Prompt and continuation are longer than the model's context.
        """
        longest = max(map(len, continuations))
        if not prompt or not all(continuations):
            raise BadInput("a prompt and its continuations have at least one token each")
        if len(prompt) + longest > self.model.config.context:
            raise BadInput(
                f"{len(prompt)} tokens and a continuation of {longest} are more than the model reads"
                f" ({self.model.config.context})"
            )
        rows = self._memory.read([list(prompt)], longest)
        assert isinstance(rows, NetworkRows)
        sums = [0.0] * len(continuations)
        self._walk(list(prompt), rows.logits[0], continuations, list(range(len(continuations))), 0, rows, sums)
        if isinstance(rows.cache, KVCache | NativeCache):
            rows.cache.length = len(prompt)
        else:
            self._memory.clear()
        return sums

    def _walk(
        self,
        read: list[int],
        logits: Tensor,
        continuations: Sequence[Sequence[int]],
        alive: list[int],
        depth: int,
        rows: NetworkRows,
        sums: list[float],
    ) -> None:
        """Adds the log-probabilities of the tokens at `depth` of those continuations that share what was read."""
        logs = torch.log_softmax(logits.float(), dim=-1)
        following: dict[int, list[int]] = {}
        for index in alive:
            token = continuations[index][depth]
            sums[index] += float(logs[token])
            if len(continuations[index]) > depth + 1:
                following.setdefault(token, []).append(index)
        for token, group in following.items():
            longer = [*read, token]
            self._walk(longer, self._read(longer, rows), continuations, group, depth + 1, rows, sums)

    def _read(self, tokens: list[int], rows: NetworkRows) -> Tensor:
        """Returns the logits behind tokens of which all but the last were read before."""
        cache = rows.cache
        if isinstance(cache, KVCache | NativeCache):
            cache.length = len(tokens) - 1
            last = torch.tensor([tokens[-1:]], device=self.model.device)
            return self.model.next_logits(last, cache)[0]
        # A state that cannot be taken back: read anew.
        return NetworkRows(self.model, [tokens], 1).logits[0]

"""What generation, measuring and training need of any network that predicts the next token.

The Transformer, recurrent networks and n-gram models are all such networks; whoever calls only what stands here works
with each of them. What is not here: encoders, whose heads have interfaces of their own.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

UNBOUNDED = 1 << 30
"""The context of a network that carries all it knows of the past in a state of fixed size: no prompt is too long."""


class Cache(Protocol):
    """What a network keeps of the tokens that it has read, for several sequences side by side."""

    def repeat(self, times: int) -> None:
        """Copies every sequence `times` times, side by side: several samples share one reading of the prompt."""

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given sequences, in the given order: rows (n) of indices.

        One may come several times, as beams need it, but there are never more than before: `repeat` makes more.
        """


class NetworkConfig(Protocol):
    """What every network's configuration can tell."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens that are predicted."""

    @property
    def context(self) -> int:
        """Longest sequence in tokens; `UNBOUNDED` where there is no limit."""

    def parameter_count(self) -> int:
        """Returns the number of learned values."""

    def flops_per_token(self, context: int) -> float:
        """Returns the floating-point operations of one training step, per token of sequences of this length."""

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""


class CausalNetwork(nn.Module):
    """A network that predicts each token from those before it.

    A class that derives from this one implements `config`, `new_cache`, `next_logits`, `losses` and, when it is trained
    by gradients, `loss_sum`.
    """

    checkpoint_activations: int = 0
    """Forward passes of at least so many tokens compute activations again for the gradient; 0: none does."""

    own_threads: bool = False
    """Whether it computes on threads of its own. PyTorch's, which spin for a while after each operation that they
    share, would then take processors away from them, and should not be used between two steps."""

    @property
    def config(self) -> NetworkConfig:
        """Its sizes."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where its weights are, and where tokens are expected."""
        return next(self.parameters()).device

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> Cache:
        """Makes an empty cache.

        Args:
            batch: Sequences side by side.
            capacity: Tokens that each may come to.
            padding: For prompts padded on the left: how many positions of each sequence are padding, (batch).
        """
        raise NotImplementedError

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens behind those in the cache, and extends it.

        Args:
            tokens: (batch, time).
            cache: From this network's `new_cache`.

        Returns:
            Logits of the token after the last one, (batch, vocab).
        """
        raise NotImplementedError

    def loss_sum(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the summed cross-entropy in nats of the targets that are not `models.loss.IGNORED`; with gradient.

        Args:
            tokens: (batch, time).
            targets: The token after each, (batch, time).
            segments: The number of the document that each token belongs to, (batch, time); nothing is carried over
                from one document to the next.
        """
        raise NotImplementedError

    def losses(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the cross-entropy in nats of every position, (batch, time), 0 where IGNORED; without gradient."""
        raise NotImplementedError

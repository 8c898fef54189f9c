"""What training, generation and measuring need of any network that reads a source and writes a target.

The Transformer (`models.transformer_seq2seq`) and recurrent networks (`models.recurrent_seq2seq`) are both such
networks; whoever calls only what stands here works with each of them.
"""

from __future__ import annotations

from typing import Generic, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from zhixing.core.errors import BadInput
from zhixing.models import ops
from zhixing.models.loss import cross_entropy_sum, token_losses
from zhixing.models.network import CausalNetwork, NetworkConfig
from zhixing.models.ragged import Ragged

SourcesT = TypeVar("SourcesT", default=Ragged)
"""What is read: texts as a ragged batch of tokens, or images as pixel values."""


class EncoderDecoderConfig(NetworkConfig, Protocol):
    """What the configuration of every such network can tell; `vocab_size` and `context` are those of the targets."""

    @property
    def start(self) -> int:
        """The token that every target begins behind."""

    @property
    def source_vocab_size(self) -> int:
        """Number of tokens that sources are made of."""

    @property
    def source_context(self) -> int:
        """Longest source in tokens; `network.UNBOUNDED` where there is no limit."""


class EncoderDecoder(nn.Module, Generic[SourcesT]):
    """A network that reads a source and predicts each token of its target from those before it.

    A class that derives from this one implements `config`, `output_matrix`, `hidden_states` and `reading`.
    """

    checkpoint_activations: int = 0
    """Forward passes of at least so many tokens compute activations again for the gradient; 0: none does."""

    @property
    def config(self) -> EncoderDecoderConfig:
        """Its sizes."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where its weights are, and where tokens are expected."""
        return next(self.parameters()).device

    @property
    def output_matrix(self) -> Tensor:
        """The matrix that maps what `hidden_states` returns to the vocabulary, (vocab, output)."""
        raise NotImplementedError

    @property
    def output_bias(self) -> Tensor | None:
        """What is added to the logits, (vocab), if anything."""
        return None

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights."""
        raise NotImplementedError

    def hidden_states(self, sources: SourcesT, inputs: Ragged) -> Tensor:
        """Returns what the head reads, (total of the targets, output).

        Args:
            sources: The texts to read; images for some networks.
            inputs: Of each, the start token and its target but for the last token.

        Raises:
            BadInput: There are not as many sources as targets, or one is too long.
        """
        raise NotImplementedError

    def reading(self, sources: SourcesT) -> CausalNetwork:
        """Returns the decoder behind these sources, one row each, as a causal network: all that generation needs.

        Args:
            sources: The texts, which are read at once.
        """
        raise NotImplementedError

    @torch.no_grad()
    def greedy(self, sources: SourcesT, count: int, end: int, most: int) -> list[list[int]]:
        """Writes the likeliest token again and again, for measuring in training; `generation` knows all other ways.

        Args:
            sources: See `hidden_states`.
            count: How many there are.
            end: The token that ends a text; it is left out.
            most: Longest text.

        Returns:
            The tokens of each text.
        """
        network = self.reading(sources)
        cache = network.new_cache(count, most + 1)
        tokens = torch.full((count, 1), self.config.start, device=self.device)
        written: list[Tensor] = []
        over = torch.zeros(count, dtype=torch.bool, device=self.device)
        for _ in range(most):
            tokens = network.next_logits(tokens, cache).argmax(dim=-1, keepdim=True)  # (count, 1)
            over |= tokens[:, 0] == end
            if over.all():
                break
            written.append(tokens.masked_fill(over[:, None], end))
        rows = torch.cat(written, dim=1).tolist() if written else [[]] * count
        return [row[: row.index(end)] if end in row else row for row in rows]

    def logits(self, hidden: Tensor) -> Tensor:
        """Maps what `hidden_states` returns to logits, (..., vocab)."""
        return ops.linear(hidden, self.output_matrix, self.output_bias)

    def forward(self, sources: SourcesT, inputs: Ragged) -> Tensor:
        """Returns the logits behind each token of the inputs, (total, vocab); see `hidden_states`."""
        return self.logits(self.hidden_states(sources, inputs))

    def loss_sum(self, sources: SourcesT, inputs: Ragged, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Returns the summed cross-entropy in nats of the targets that are not `models.loss.IGNORED`; with gradient.

        Args:
            sources: See `hidden_states`.
            inputs: Likewise.
            targets: The token behind each of the inputs, (total).
            smoothing: Share of every target that is spread evenly over the vocabulary (Szegedy et al. 2016).
        """
        hidden = self.hidden_states(sources, inputs)
        return cross_entropy_sum(hidden, self.output_matrix, targets, bias=self.output_bias, smoothing=smoothing)

    def losses(self, sources: SourcesT, inputs: Ragged, targets: Tensor) -> Tensor:
        """Returns the cross-entropy in nats of every target, (total), 0 where IGNORED; without gradient."""
        with torch.no_grad():
            hidden = self.hidden_states(sources, inputs)
            return token_losses(hidden, self.output_matrix, targets, bias=self.output_bias)

    def shifted(self, targets: Ragged) -> Ragged:
        """Returns the inputs that go with whole targets: each behind the start token, without its last token."""
        tokens = targets.tokens.roll(1)
        tokens[targets.starts] = self.config.start
        return Ragged(tokens, targets.lengths)


def check_pairs(sources: int, inputs: Ragged) -> None:
    """Refuses sources and targets that are not pairs.

    Raises:
        BadInput: There are more of the one than of the other.
    """
    if sources != len(inputs.lengths):
        raise BadInput(f"{sources} sources do not go with {len(inputs.lengths)} targets")


def check_rows(sources: int, batch: int, padding: Tensor | None) -> None:
    """Refuses a cache that does not begin with one row for each source, all at their start.

    Raises:
        BadInput: It does not.
    """
    if batch != sources or padding is not None:
        raise BadInput(
            f"{sources} sources are written for from beginnings of one length, got {batch}"
            + (" of unequal length" if padding is not None else ""),
            remedy="guidance and sliding contexts are not for encoder-decoders",
        )

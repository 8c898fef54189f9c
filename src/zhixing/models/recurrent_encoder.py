"""Recurrent encoders in both directions (Schuster & Paliwal 1997; Graves & Schmidhuber 2005, the BiLSTM).

They read ragged batches and give one vector per token, as `models.encoder` does, so every head of `models.heads` stands
on them: masked words, labels, tags with or without a CRF (Huang et al. 2015), spans, pooling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig
from zhixing.models.dropout import Dropout
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.models.layers import Embedding
from zhixing.models.network import UNBOUNDED
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent import CELLS, Cell, State, initialise_cells, make_cells, recurrent_parameters, run_ragged


@dataclass(frozen=True, slots=True)
class RecurrentEncoderConfig:
    """A recurrent encoder.

    Attributes:
        vocab_size: Rows of the embedding table.
        cell: Which kind of cell.
        embedding: Size of the embeddings.
        hidden: Size of the state of each layer and direction.
        layers: Cells on top of each other.
        bidirectional: Also read from the end; the two outputs stand side by side.
        dropout: Share of embeddings, of what goes from layer to layer, and of the outputs zeroed in training.
        init_std: Standard deviation of the initial embeddings.
    """

    vocab_size: int
    cell: Cell
    embedding: int
    hidden: int
    layers: int
    bidirectional: bool = True
    dropout: float = 0.0
    init_std: float = 1.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embedding", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise BadInput(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.cell not in CELLS:
            raise BadInput(f"a recurrent cell is one of {', '.join(CELLS)}, got {self.cell!r}")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"model.dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def directions(self) -> int:
        """2 when it reads from both ends."""
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        """Size of the vector of each token."""
        return self.directions * self.hidden

    @property
    def context(self) -> int:
        """There is no longest input."""
        return UNBOUNDED

    def parameter_count(self) -> int:
        """Returns the number of learned values."""
        cells = recurrent_parameters(self.cell, self.embedding, self.hidden, self.layers, directions=self.directions)
        return self.vocab_size * self.embedding + cells

    def flops_per_token(self, context: int) -> float:
        """Returns six operations per weight that takes part in a matrix product."""
        return 6.0 * recurrent_parameters(
            self.cell, self.embedding, self.hidden, self.layers, directions=self.directions, bias=False
        )

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""
        both = "Bi" if self.bidirectional else ""
        return f"{both}{self.cell.upper()}, {self.layers} layers, {self.hidden} wide"

    def for_heads(self) -> TransformerConfig:
        """Returns what a head must know, in the terms of the Transformer that it would otherwise stand on."""
        return TransformerConfig(
            vocab_size=self.vocab_size, width=self.width, layers=1, heads=1, kv_heads=1, head_dim=self.width,
            mlp_width=self.width, context=self.context, norm="layer", norm_eps=1e-5, position="none",
            activation="gelu", gated=False, causal=False, init_std=self.width**-0.5,
        )  # fmt: skip


class RecurrentEncoder(nn.Module):
    """Turns token sequences into one vector per token.

    Args:
        config: What to build.
    """

    def __init__(self, config: RecurrentEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.embedding)
        self.dropout = Dropout(config.dropout)
        self.cells = make_cells(
            config.cell, config.embedding, config.hidden, config.layers, config.dropout,
            bidirectional=config.bidirectional,
        )  # fmt: skip

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights."""
        nn.init.normal_(self.embedding.weight, std=self.config.init_std, generator=generator)
        initialise_cells(self.cells, generator)

    def forward(self, batch: Ragged) -> Tensor:
        """Returns one vector per token, (total, width): what was read up to it, and what was read back to it."""
        return self.read(batch)[0]

    def read(self, batch: Ragged) -> tuple[Tensor, State]:
        """Returns the vectors, (total, width), and the states behind each sequence's ends.

        A state is (layers * directions, sequences, hidden): of each layer the forward one behind the last token, then
        the backward one behind the first.
        """
        if batch.types is not None and bool(batch.types.any()):
            raise BadInput("a recurrent encoder knows no second sentence", remedy="join the two with a separator token")
        out, state = run_ragged(self.cells, self.dropout(self.embedding(batch.tokens)), batch.lengths)
        return self.dropout(out), state


def recurrent_encoder_model(config: RecurrentEncoderConfig, head: HeadConfig) -> EncoderModel:
    """Returns a recurrent encoder with a head on it.

    Raises:
        BadInput: The head sums a sequence up by its first token, which a one-way encoder reads before all others.
    """
    first = head.summary if head.kind == "classify" else head.pooling if head.kind == "pool" else "mean"
    if first == "first" and not config.bidirectional:
        raise BadInput(
            "the first token's vector of an encoder that reads in one direction knows nothing of what follows",
            remedy="choose another summary (mean, max), or a bidirectional encoder",
        )
    return EncoderModel(config.for_heads(), head, RecurrentEncoder(config))

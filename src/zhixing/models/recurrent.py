"""Recurrent language models: plain (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al. 2014) cells.

The cells are torch's own. What is ours: embedding and head around them, initialisation, starting anew at the beginning
of a document inside a block, and reading prompts of unequal length together. Encoders in both directions are in
`recurrent_encoder`, attention and encoder-decoders in `recurrent_seq2seq`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from zhixing.core.errors import BadInput
from zhixing.models import ops
from zhixing.models.dropout import Dropout
from zhixing.models.layers import Embedding, Linear
from zhixing.models.loss import IGNORED, cross_entropy_sum, token_losses
from zhixing.models.network import UNBOUNDED, Cache, CausalNetwork

Cell = Literal["rnn", "lstm", "gru"]
CELLS: tuple[Cell, ...] = ("rnn", "lstm", "gru")
GATES: dict[Cell, int] = {"rnn": 1, "lstm": 4, "gru": 3}

State = tuple[Tensor, ...]
"""What a network carries on: the hidden state, (layers, batch, hidden), and for an LSTM the cells', likewise."""


@dataclass(frozen=True, slots=True)
class RecurrentConfig:
    """A recurrent language model.

    Attributes:
        vocab_size: Rows of the embedding table and of the output head.
        cell: Which kind.
        width: Size of the embeddings.
        hidden: Size of the state of each layer.
        layers: Cells on top of each other.
        tied: The output head shares the embedding table (Press & Wolf 2017); where `hidden` differs from `width`, a
            matrix maps the one to the other.
        dropout: Share of embeddings, of what goes from layer to layer, and of the outputs zeroed in training.
        init_std: Standard deviation of the initial embeddings; None means 1, or 1 / sqrt(width) where they are tied.
        zero_init_outputs: Start a separate head at zero.
    """

    vocab_size: int
    cell: Cell
    width: int
    hidden: int
    layers: int
    tied: bool = False
    dropout: float = 0.0
    init_std: float | None = None
    zero_init_outputs: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise BadInput(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.cell not in CELLS:
            raise BadInput(f"a recurrent cell is one of {', '.join(CELLS)}, got {self.cell!r}")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"model.dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def context(self) -> int:
        """There is no limit: the state has one size, however long the text."""
        return UNBOUNDED

    @property
    def projected(self) -> bool:
        """Whether a matrix stands between the state and the tied table."""
        return self.tied and self.hidden != self.width

    def parameter_count(self) -> int:
        """Returns the number of learned values, a tied table counted once."""
        cells = recurrent_parameters(self.cell, self.width, self.hidden, self.layers)
        head = self.projected * self.hidden * self.width + (not self.tied) * self.vocab_size * self.hidden
        return self.vocab_size * self.width + cells + head

    def flops_per_token(self, context: int) -> float:
        """Returns six operations per weight that takes part in a matrix product."""
        cells = recurrent_parameters(self.cell, self.width, self.hidden, self.layers, bias=False)
        out = self.width if self.tied else self.hidden
        return 6.0 * (cells + self.projected * self.hidden * self.width + self.vocab_size * out)

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""
        return f"{self.cell.upper()}, {self.layers} layers, {self.hidden} wide"


def recurrent_parameters(
    cell: Cell, width: int, hidden: int, layers: int, *, directions: int = 1, bias: bool = True
) -> int:
    """Returns the number of weights in cells on top of each other."""
    inputs = width + (layers - 1) * hidden * directions
    return directions * GATES[cell] * hidden * (inputs + layers * (hidden + 2 * bias))


class _Unfilled:
    """Torch's cells, which fill themselves at random: not where they have no memory yet (see `layers.Embedding`)."""

    def reset_parameters(self) -> None:
        """Fills the weights."""
        if not next(self.parameters()).is_meta:  # type: ignore[attr-defined]
            super().reset_parameters()  # type: ignore[misc]


class _RNN(_Unfilled, nn.RNN):
    pass


class _LSTM(_Unfilled, nn.LSTM):
    pass


class _GRU(_Unfilled, nn.GRU):
    pass


def make_cells(
    cell: Cell, width: int, hidden: int, layers: int, dropout: float = 0.0, *, bidirectional: bool = False
) -> nn.RNNBase:
    """Returns torch's cells, reading (batch, time, width)."""
    kinds: dict[Cell, type[nn.RNNBase]] = {"rnn": _RNN, "lstm": _LSTM, "gru": _GRU}
    between = dropout if layers > 1 else 0.0
    return kinds[cell](  # type: ignore[call-arg]
        input_size=width, hidden_size=hidden, num_layers=layers, dropout=between, batch_first=True,
        bidirectional=bidirectional,
    )  # fmt: skip


@torch.no_grad()
def initialise_cells(cells: nn.RNNBase, generator: torch.Generator | None = None) -> None:
    """Draws fresh weights, gate by gate: orthogonal from state to state (Saxe et al. 2014), scaled by the inputs else.

    An LSTM's forget gates begin open: their bias is 1 (Jozefowicz et al. 2015).
    """
    hidden = cells.hidden_size
    for name, parameter in cells.named_parameters():
        if name.startswith("weight_hh"):
            for gate in torch.split(parameter, hidden):
                nn.init.orthogonal_(gate, generator=generator)
        elif name.startswith("weight_ih"):
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
        else:
            nn.init.zeros_(parameter)
            if isinstance(cells, nn.LSTM) and name.startswith("bias_ih"):
                parameter[hidden : 2 * hidden] = 1.0


def run_ragged(
    cells: nn.RNNBase, values: Tensor, lengths: Sequence[int], state: State | None = None
) -> tuple[Tensor, State]:
    """Runs sequences of unequal length together, each from its first element to its last, without padding.

    Args:
        cells: Torch's cells.
        values: All sequences end to end, (total, width).
        lengths: How long each is, at least 1.
        state: Where they begin, (layers, sequences, hidden); zero when not given.

    Returns:
        The outputs, (total, outputs), and the state behind each one's last element.
    """
    count = len(lengths)
    if min(lengths) == max(lengths):
        out, after = cells(values.view(count, lengths[0], -1), as_torch_state(cells, state))
        return out.reshape(len(values), -1), as_state(after)
    sizes = torch.tensor(lengths)
    by_length = sizes.argsort(descending=True, stable=True)
    rank = by_length.argsort()
    owners = torch.repeat_interleave(torch.arange(count), sizes)
    positions = torch.arange(len(values)) - (sizes.cumsum(0) - sizes)[owners]
    # As torch packs them: the first elements of all, the longest sequence first, then all second elements, and so on.
    places = (positions * count + rank[owners]).argsort().to(values.device)
    packed = PackedSequence(
        values[places], torch.bincount(positions), by_length.to(values.device), rank.to(values.device)
    )
    out, after = cells(packed, as_torch_state(cells, state))
    return out.data[places.argsort()], as_state(after)


def as_state(state: Tensor | tuple[Tensor, Tensor]) -> State:
    """Returns torch's state as a tuple, whatever the cell."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def as_torch_state(cells: nn.RNNBase, state: State | None) -> Tensor | State | None:
    """Returns a state in the form that torch's cells take."""
    return state if state is None or isinstance(cells, nn.LSTM) else state[0]


class RecurrentCache:
    """The states of several sequences.

    Args:
        state: None before anything is read.
        padding: How many of the next tokens of each sequence are padding, (batch), or None.
    """

    def __init__(self, state: State | None = None, padding: Tensor | None = None) -> None:
        self.state, self.padding = state, padding

    def repeat(self, times: int) -> None:
        """Copies every sequence `times` times, side by side."""
        if self.state is not None:
            self.state = tuple(part.repeat_interleave(times, dim=1) for part in self.state)

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given sequences, in the given order: rows (n) of indices."""
        if self.state is not None:
            self.state = tuple(part[:, rows].contiguous() for part in self.state)


class RecurrentNetwork(CausalNetwork):
    """A recurrent language model.

    Args:
        config: What to build.
    """

    projection: Linear | None
    head: Linear | None

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self._config = config
        self.embedding = Embedding(config.vocab_size, config.width)
        self.dropout = Dropout(config.dropout)
        self.cells = make_cells(config.cell, config.width, config.hidden, config.layers, config.dropout)
        self.projection = Linear(config.hidden, config.width, bias=False) if config.projected else None
        self.head = None if config.tied else Linear(config.hidden, config.vocab_size, bias=False)

    @property
    def config(self) -> RecurrentConfig:
        """What it was built from."""
        return self._config

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights."""
        config = self.config
        std = config.init_std or (config.width**-0.5 if config.tied else 1.0)
        nn.init.normal_(self.embedding.weight, std=std, generator=generator)
        initialise_cells(self.cells, generator)
        for matrix in (self.projection, self.head):
            if matrix is not None:
                nn.init.normal_(matrix.weight, std=config.hidden**-0.5, generator=generator)
        if self.head is not None and config.zero_init_outputs:
            nn.init.zeros_(self.head.weight)

    @property
    def output_matrix(self) -> Tensor:
        """The matrix that maps to the vocabulary, (vocab, width or hidden)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> RecurrentCache:
        """Makes the cache of sequences that nothing is known of yet."""
        return RecurrentCache(None, padding)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens, (batch, time), behind those in the cache; returns the logits of the next, (batch, vocab)."""
        assert isinstance(cache, RecurrentCache)
        x = self._embed(tokens)
        if cache.padding is None:
            out, state = self.cells(x, as_torch_state(self.cells, cache.state))
            cache.state, last = as_state(state), out[:, -1]
        else:
            kept = torch.arange(tokens.shape[1], device=x.device) >= cache.padding[:, None]  # (batch, time)
            lengths = (tokens.shape[1] - cache.padding).tolist()
            out, cache.state = run_ragged(self.cells, x[kept], lengths)
            ends = torch.tensor(lengths).cumsum(0) - 1
            cache.padding, last = None, out[ends.to(out.device)]
        return ops.linear(self._output(last), self.output_matrix)

    def hidden_states(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns what the output matrix reads, (batch, time, width or hidden), of sequences from their beginning.

        Args:
            tokens: (batch, time).
            segments: The number of the document that each token belongs to, (batch, time): the state starts anew with
                each.
        """
        x = self._embed(tokens)
        if segments is None:
            return self._output(self.cells(x)[0])
        lengths = torch.bincount(_documents(segments)).tolist()
        out, _ = run_ragged(self.cells, x.flatten(0, 1), lengths)
        return self._output(out.view(*tokens.shape, -1))

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the logits, (batch, time, vocab)."""
        return ops.linear(self.hidden_states(tokens, segments), self.output_matrix)

    def loss_sum(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the summed cross-entropy of the targets in nats; divide by their number yourself."""
        return cross_entropy_sum(self.hidden_states(tokens, segments), self.output_matrix, targets)

    def losses(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the cross-entropy of every position, (batch, time), 0 where IGNORED, without gradient."""
        with torch.no_grad():
            hidden = self.hidden_states(tokens, segments)
            kept = targets != IGNORED
            wanted = token_losses(hidden[kept][None], self.output_matrix, targets[kept][None])
            return torch.zeros(targets.shape, dtype=wanted.dtype, device=wanted.device).masked_scatter_(kept, wanted)

    def _embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.dropout(self.embedding(tokens))
        return x

    def _output(self, out: Tensor) -> Tensor:
        out = self.dropout(out)
        return out if self.projection is None else self.projection(out)


def _documents(segments: Tensor) -> Tensor:
    """Numbers the stretches of equal segment through all rows, (batch * time)."""
    changes = torch.ones_like(segments)
    changes[:, 1:] = (segments[:, 1:] != segments[:, :-1]).to(changes.dtype)
    return changes.flatten().cumsum(0) - 1

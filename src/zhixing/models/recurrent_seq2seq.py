"""Recurrent encoder-decoders with attention: the translation models of Bahdanau et al. (2015) and Luong et al. (2015).

    Bahdanau: c_i = attention(s_{i-1}),  s_i = cell([y_{i-1}; c_i], s_{i-1}),  o_i = tanh(W [s_i; c_i; y_{i-1}])
    Luong:    s_i = cell([y_{i-1}; o_{i-1}], s_{i-1}),  c_i = attention(s_i),  o_i = tanh(W [s_i; c_i])

The head reads o. Without input feeding Luong's cell reads y alone, and all its steps are computed at once. The
interface is that of all encoder-decoders (`models.encoder_decoder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models.dropout import Dropout
from zhixing.models.encoder_decoder import EncoderDecoder, check_pairs, check_rows
from zhixing.models.layers import Embedding, Linear
from zhixing.models.network import UNBOUNDED, Cache, CausalNetwork
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent import (
    State,
    as_state,
    as_torch_state,
    initialise_cells,
    make_cells,
    recurrent_parameters,
    run_ragged,
)
from zhixing.models.recurrent_attention import Score, SourceAttention
from zhixing.models.recurrent_encoder import RecurrentEncoder, RecurrentEncoderConfig

Kind = Literal["bahdanau", "luong"]


@dataclass(frozen=True, slots=True)
class RecurrentSeq2SeqConfig:
    """A recurrent encoder and the decoder that reads it, with as many layers of the same kind of cell.

    Attributes:
        encoder: The encoder.
        vocab_size: Tokens of the targets.
        embedding: Size of the targets' embeddings.
        hidden: Size of the decoder's state in each layer.
        start: The token that every target begins behind.
        attention: Whose decoder it is.
        score: How states and source vectors are held against each other; Bahdanau's is additive.
        input_feeding: Luong's cell also reads what the head read a step before.
        shared: Both sides have one table of token embeddings.
        tied: The head shares the targets' table.
        dropout: Share of embeddings, of what goes from layer to layer, and of the outputs zeroed in training.
    """

    encoder: RecurrentEncoderConfig
    vocab_size: int
    embedding: int
    hidden: int
    start: int
    attention: Kind = "luong"
    score: Score = "general"
    input_feeding: bool = False
    shared: bool = False
    tied: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embedding", "hidden"):
            if getattr(self, name) < 1:
                raise BadInput(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.start < self.vocab_size:
            raise BadInput(f"the start token {self.start} is outside of the vocabulary of {self.vocab_size}")
        if self.attention == "bahdanau" and (self.score != "additive" or self.input_feeding):
            raise BadInput("the decoder of Bahdanau et al. has additive attention and feeds no outputs back")
        sizes = (self.encoder.vocab_size, self.encoder.embedding)
        if self.shared and sizes != (self.vocab_size, self.embedding):
            raise BadInput(
                f"a table that both sides share has one size for both, not {sizes[0]} x {sizes[1]} and"
                f" {self.vocab_size} x {self.embedding}"
            )
        if not 0 <= self.dropout < 1:
            raise BadInput(f"model.dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def context(self) -> int:
        """There is no longest target."""
        return UNBOUNDED

    @property
    def source_vocab_size(self) -> int:
        """Tokens of the sources."""
        return self.encoder.vocab_size

    @property
    def source_context(self) -> int:
        """There is no longest source."""
        return UNBOUNDED

    @property
    def output(self) -> int:
        """Size of what the head reads."""
        return self.embedding if self.tied else self.hidden

    @property
    def cell_inputs(self) -> int:
        """Size of what the lowest cell reads."""
        if self.attention == "bahdanau":
            return self.embedding + self.encoder.width
        return self.embedding + self.input_feeding * self.output

    def parameter_count(self) -> int:
        """Returns the number of learned values, shared ones counted once."""
        with torch.device("meta"):
            model = RecurrentEncoderDecoder(self)
        return sum(parameter.numel() for parameter in model.parameters())

    def flops_per_token(self, context: int) -> float:
        """Returns six operations per weight that takes part in a matrix product, with one source token per target."""
        encoder = self.encoder
        cells = recurrent_parameters(encoder.cell, self.cell_inputs, self.hidden, encoder.layers, bias=False)
        combine = self.output * (self.hidden + encoder.width + (self.attention == "bahdanau") * self.embedding)
        keys = 0 if self.score == "dot" else self.hidden * encoder.width
        queries = self.hidden * self.hidden if self.score == "additive" else 0
        decoder = cells + combine + keys + queries + self.vocab_size * self.output
        return encoder.flops_per_token(context) + 6.0 * decoder

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""
        name = {"bahdanau": "Bahdanau's", "luong": "Luong's"}[self.attention]
        return f"{self.encoder.describe()}, decoder {self.hidden} wide with {name} attention"


class Bridge(nn.Module):
    """Makes the decoder's first states of the encoder's last: tanh(W [forward; backward] + b), layer by layer.

    An LSTM's cells are mapped likewise, by matrices of their own.
    """

    def __init__(self, config: RecurrentSeq2SeqConfig) -> None:
        super().__init__()
        self.layers, self.parts = config.encoder.layers, 2 if config.encoder.cell == "lstm" else 1
        self.maps = nn.ModuleList(Linear(config.encoder.width, config.hidden) for _ in range(self.layers * self.parts))

    def forward(self, state: State) -> State:
        """Maps (layers * directions, sources, hidden of the encoder) to (layers, sources, hidden of the decoder)."""
        parts = []
        for number, part in enumerate(state):
            by_layer = part.view(self.layers, -1, *part.shape[1:])  # (layers, directions, sources, hidden)
            joined = by_layer.transpose(1, 2).flatten(2)  # (layers, sources, width)
            maps = self.maps[number * self.layers : (number + 1) * self.layers]
            parts.append(torch.stack([torch.tanh(one(row)) for one, row in zip(maps, joined, strict=True)]))
        return tuple(parts)


@dataclass
class Sources:
    """What a decoder reads, prepared once for all of its steps.

    Attributes:
        keys: (sources, longest, hidden).
        vectors: (sources, longest, width).
        present: Where there is a token, (sources, longest); None: everywhere.
    """

    keys: Tensor
    vectors: Tensor
    present: Tensor | None

    def rows(self, rows: Tensor) -> Sources:
        """Returns some sources, in this order, several times where asked."""
        return Sources(self.keys[rows], self.vectors[rows], None if self.present is None else self.present[rows])


class RecurrentEncoderDecoder(EncoderDecoder):
    """Reads a source and predicts each token of its target from those before it.

    Args:
        config: What to build.
    """

    head: Linear | None

    def __init__(self, config: RecurrentSeq2SeqConfig) -> None:
        super().__init__()
        self._config = config
        self.encoder = RecurrentEncoder(config.encoder)
        width = config.encoder.width
        self.embedding = self.encoder.embedding if config.shared else Embedding(config.vocab_size, config.embedding)
        self.bridge = Bridge(config)
        self.attention = SourceAttention(config.hidden, width, config.score)
        self.cells = make_cells(
            config.encoder.cell, config.cell_inputs, config.hidden, config.encoder.layers, config.dropout
        )
        seen = config.hidden + width + (config.embedding if config.attention == "bahdanau" else 0)
        self.combine = Linear(seen, config.output, bias=False)
        self.head = None if config.tied else Linear(config.output, config.vocab_size, bias=False)
        self.dropout = Dropout(config.dropout)

    @property
    def config(self) -> RecurrentSeq2SeqConfig:
        """What it was built from."""
        return self._config

    @property
    def output_matrix(self) -> Tensor:
        """The matrix that maps to the vocabulary, (vocab, output)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights: the cells' as in `recurrent`, Glorot's for other matrices, biases zero."""
        self.encoder.initialise(generator)
        initialise_cells(self.cells, generator)
        if self.config.tied or not self.config.shared:
            std = self.config.embedding**-0.5 if self.config.tied else 1.0
            nn.init.normal_(self.embedding.weight, std=std, generator=generator)
        for part in (self.bridge, self.attention, self.combine, self.head):
            for parameter in part.parameters() if part is not None else ():
                if parameter.dim() == 2:
                    nn.init.xavier_uniform_(parameter, generator=generator)
                else:
                    nn.init.zeros_(parameter)

    def read(self, sources: Ragged) -> tuple[Sources, State]:
        """Reads sources; returns what the decoder looks at, and the states that it begins with."""
        vectors, state = self.encoder.read(sources)
        rows, present = sources.padded(vectors)
        ragged = min(sources.lengths) != max(sources.lengths)
        return Sources(self.attention.keys(rows), rows, present if ragged else None), self.bridge(state)

    def hidden_states(self, sources: Ragged, inputs: Ragged) -> Tensor:
        """Returns what the head reads, (total of the targets, output); see `EncoderDecoder.hidden_states`."""
        check_pairs(len(sources.lengths), inputs)
        read, state = self.read(sources)
        embedded = self.dropout(self.embedding(inputs.tokens))  # (total, embedding)
        if self.config.attention == "luong" and not self.config.input_feeding:
            out, _ = run_ragged(self.cells, embedded, inputs.lengths, state)
            rows, _ = inputs.padded(out)
            context, _ = self.attention(rows, read.keys, read.vectors, read.present)
            seen = torch.cat((out, context[inputs.owners, inputs.positions]), dim=-1)
            y: Tensor = self.dropout(torch.tanh(self.combine(seen)))
            return y
        rows, _ = inputs.padded(embedded)
        outs, feed = [], embedded.new_zeros(len(rows), self.config.output)
        for x in rows.unbind(1):
            feed, state = self.step(x, feed, state, read)
            outs.append(feed)
        return torch.stack(outs, dim=1)[inputs.owners, inputs.positions]

    def step(self, x: Tensor, feed: Tensor, state: State, sources: Sources) -> tuple[Tensor, State]:
        """Does one step of the decoder.

        Args:
            x: Embeddings of the tokens before, (rows, embedding).
            feed: What the head read a step before, (rows, output); zero at first.
            state: (layers, rows, hidden).
            sources: One per row.

        Returns:
            What the head reads, (rows, output), and the next state.
        """
        if self.config.attention == "bahdanau":
            context = self._look(state[0][-1], sources)
            out, state = self._cell(torch.cat((x, context), dim=-1), state)
            return self.dropout(torch.tanh(self.combine(torch.cat((out, context, x), dim=-1)))), state
        out, state = self._cell(torch.cat((x, feed), dim=-1) if self.config.input_feeding else x, state)
        context = self._look(out, sources)
        return self.dropout(torch.tanh(self.combine(torch.cat((out, context), dim=-1)))), state

    def _look(self, state: Tensor, sources: Sources) -> Tensor:
        context, _ = self.attention(state[:, None], sources.keys, sources.vectors, sources.present)
        y: Tensor = context[:, 0]
        return y

    def _cell(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        out, after = self.cells(x[:, None], as_torch_state(self.cells, state))
        return out[:, 0], as_state(after)

    def reading(self, sources: Ragged) -> ReadingRecurrentDecoder:
        """Returns the decoder behind these sources, one row each, as a causal network: all that generation needs."""
        with torch.no_grad():
            return ReadingRecurrentDecoder(self, sources)


class DecoderCache:
    """What the decoder carries on for several rows: its state, what it feeds back, and the source of each row."""

    def __init__(self, state: State, feed: Tensor, sources: Sources) -> None:
        self.state, self.feed, self.sources = state, feed, sources

    def repeat(self, times: int) -> None:
        """Copies every row `times` times, side by side."""
        self.keep(torch.arange(len(self.feed), device=self.feed.device).repeat_interleave(times))

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given rows, in the given order: rows (n) of indices."""
        self.state = tuple(part[:, rows].contiguous() for part in self.state)
        self.feed, self.sources = self.feed[rows], self.sources.rows(rows)


class ReadingRecurrentDecoder(CausalNetwork):
    """The decoder that has read its sources: predicts each target token from those before it.

    Args:
        model: The whole network.
        sources: The texts that it reads, now.
    """

    def __init__(self, model: RecurrentEncoderDecoder, sources: Ragged) -> None:
        super().__init__()
        self.model, self.training = model, model.training
        model.eval()
        self._read, self._state = model.read(sources)
        model.train(self.training)

    @property
    def config(self) -> RecurrentSeq2SeqConfig:
        """The whole network's."""
        return self.model.config

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> DecoderCache:
        """Makes the cache of the rows' beginnings, one for each source."""
        check_rows(len(self._read.keys), batch, padding)
        return DecoderCache(self._state, self._state[0].new_zeros(batch, self.config.output), self._read)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens, (rows, time), behind those in the cache; returns the logits of the next, (rows, vocab)."""
        assert isinstance(cache, DecoderCache)
        for x in self.model.embedding(tokens).unbind(1):
            cache.feed, cache.state = self.model.step(x, cache.feed, cache.state, cache.sources)
        return self.model.logits(cache.feed)

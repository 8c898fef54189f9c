"""The Transformer that reads a source and writes a target (Vaswani et al. 2017): an encoder, and the decoder behind it.

It is the encoder of `models.encoder` and the one `models.transformer` with cross-attention, with their embeddings
shared where the configuration says so. T5, BART and Marian are points in its space; see `families`. Training reads
ragged batches: no product is ever computed for padding, only attention lays its rows out with some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig
from zhixing.models.cross_attention import Source
from zhixing.models.encoder import Encoder
from zhixing.models.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderConfig,
    SourcesT,
    check_pairs,
    check_rows,
)
from zhixing.models.network import Cache, CausalNetwork
from zhixing.models.ragged import Ragged
from zhixing.models.transformer import Transformer


class BehindReading:
    """What a configuration says of its decoder's side, whatever the decoder reads."""

    __slots__ = ()
    decoder: TransformerConfig
    start: int

    @property
    def vocab_size(self) -> int:
        """Tokens of the targets."""
        return self.decoder.vocab_size

    @property
    def context(self) -> int:
        """Longest target in tokens."""
        return self.decoder.context

    def check_start(self) -> None:
        """Refuses a start token that the decoder does not know."""
        if not 0 <= self.start < self.vocab_size:
            raise BadInput(f"the start token {self.start} is outside of the vocabulary of {self.vocab_size}")


@dataclass(frozen=True, slots=True)
class TransformerSeq2SeqConfig(BehindReading):
    """An encoder and the decoder that reads it.

    Attributes:
        encoder: The encoder; not causal.
        decoder: The decoder; its `cross_width` is the encoder's width.
        start: The token that every target begins behind.
        shared: Both sides have one table of token embeddings.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    start: int
    shared: bool = True

    def __post_init__(self) -> None:
        encoder, decoder = self.encoder, self.decoder
        if encoder.causal or not decoder.causal:
            raise BadInput("an encoder sees all positions, and a decoder those before it")
        if decoder.cross_width != encoder.width:
            raise BadInput(
                f"the decoder reads states of width {decoder.cross_width}, but the encoder's have {encoder.width}"
            )
        sizes = [(c.vocab_size, c.embedding_width or c.width) for c in (encoder, decoder)]
        if self.shared and sizes[0] != sizes[1]:
            raise BadInput(f"a table that both sides share has one size for both, not {sizes[0]} and {sizes[1]}")
        self.check_start()

    @property
    def source_vocab_size(self) -> int:
        """Tokens of the sources."""
        return self.encoder.vocab_size

    @property
    def source_context(self) -> int:
        """Longest source in tokens."""
        return self.encoder.context

    def parameter_count(self) -> int:
        """Returns the number of learned values, shared ones counted once."""
        with torch.device("meta"):
            model = TransformerEncoderDecoder(self)
        return sum(parameter.numel() for parameter in model.parameters())

    def flops_per_token(self, context: int) -> float:
        """Returns the floating-point operations of one training step, per target token with one source token."""
        encoder = self.encoder
        # An encoder has no head.
        read = encoder.flops_per_token(context) - 6.0 * encoder.vocab_size * encoder.width
        return read + self.decoder.flops_per_token(context)

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""
        encoder, decoder = self.encoder, self.decoder
        return f"{encoder.layers} + {decoder.layers} layers, {decoder.width} wide, {decoder.heads} heads"


class ReadingTransformer(EncoderDecoder[SourcesT]):
    """What all share whose decoder is the one Transformer; a class that derives from this one implements `read`."""

    decoder: Transformer

    @property
    def output_matrix(self) -> Tensor:
        """The matrix that maps to the vocabulary, (vocab, width)."""
        return self.decoder.output_matrix

    @property
    def output_bias(self) -> Tensor | None:
        """What is added to the logits, (vocab), if anything."""
        return self.decoder.head_bias

    def read(self, sources: SourcesT) -> Source:
        """Reads sources; returns what the decoder's layers look at, one row for each."""
        raise NotImplementedError

    def hidden_states(self, sources: SourcesT, inputs: Ragged) -> Tensor:
        """Returns what the head reads, (total of the targets, width); see `EncoderDecoder.hidden_states`."""
        if max(inputs.lengths) > self.config.context:
            raise BadInput(
                f"a target has {max(inputs.lengths)} tokens; the decoder writes at most {self.config.context}"
            )
        source = self.read(sources)
        check_pairs(len(source.owners), inputs)
        return self.decoder.hidden_states(inputs.tokens[None], source=source, layout=inputs)[0]

    def reading(self, sources: SourcesT) -> ReadingDecoder[SourcesT]:
        """Returns the decoder behind these sources, one row each, as a causal network: all that generation needs."""
        with torch.no_grad():
            return ReadingDecoder(self, sources)


class TransformerEncoderDecoder(ReadingTransformer):
    """Reads a source and predicts each token of its target from those before it.

    Args:
        config: What to build.
    """

    def __init__(self, config: TransformerSeq2SeqConfig) -> None:
        super().__init__()
        self._config = config
        self.encoder = Encoder(config.encoder)
        self.decoder = Transformer(config.decoder)
        if config.shared:
            self.decoder.embedding = self.encoder.embedding

    @property
    def config(self) -> TransformerSeq2SeqConfig:
        """What it was built from."""
        return self._config

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights: each side its own; tables that are scaled with a deviation of 1 / sqrt(width)."""
        self.decoder.initialise(generator)
        self.encoder.initialise(generator)
        for side, config in ((self.encoder, self.config.encoder), (self.decoder, self.config.decoder)):
            if config.scale_embeddings:
                nn.init.normal_(side.embedding.weight, std=config.width**-0.5, generator=generator)
        for name, parameter in self.named_parameters():
            if self.config.decoder.attention_scale is not None and name.endswith(".query.weight"):
                # Queries make up for scores that are not scaled (Raffel et al. 2020).
                parameter.data.mul_(self.config.decoder.head_dim**-0.5 / self.config.decoder.attention_scale)

    def read(self, sources: Ragged) -> Source:
        """Reads sources; returns what the decoder's layers look at, one row for each."""
        states = self.encoder(sources)  # (total, width)
        rows = sources.rows(states)
        return self.decoder.read_source(rows, None if sources.even else sources.present)


class ReadingDecoder(CausalNetwork, Generic[SourcesT]):
    """The decoder that has read its sources: predicts each target token from those before it.

    Args:
        model: The whole network.
        sources: What it reads, now.
    """

    def __init__(self, model: ReadingTransformer[SourcesT], sources: SourcesT) -> None:
        super().__init__()
        self.model, self.training = model, model.training
        model.eval()
        self._source = model.read(sources)
        model.train(self.training)

    @property
    def config(self) -> EncoderDecoderConfig:
        """The whole network's."""
        return self.model.config

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> Cache:
        """Makes the cache of the rows' beginnings, one for each source."""
        check_rows(len(self._source.owners), batch, padding)
        cache = self.model.decoder.new_cache(batch, capacity)
        cache.source = self._source
        return cache

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens, (rows, time), behind those in the cache; returns the logits of the next, (rows, vocab)."""
        return self.model.decoder.next_logits(tokens, cache)

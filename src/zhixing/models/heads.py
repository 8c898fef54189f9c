"""What stands on an encoder: masked words, replaced words, labels of sequences and tokens, spans, sentence vectors.

Each head maps the encoder's vectors of a ragged batch to scores; what is wanted of them is the objective's matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models import ops
from zhixing.models.config import TransformerConfig
from zhixing.models.crf import LinearChainCRF
from zhixing.models.dropout import Dropout
from zhixing.models.encoder import Encoder
from zhixing.models.layers import Linear, Norm, activate
from zhixing.models.ragged import Ragged

if TYPE_CHECKING:
    from zhixing.models.recurrent_encoder import RecurrentEncoder

HeadKind = Literal["none", "masked", "replaced", "classify", "tag", "span", "pool"]
HeadActivation = Literal["tanh", "relu", "gelu"]
PoolingMode = Literal["mean", "first", "max", "mean_sqrt"]


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """What an encoder's head gives.

    Attributes:
        kind: `masked` scores the vocabulary at each token, `replaced` whether a token was replaced, `classify` the
            labels of a sequence, `tag` those of each token, `span` begins and ends of answers, `pool` one vector per
            sequence; `none` leaves the encoder's vectors.
        labels: Names of the labels, for `classify` and `tag`.
        problem: Of `classify`: exactly one label, any number of labels, or a number (regression).
        activation: Between the two layers of `classify`.
        crf: Score tags as a chain.
        summary: What `classify` reads of a sequence: the first token's vector, or all of them pooled.
        pooling: How `pool` makes one vector of many.
        normalise: Scale the pooled vector to length one.
        dropout: In front of the last layer.
    """

    kind: HeadKind = "none"
    labels: tuple[str, ...] = ()
    problem: Literal["single", "multi", "regression"] = "single"
    activation: HeadActivation = "tanh"
    crf: bool = False
    summary: PoolingMode = "first"
    pooling: PoolingMode = "mean"
    normalise: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.kind in ("classify", "tag") and not self.labels:
            raise BadInput(f"a head that can {self.kind} needs labels")
        if self.crf and self.kind != "tag":
            raise BadInput("only tags are scored as a chain", remedy="set crf to false, or the kind to tag")


class MaskedHead(nn.Module):
    """Scores the vocabulary: decode(norm(activation(dense(x)))), the decoder often tied (Devlin et al. 2019)."""

    def __init__(self, config: TransformerConfig, embedding: nn.Embedding) -> None:
        super().__init__()
        size = embedding.embedding_dim
        self.dense = Linear(config.width, size)
        self.norm = Norm(config, size)
        self.decoder = None if config.tied else Linear(size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.activation = config.activation
        self._embedding = [embedding]  # in a list, lest it count as a part of this module

    @property
    def output_matrix(self) -> Tensor:
        """The matrix that maps to the vocabulary, (vocab, size)."""
        return self._embedding[0].weight if self.decoder is None else self.decoder.weight

    def transform(self, x: Tensor) -> Tensor:
        """Maps (n, width) to what the output matrix reads, (n, size)."""
        if self.activation == "gelu":
            hidden = ops.linear_gelu(x, self.dense.weight, self.dense.bias)
        else:
            hidden = activate(self.dense(x), self.activation)
        y: Tensor = self.norm(hidden)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, width) to (n, vocab)."""
        return ops.linear(self.transform(x), self.output_matrix, self.bias)


class ReplacedHead(nn.Module):
    """Scores whether each token was replaced (Clark et al. 2020, ELECTRA)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width)
        self.out = Linear(config.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, width) to (n), above 0 where a replacement is likelier than not."""
        scores: Tensor = self.out(F.gelu(self.dense(x)))
        return scores[:, 0]


class ClassificationHead(nn.Module):
    """Scores labels of a sequence from one vector, usually the first token's: out(activation(dense(x)))."""

    def __init__(self, config: TransformerConfig, head: HeadConfig) -> None:
        super().__init__()
        self.activation = head.activation
        self.dense = Linear(config.width, config.width)
        self.dropout = Dropout(head.dropout)
        self.out = Linear(config.width, len(head.labels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (sequences, width) to (sequences, labels)."""
        hidden = self.dense(x)
        match self.activation:
            case "tanh":
                hidden = torch.tanh(hidden)
            case "relu":
                hidden = F.relu(hidden)
            case "gelu":
                hidden = F.gelu(hidden)
        y: Tensor = self.out(self.dropout(hidden))
        return y


class TokenHead(nn.Module):
    """Scores each token by itself: out(x); for tags, and for the two ends of a span."""

    crf: LinearChainCRF | None

    def __init__(self, width: int, scores: int, dropout: float = 0.0, crf: bool = False) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.out = Linear(width, scores)
        self.crf = LinearChainCRF(scores) if crf else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, width) to (n, scores)."""
        y: Tensor = self.out(self.dropout(x))
        return y


def pool(vectors: Tensor, batch: Ragged, mode: PoolingMode, normalise: bool) -> Tensor:
    """Makes one vector of each sequence (Reimers & Gurevych 2019).

    Args:
        vectors: One per token, (total, width).
        batch: Which sequence they belong to.
        mode: The mean, the sum over the root of the length, the maximum, or the first token's.
        normalise: Scale to length one.

    Returns:
        (sequences, width).
    """
    match mode:
        case "mean":
            pooled = batch.means(vectors)
        case "mean_sqrt":
            lengths = torch.tensor(batch.lengths, dtype=vectors.dtype, device=vectors.device)
            pooled = batch.means(vectors) * lengths.sqrt()[:, None]
        case "max":
            pooled = torch.stack([part.amax(0) for part in batch.split(vectors)])
        case "first":
            pooled = batch.firsts(vectors)
    return F.normalize(pooled, dim=1) if normalise else pooled


class EncoderModel(nn.Module):
    """An encoder with its head.

    Args:
        config: The encoder, or what a head has to know of another one.
        head: What stands on it.
        encoder: Another encoder than the Transformer of `config`.
    """

    encoder: Encoder | RecurrentEncoder
    head: MaskedHead | ReplacedHead | ClassificationHead | TokenHead | None

    def __init__(self, config: TransformerConfig, head: HeadConfig, encoder: RecurrentEncoder | None = None) -> None:
        super().__init__()
        self.config, self.head_config = config, head
        self.encoder = Encoder(config) if encoder is None else encoder
        match head.kind:
            case "masked":
                self.head = MaskedHead(config, self.encoder.embedding)
            case "replaced":
                self.head = ReplacedHead(config)
            case "classify":
                self.head = ClassificationHead(config, head)
            case "tag":
                self.head = TokenHead(config.width, len(head.labels), head.dropout, head.crf)
            case "span":
                self.head = TokenHead(config.width, 2, head.dropout)
            case "none" | "pool":
                self.head = None

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights for encoder and head."""
        self.encoder.initialise(generator)
        self.initialise_head(generator)

    def initialise_head(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights for the head alone, as when a pretrained encoder gets a new one."""
        if self.head is None:
            return
        for name, parameter in self.head.named_parameters():
            if parameter.dim() == 2 and "crf" not in name:
                nn.init.normal_(parameter, std=self.config.init_std or 0.02, generator=generator)
            else:
                nn.init.constant_(parameter, 1.0 if name == "norm.weight" else 0.0)

    def forward(self, batch: Ragged) -> Tensor:
        """Returns the head's scores.

        Args:
            batch: Token sequences.

        Returns:
            `masked`: (total, vocab); `replaced`: (total); `classify`: (sequences, labels); `tag`: (total, labels);
            `span`: (total, 2); `pool`: (sequences, width); `none`: (total, width).
        """
        x = self.encoder(batch)
        if isinstance(self.head, ClassificationHead):
            return self.head(pool(x, batch, self.head_config.summary, False))  # type: ignore[no-any-return]
        if self.head is not None:
            return self.head(x)  # type: ignore[no-any-return]
        if self.head_config.kind == "pool":
            return pool(x, batch, self.head_config.pooling, self.head_config.normalise)
        return x  # type: ignore[no-any-return]

    def parameter_count(self) -> int:
        """Returns the number of learned values."""
        return sum(parameter.numel() for parameter in self.parameters())

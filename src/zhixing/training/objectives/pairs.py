"""What the objectives of encoder-decoders share: a source is read, a target is predicted token by token behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zhixing.checkpoints.seq2seq_folder import is_seq2seq, tokenizers_in
from zhixing.checkpoints.seq2seq_tokenizers import Tokenizers
from zhixing.core.errors import BadInput
from zhixing.models.encoder_decoder import EncoderDecoder
from zhixing.models.ragged import Ragged
from zhixing.tokenization.framing import frame_of
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import NetworkKind, RecordObjective
from zhixing.training.objectives.texts import tokens_of

Ids = NDArray[np.int64] | NDArray[np.int32]


@dataclass(frozen=True)
class PairBatch:
    """Sources and their targets, the shortest sources first: attention does neighbours of equal length at once.

    Attributes:
        sources: The token sequences that are read.
        targets: Those that are predicted, end tokens included.
        order: Which of the pairs that were drawn each one is.
    """

    sources: Ragged
    targets: Ragged
    order: tuple[int, ...]

    @property
    def target_count(self) -> int:
        """The tokens that carry loss."""
        return len(self.targets.tokens)

    @property
    def token_count(self) -> int:
        """The tokens of both sides."""
        return len(self.sources.tokens) + len(self.targets.tokens)


class Framing:
    """What stands around the texts of both sides: the tokenizer's own frame, and its end token in any case.

    Args:
        tokenizer: Of the network, or of one side.
        longest: Tokens that either side has at most.
        begin: The token that every text begins with, where the tokenizer's own frame does not say so.

    Raises:
        BadInput: There is no end token, or no room for text.
    """

    def __init__(self, tokenizer: Tokenizer, longest: int, begin: int | None = None) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        frame = frame_of(tokenizer)
        if tokenizer.end_of_text_id is None:
            raise BadInput(
                "the tokenizer has no token that ends a text", where="tokenizer", remedy="choose another one"
            )
        self.end = tokenizer.end_of_text_id
        self.front = frame.front or (() if begin is None else (begin,))
        self.back = frame.back or (self.end,)
        self.room = longest - len(self.front) - len(self.back)
        if self.room < 1:
            raise BadInput(f"{longest} tokens leave no room for a text", where="model.context", remedy="raise it")

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text alone.

        Raises:
            Misfit: The tokenizer cannot spell it, or it has none.
        """
        return tokens_of(self.tokenizer, text)

    def framed(self, tokens: Sequence[int]) -> list[int]:
        """Puts the frame around as many of the tokens as fit."""
        return [*self.front, *tokens[: self.room], *self.back]


class PairObjective(RecordObjective):
    """Minimises -log p(target | source), each target token behind those before it (teacher forcing).

    Attributes:
        framing: Of sources.
        target_framing: Of targets: the same, unless the model that the run begins with has a tokenizer for each side.
    """

    network: ClassVar[NetworkKind] = "seq2seq"
    _known: Tokenizers | None = None
    fields: ClassVar[Mapping[str, str]] = {"source": "int32", "target": "int32"}

    def begin_with(self, start: Path | None) -> None:
        """Takes the tokenizers of the model to begin with."""
        self._known = None if start is None or not is_seq2seq(start) else tokenizers_in(start)

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer, of sources where there are two."""
        super().attach(tokenizer, longest)
        known = self._known
        self.framing = Framing(tokenizer, longest, None if known is None else known.begin)
        two = known is not None and known.target is not known.source
        self.target_framing = Framing(known.target, longest, known.begin) if known and two else self.framing

    def batch_of(self, sources: Sequence[Ids], targets: Sequence[Ids], device: torch.device) -> PairBatch:
        """Lays sources and targets end to end."""
        order = tuple(sorted(range(len(sources)), key=lambda place: len(sources[place])))
        read, wanted = ([side[place] for place in order] for side in (sources, targets))
        return PairBatch(_laid(read, device), _laid(wanted, device), order)

    def loss_sum(self, model: EncoderDecoder, batch: PairBatch) -> Tensor:
        """Returns the summed cross-entropy of the targets; smoothed only in training, so that measurements compare."""
        smoothing = self.task.label_smoothing if model.training else 0.0
        return model.loss_sum(batch.sources, model.shifted(batch.targets), batch.targets.tokens, smoothing)


def _laid(sequences: Sequence[Ids], device: torch.device) -> Ragged:
    flat = torch.from_numpy(np.concatenate(sequences).astype(np.int64)).to(device)
    return Ragged(flat, tuple(map(len, sequences)))

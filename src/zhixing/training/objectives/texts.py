"""Texts as token sequences with their frame, cut where they are too long (and how much is said); batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.data.examples import Example
from zhixing.data.shapes.records import Misfit
from zhixing.models.ragged import Ragged
from zhixing.tokenization.framing import Frame, frame_of
from zhixing.tokenization.tokenizer import Tokenizer

TOKENS = {"tokens": "int32", "types": "uint8"}
"""The fields of a framed text: its tokens, and the segment of each (empty where there is but one)."""


@dataclass(frozen=True)
class TextBatch:
    """Texts, and what is wanted of them.

    Attributes:
        texts: The token sequences.
        wanted: A number for each that is asked about, (targets).
    """

    texts: Ragged
    wanted: Tensor

    @property
    def target_count(self) -> int:
        """How many are asked about."""
        return len(self.wanted)

    @property
    def token_count(self) -> int:
        """The tokens of all sequences."""
        return len(self.texts.tokens)


@dataclass(frozen=True)
class Framed:
    """A text as the network reads it, and how many of its tokens did not fit."""

    tokens: list[int]
    types: list[int]
    cut: int


class TextFramer:
    """Encodes texts with what their tokenizer puts around them.

    Args:
        tokenizer: Of the network.
        longest: Tokens that the network reads at most.

    Raises:
        BadInput: The network reads too little for any text.
    """

    def __init__(self, tokenizer: Tokenizer, longest: int) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        self.frame: Frame = frame_of(tokenizer)
        if self.frame.pair_room(longest) < 2:
            raise BadInput(f"{longest} tokens leave no room for a text", where="model.context", remedy="raise it")

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text alone.

        Raises:
            Misfit: The tokenizer cannot spell it, or it has none.
        """
        return tokens_of(self.tokenizer, text)

    def frame_text(self, text: str, second: str | None = None) -> Framed:
        """Encodes a text, or two; the longer of two is cut first (as `longest_first`)."""
        first = self.encode(text)
        if second is None:
            room = self.frame.room(self.longest)
            return Framed(self.frame.single(first[:room]), [], max(0, len(first) - room))
        other = self.encode(second)
        room, before = self.frame.pair_room(self.longest), len(first) + len(other)
        keep = min(len(first), max(room - len(other), (room + 1) // 2))
        first, other = first[:keep], other[: room - keep]
        tokens, types = self.frame.pair(first, other)
        return Framed(tokens, types if self.frame.second_type else [], before - len(first) - len(other))


def tokens_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the tokens of a text of a record.

    Raises:
        Misfit: The tokenizer cannot spell it, or it has none.
    """
    try:
        tokens = tokenizer.encode(text)
    except BadInput as error:
        raise Misfit(error.cause, error.remedy or "") from error
    if not tokens:
        raise Misfit("the text has no tokens", "leave the record out")
    return tokens


def arrays(framed: Framed) -> dict[str, NDArray[Any]]:
    """Returns a framed text's fields."""
    return {"tokens": np.array(framed.tokens, np.int32), "types": np.array(framed.types, np.uint8)}


def ragged_of(examples: Sequence[Example], device: torch.device, tokens: NDArray[Any] | None = None) -> Ragged:
    """Lays examples' tokens end to end.

    Args:
        examples: With the fields of `TOKENS`.
        device: Where to.
        tokens: Other tokens of the same total, where some of the examples' were replaced.
    """
    flat = np.concatenate([example["tokens"] for example in examples]) if tokens is None else tokens
    types: Tensor | None = None
    if any(len(example["types"]) for example in examples):
        kinds = [e["types"] if len(e["types"]) else np.zeros(len(e["tokens"]), np.uint8) for e in examples]
        types = torch.from_numpy(np.concatenate(kinds).astype(np.int64)).to(device)
    lengths = tuple(len(example["tokens"]) for example in examples)
    return Ragged(torch.from_numpy(flat.astype(np.int64)).to(device), lengths, types)

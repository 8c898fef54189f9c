"""Examples of a decoder laid end to end in one row, each a document of its own: no work goes into padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zhixing.data.examples import Example
from zhixing.models.loss import IGNORED

TOKENS = {"tokens": "int32", "wanted": "uint8"}
"""Fields of an example: its tokens, and for each whether it carries loss."""


@dataclass(frozen=True)
class PackedBatch:
    """Documents in one row.

    Attributes:
        tokens: (1, total).
        targets: The wanted next tokens, `IGNORED` where there is no loss, (1, total).
        segments: The number of each token's document, (1, total).
        target_count: How many targets carry loss.
    """

    tokens: Tensor
    targets: Tensor
    segments: Tensor
    target_count: int

    @property
    def token_count(self) -> int:
        """The tokens of all documents."""
        return self.tokens.numel()


def example_of(tokens: Sequence[int], wanted: Sequence[bool]) -> Example | None:
    """Returns an example, or None when no token of it carries loss.

    What comes after the last wanted token is left out: nothing is learned from reading it. The first token is never
    wanted, because nothing comes before it.
    """
    marks = np.asarray(wanted, dtype=np.uint8)
    marks[:1] = 0
    last = int(marks.nonzero()[0][-1]) if marks.any() else -1
    if last < 0:
        return None
    return {"tokens": np.asarray(tokens[: last + 1], np.int32), "wanted": marks[: last + 1]}


def pack(examples: Sequence[Example], device: torch.device, prefix: Sequence[int] = ()) -> PackedBatch:
    """Lays examples end to end.

    Args:
        examples: With the fields of `TOKENS`.
        device: Where to.
        prefix: Tokens that are put in front of every document.
    """
    inputs: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int64]] = []
    segments: list[NDArray[np.int64]] = []
    front = np.asarray(prefix, np.int64)
    for number, example in enumerate(examples):
        tokens = np.concatenate((front, example["tokens"].astype(np.int64)))
        wanted = np.concatenate((np.zeros(len(front), np.uint8), example["wanted"]))
        inputs.append(tokens[:-1])  # the last token is only a target
        targets.append(np.where(wanted[1:] != 0, tokens[1:], IGNORED))
        segments.append(np.full(len(tokens) - 1, number))
    wanted_tokens = np.concatenate(targets)
    rows = [torch.from_numpy(np.concatenate(part))[None].to(device) for part in (inputs, targets, segments)]
    return PackedBatch(rows[0], rows[1], rows[2], int((wanted_tokens != IGNORED).sum()))

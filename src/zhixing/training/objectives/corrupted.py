"""What the objectives that mend a spoiled text share: windows over long texts, and random numbers of a batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from zhixing.core.errors import BadInput
from zhixing.data.examples import Example
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Shape, Text
from zhixing.data.shapes.records import Misfit
from zhixing.training.objectives.base import Encoded
from zhixing.training.objectives.pairs import Ids, PairBatch, PairObjective

LEAST = 3
"""Tokens of a window from which there is something to spoil."""


class CorruptedObjective(PairObjective):
    """Reads running text, spoils it anew each time that it is seen, and learns to write it (or what was taken out)."""

    shapes: ClassVar[tuple[Shape, ...]] = ("text",)
    sample: ClassVar[Mapping[str, Any]] = {"text": "A text of any length; long ones are read in windows."}
    most_characters: ClassVar[int | None] = None
    fields: ClassVar[Mapping[str, str]] = {"tokens": "int32", "ends": "int32"}

    def begin_with(self, start: Path | None) -> None:
        """Refuses a model that reads one text by other tokens than it writes it."""
        super().begin_with(start)
        if self._known is not None and self._known.target is not self._known.source:
            raise BadInput(
                f"the model has a tokenizer for each side, and {self.name!r} writes the text that it reads",
                where="model.start",
                remedy="begin with a model of one tokenizer (T5, BART), or train on pairs: train.objective=seq2seq",
            )

    def observe(self, record: Text, held_out: bool) -> None:
        """Refuses a text of nothing."""
        if not record.text.strip():
            raise Misfit("the text is empty", "leave the record out")

    def window(self) -> int:
        """Returns the tokens of text that one example may hold, so that both sides fit whatever is drawn."""
        return self.framing.room

    def encode(self, record: Text) -> Encoded:
        """Makes an example of every window; those of fewer than three tokens have nothing to learn from."""
        tokens, places = self.tokenizer.encode_with_offsets(record.text)
        ends = sentence_ends(record.text, [stop for _, stop in places])
        size, examples = self.window(), []
        for begin in range(0, len(tokens), size):
            part = tokens[begin : begin + size]
            if len(part) >= LEAST:
                within = [end - begin for end in ends if begin < end <= begin + len(part)]
                example: dict[str, NDArray[Any]] = {
                    "tokens": np.array(part, np.int32), "ends": np.array(within, np.int32),
                }  # fmt: skip
                examples.append(example)
        return Encoded(tuple(examples))

    def to_device(self, raw: RawBatch, device: torch.device) -> PairBatch:
        """Spoils each window; what is drawn follows from the batch's own key."""
        draw = np.random.Generator(np.random.Philox(raw.key % (1 << 64)))
        pairs = [self.spoiled(example, draw) for example in raw.examples]
        return self.batch_of([source for source, _ in pairs], [target for _, target in pairs], device)

    def length(self, example: Example) -> int:
        """Counts the tokens of the window: about what both sides together have."""
        return len(example["tokens"])

    @abstractmethod
    def spoiled(self, example: Example, draw: np.random.Generator) -> tuple[Ids, Ids]:
        """Returns what is read of a window, and what is to be written."""


def sentence_ends(text: str, stops: Sequence[int]) -> list[int]:
    """Returns how many tokens there are up to the end of each sentence.

    Args:
        text: The text.
        stops: Where in it each token ends, in characters.
    """
    found = []
    for index, stop in enumerate(stops):
        if stop and text[stop - 1] in ".!?。！？\n" and (index + 1 == len(stops) or stops[index + 1] > stop):
            found.append(index + 1)
    return found


def lengths_of_parts(total: int, parts: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Divides so many tokens into so many parts of at least one, every division equally likely."""
    cuts = np.sort(draw.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


def rounded(value: float) -> int:
    """Rounds halves up, as T5's own code does."""
    return math.floor(value + 0.5)

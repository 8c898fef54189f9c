"""Sequence to sequence: a text and what is to be made of it - a translation, a summary, a correction.

Sutskever et al. (2014); with label smoothing (Szegedy et al. 2016) as in Vaswani et al. (2017). The targets of held-out
records are also written, greedily while the run goes on and by beam search in the end, and measured by sacrebleu.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example, read_text, stored_text
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Pair, Shape
from zhixing.data.shapes.records import Misfit
from zhixing.models.encoder_decoder import EncoderDecoder
from zhixing.training.objectives.base import Encoded
from zhixing.training.objectives.pairs import PairBatch, PairObjective

DEFAULT_BEAMS = 4


class Seq2Seq(PairObjective):
    """Minimises -log p(target | source)."""

    name: ClassVar[str] = "seq2seq"
    summary: ClassVar[str] = "write a target behind a source: translate, summarise, correct"
    shapes: ClassVar[tuple[Shape, ...]] = ("pair",)
    options: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "beams", "length_penalty", "prefix"})
    measures: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    sample: ClassVar[Mapping[str, Any]] = {"source": "A dog runs.", "target": "Ein Hund läuft."}
    fields: ClassVar[Mapping[str, str]] = {**PairObjective.fields, "text": "uint8"}

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.before = self.task.prefix or ""
        self.beams = DEFAULT_BEAMS if self.task.beams is None else self.task.beams

    def observe(self, record: Pair, held_out: bool) -> None:
        """Refuses a pair of which a side is empty."""
        for name, text in (("source", record.source), ("target", record.target)):
            if not text.strip():
                raise Misfit(f'the {name} is "{text[:20]}"', "write both sides, or leave the record out")

    def encode(self, record: Pair) -> Encoded:
        """Makes one example of a record; sides that are too long are cut."""
        reading, writing = self.framing, self.target_framing
        source, target = reading.encode(self.before + record.source), writing.encode(record.target)
        example: dict[str, NDArray[Any]] = {
            "source": np.array(reading.framed(source), np.int32),
            "target": np.array(writing.framed(target), np.int32),
            "text": stored_text(record.target),
        }
        return Encoded((example,), max(0, len(source) - reading.room) + max(0, len(target) - writing.room))

    def length(self, example: Example) -> int:
        """Counts the tokens of both sides."""
        return len(example["source"]) + len(example["target"])

    def to_device(self, raw: RawBatch, device: torch.device) -> PairBatch:
        """Lays both sides end to end."""
        sources, targets = ([example[side] for example in raw.examples] for side in ("source", "target"))
        return self.batch_of(sources, targets, device)

    def predict(self, model: EncoderDecoder, batch: PairBatch) -> Sequence[str]:
        """Writes a target behind each source."""
        assert self.target_writer is not None
        sources = [part.tolist() for part in batch.sources.split(batch.sources.tokens)]
        longest = min(self.longest - 1, 2 * max(map(len, sources)) + 20)
        beams = self.beams if self.final else 1
        written = self.target_writer(model, sources, self.target_framing.end, longest, beams, self.task.length_penalty)
        texts = [self.target_framing.tokenizer.decode(tokens, skip_special=True).strip() for tokens in written]
        return [text for _, text in sorted(zip(batch.order, texts, strict=True))]

    def references(self, examples: Sequence[Example]) -> Sequence[str]:
        """Returns the targets as they stand in the records."""
        return [read_text(example["text"]).strip() for example in examples]

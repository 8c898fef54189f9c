"""Span corruption (Raffel et al. 2020, T5): spans are taken out of a text, and the network writes them.

read:   Thank you <extra_id_0> me to your party <extra_id_1> week.
write:  <extra_id_0> for inviting <extra_id_1> last <extra_id_2>
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import BadInput
from zhixing.data.examples import Example
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.corrupted import CorruptedObjective, lengths_of_parts, rounded
from zhixing.training.objectives.pairs import Ids

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))


class SpanCorruption(CorruptedObjective):
    """Minimises -log p(the spans taken out | the rest)."""

    name: ClassVar[str] = "span-corruption"
    summary: ClassVar[str] = "write the spans that were taken out of a text (T5)"
    options: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "noise", "mean_span"})
    special_tokens: ClassVar[tuple[str, ...]] = SENTINELS
    sample: ClassVar[Mapping[str, Any]] = CorruptedObjective.sample

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer, which must have T5's sentinels."""
        super().attach(tokenizer, longest)
        ids = tokenizer.vocabulary
        self.sentinels = [ids[name] for name in SENTINELS if name in ids]
        if not self.sentinels:
            raise BadInput(
                f"the tokenizer has no sentinels ({SENTINELS[0]} and so on), which stand for what was taken out",
                where="tokenizer",
                remedy="begin with a T5 model, or let the run train its tokenizer",
            )
        self.noise = 0.15 if self.task.noise is None else self.task.noise
        self.mean_span = 3.0 if self.task.mean_span is None else self.task.mean_span

    def window(self) -> int:
        """Leaves room for the sentinel that ends what is written."""
        return self.framing.room - 1

    def spans(self, length: int) -> tuple[int, int]:
        """Returns how many tokens are taken out of so many, and in how many spans."""
        taken = min(max(rounded(length * self.noise), 1), length - 1)
        spans = min(max(rounded(taken / self.mean_span), 1), taken, length - taken, len(self.sentinels) - 1)
        return taken, max(1, spans)

    def spoiled(self, example: Example, draw: np.random.Generator) -> tuple[Ids, Ids]:
        """Takes spans out; the first tokens always stay, as in T5's own code."""
        tokens = example["tokens"].tolist()
        taken, spans = self.spans(len(tokens))
        gone = lengths_of_parts(taken, spans, draw)
        kept = lengths_of_parts(len(tokens) - taken, spans, draw)
        source: list[int] = []
        target: list[int] = []
        place = 0
        for number, (stay, go) in enumerate(zip(kept.tolist(), gone.tolist(), strict=True)):
            sentinel = self.sentinels[number]
            source += [*tokens[place : place + stay], sentinel]
            target += [sentinel, *tokens[place + stay : place + stay + go]]
            place += stay + go
        if spans < len(self.sentinels):
            target.append(self.sentinels[spans])
        return np.array(self.framing.framed(source)), np.array(self.framing.framed(target))

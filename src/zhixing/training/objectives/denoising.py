"""Denoising (Lewis et al. 2020, BART): a text whose sentences are shuffled and of which spans are hidden is restored.

Spans of lengths drawn from a Poisson distribution are replaced by one mask each (text infilling): a span of no tokens
puts a mask between two tokens, so that the network must also find out how much is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import BadInput
from zhixing.data.examples import Example
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.corrupted import CorruptedObjective
from zhixing.training.objectives.pairs import Ids

MASKS = ("<mask>", "[MASK]")


class Denoising(CorruptedObjective):
    """Minimises -log p(text | the spoiled text)."""

    name: ClassVar[str] = "denoising"
    summary: ClassVar[str] = "restore a text whose sentences were shuffled and spans hidden (BART)"
    options: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "noise", "mean_span", "permute_sentences"})
    special_tokens: ClassVar[tuple[str, ...]] = MASKS[:1]
    sample: ClassVar[Mapping[str, Any]] = CorruptedObjective.sample

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer, which must have a mask."""
        super().attach(tokenizer, longest)
        known = [tokenizer.vocabulary[name] for name in MASKS if name in tokenizer.vocabulary]
        if not known:
            raise BadInput(
                f"the tokenizer has no mask ({' or '.join(MASKS)}), which stands for what is hidden",
                where="tokenizer",
                remedy="begin with a BART model, or let the run train its tokenizer",
            )
        self.mask = known[0]
        self.noise = 0.3 if self.task.noise is None else self.task.noise
        self.mean_span = 3.0 if self.task.mean_span is None else self.task.mean_span

    def window(self) -> int:
        """Leaves room for masks that hide nothing: at most one for every two tokens of text."""
        return max(3, 2 * self.framing.room // 3)

    def spoiled(self, example: Example, draw: np.random.Generator) -> tuple[Ids, Ids]:
        """Shuffles sentences and hides spans."""
        tokens = example["tokens"].tolist()
        source = self._hidden(self._shuffled(tokens, example["ends"].tolist(), draw), draw)
        return np.array(self.framing.framed(source)), np.array(self.framing.framed(tokens))

    def _shuffled(self, tokens: list[int], ends: list[int], draw: np.random.Generator) -> list[int]:
        if not self.task.permute_sentences:
            return tokens
        bounds = [0, *(end for end in ends if end < len(tokens)), len(tokens)]
        sentences = [tokens[begin:end] for begin, end in itertools.pairwise(bounds)]
        return [token for index in draw.permutation(len(sentences)) for token in sentences[index]]

    def _hidden(self, tokens: list[int], draw: np.random.Generator) -> list[int]:
        """Replaces spans by masks until the wanted share of the tokens is hidden."""
        budget = max(1, round(len(tokens) * self.noise))
        lengths: list[int] = []
        most = len(tokens) // 2
        while budget > 0 and len(lengths) < most:
            length = min(int(draw.poisson(self.mean_span)), budget)
            lengths.append(length)
            budget -= length
        # Spans are laid between the tokens that stay: every placing is equally likely, and none overlap.
        stay = len(tokens) - sum(lengths)
        gaps = np.sort(draw.choice(stay + len(lengths), len(lengths), replace=False)) - np.arange(len(lengths))
        result: list[int] = []
        place = kept = 0
        for gap, length in zip(gaps.tolist(), draw.permutation(lengths).tolist(), strict=True):
            result += [*tokens[place : place + gap - kept], self.mask]
            place += gap - kept + length
            kept = gap
        return result + tokens[place:]

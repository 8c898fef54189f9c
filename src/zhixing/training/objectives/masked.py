"""Masked language modelling: hidden words are predicted from both sides (Devlin et al. 2019).

Of the chosen tokens 80 % become [MASK], 10 % another token, 10 % stay as they are. Whole words are hidden together (Cui
et al. 2021 for Chinese), found without a dictionary (`data.word_bounds`). What is hidden follows from the batch's key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Shape, Text
from zhixing.data.shapes.records import Misfit
from zhixing.data.word_bounds import WordBounds, words_of_tokens
from zhixing.models.heads import EncoderModel, HeadConfig, MaskedHead
from zhixing.tokenization.framing import Frame, frame_of
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective
from zhixing.training.objectives.texts import TOKENS, TextBatch, ragged_of

SHOWN_AS_MASK, SHOWN_AS_OTHER = 0.8, 0.1
SHORTEST = 4
"""Tokens of the shortest piece of text that is worth a sequence of its own."""


@dataclass(frozen=True)
class MaskedBatch(TextBatch):
    """Texts as the network sees them, with hidden words and what stood there.

    Attributes:
        hidden: Where the chosen tokens stand, indices into all tokens, (chosen).
        counts: How many were chosen in each sequence.
    """

    hidden: Tensor
    counts: tuple[int, ...]


class RunningText(RecordObjective):
    """What masked and replaced tokens have in common: texts in windows, the words of their tokens, what is hidden."""

    shapes: ClassVar[tuple[Shape, ...]] = ("text",)
    network: ClassVar[NetworkKind] = "encoder"
    fields: ClassVar[Mapping[str, str]] = {**TOKENS, "words": "int32"}
    sample: ClassVar[Mapping[str, Any]] = {"text": "知是行之始，行是知之成。 To know is the beginning of doing."}
    most_characters: ClassVar[int | None] = None

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.bounds = WordBounds()

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer, which must have a token that stands for what is hidden."""
        super().attach(tokenizer, longest)
        self.frame: Frame = frame_of(tokenizer)
        name = tokenizer.roles.get("mask_token")
        mask = tokenizer.token_id(name) if name else None
        if mask is None:
            raise BadInput(
                "the tokenizer has no mask token, which stands for hidden words",
                where="tokenizer",
                remedy="leave tokenizer.special_tokens out, or add '[MASK]' to it",
            )
        self.mask: int = mask
        self.ordinary = np.array(sorted(set(range(tokenizer.vocab_size)) - tokenizer.special_ids), np.int64)

    def observe(self, record: Text, held_out: bool) -> None:
        """Counts which Chinese characters stand together."""
        if self.task.whole_word and not held_out:
            self.bounds.observe(record.text)

    def settle(self) -> None:
        """Fixes what a Chinese word is."""
        self.bounds.settle()

    def facts(self) -> dict[str, Any]:
        """Returns the pairs of characters that stick together."""
        return {"words": self.bounds.facts()}

    def load_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes them from an earlier pass."""
        self.bounds.load(facts["words"])

    def show(self, prediction: Any, reference: Any) -> None:
        """Counts of hidden tokens are nothing to read."""

    def encode(self, record: Text) -> Encoded:
        """Makes windows of a text: as long as the network reads, the last one as long as it is."""
        try:
            tokens, offsets = self.tokenizer.encode_with_offsets(record.text)
        except BadInput as error:
            raise Misfit(error.cause, error.remedy or "") from error
        words = words_of_tokens(offsets, self.bounds.numbers(record.text))
        room, front, back = self.frame.room(self.longest), len(self.frame.front), len(self.frame.back)
        examples: list[Example] = []
        for begin in range(0, len(tokens), room):
            part = tokens[begin : begin + room]
            if len(part) < SHORTEST and examples:
                break  # the end of a text, too short to learn from
            numbers = [-1] * front + words[begin : begin + room] + [-1] * back
            examples.append(
                {
                    "tokens": np.array(self.frame.single(part), np.int32),
                    "types": np.empty(0, np.uint8),
                    "words": np.array(numbers, np.int32),
                }
            )
        return Encoded(tuple(examples))

    def hide(self, raw: RawBatch) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, ...], np.random.Generator]:
        """Chooses what is hidden, by the batch's key.

        Returns:
            All tokens; where the chosen ones stand; how many in each sequence; the generator, for what else is drawn.
        """
        generator = np.random.default_rng(raw.key)
        places, counts, start = [], [], 0
        for example in raw.examples:
            words = example["words"]
            chosen = choose(words, self.task.mask_share, self.task.whole_word, generator)
            places.append(chosen + start)
            counts.append(len(chosen))
            start += len(words)
        tokens = np.concatenate([example["tokens"] for example in raw.examples]).astype(np.int64)
        return tokens, np.concatenate(places), tuple(counts), generator


class Masked(RunningText):
    """Minimises -log p(token | the text without it) over hidden tokens."""

    name: ClassVar[str] = "masked"
    summary: ClassVar[str] = "predict hidden words from both sides (pretraining of encoders)"
    options: ClassVar[frozenset[str]] = frozenset({"mask_share", "whole_word"})
    measures: ClassVar[tuple[str, ...]] = ("perplexity", "masked_accuracy")
    own: ClassVar[frozenset[str]] = frozenset(measures)
    lower: ClassVar[frozenset[str]] = frozenset({"perplexity"})

    def head(self) -> HeadConfig:
        """Returns a head that scores the vocabulary."""
        return HeadConfig(kind="masked")

    def to_device(self, raw: RawBatch, device: torch.device) -> MaskedBatch:
        """Hides words and lays the texts end to end."""
        tokens, places, counts, generator = self.hide(raw)
        wanted = tokens[places]
        draw = generator.random(len(places))
        shown = np.where(draw < SHOWN_AS_MASK, self.mask, wanted)
        other = (draw >= SHOWN_AS_MASK) & (draw < SHOWN_AS_MASK + SHOWN_AS_OTHER)
        shown[other] = generator.choice(self.ordinary, int(other.sum()))
        tokens[places] = shown
        return MaskedBatch(
            ragged_of(raw.examples, device, tokens), torch.from_numpy(wanted).to(device),
            torch.from_numpy(places).to(device), counts,
        )  # fmt: skip

    def loss_sum(self, model: EncoderModel, batch: MaskedBatch) -> Tensor:
        """Returns the loss summed over hidden tokens; nothing is scored elsewhere."""
        return F.cross_entropy(masked_scores(model, batch), batch.wanted, reduction="sum")

    def predict(self, model: EncoderModel, batch: MaskedBatch) -> Sequence[Any]:
        """Returns how many hidden tokens of each text were right, and how many there were."""
        right = (masked_scores(model, batch).argmax(dim=1) == batch.wanted).cpu()
        parts = torch.split(right, list(batch.counts))
        return [(int(part.sum()), len(part)) for part in parts]

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns the perplexity of hidden tokens and the share of right ones."""
        total = sum(count for _, count in predictions)
        right = sum(found for found, _ in predictions)
        return {"perplexity": math.exp(min(loss, 700.0)), "masked_accuracy": right / max(1, total)}


def masked_scores(model: EncoderModel, batch: MaskedBatch) -> Tensor:
    """Returns the scores of the vocabulary at hidden tokens, (chosen, vocab)."""
    assert isinstance(model.head, MaskedHead)
    scores: Tensor = model.head(model.encoder(batch.texts)[batch.hidden])
    return scores.float()


def choose(words: NDArray[np.int32], share: float, whole: bool, generator: np.random.Generator) -> NDArray[np.int64]:
    """Chooses about a share of the tokens of a sequence, at least one.

    Args:
        words: The number of each token's word, -1 for what stands around the text.
        share: Of the text's tokens.
        whole: Take words whole.
        generator: Draws.

    Returns:
        Their places, in order.
    """
    places = np.flatnonzero(words >= 0)
    wanted = max(1, round(share * len(places)))
    if not whole:
        return np.sort(generator.permutation(places)[:wanted])
    numbers = words[places]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    sizes = np.diff(np.append(starts, len(places)))
    order = generator.permutation(len(starts))
    taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), wanted, side="right")))]
    spans = [places[starts[word] : starts[word] + sizes[word]] for word in np.sort(taken)]
    return np.concatenate(spans)

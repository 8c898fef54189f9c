"""Tagging: a label for each word of a sentence, such as names of people and places.

Tags of any scheme (IOB1, BIO, BIOES, BMES, BILOU) become those of one; words are cut into the network's tokens and read
at their first one (Devlin et al. 2019); a conditional random field scores them as a chain (Huang et al. 2015). Long
sentences are read in windows that overlap. Where tags are no chunks (parts of speech), each is a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.checkpoints.encoder_folder import forbid_transitions
from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Shape, Tagged
from zhixing.data.shapes.records import Misfit, brief
from zhixing.data.shapes.schemes import convert, split_tag
from zhixing.data.word_bounds import spaced
from zhixing.models.heads import EncoderModel, HeadConfig, TokenHead
from zhixing.models.ragged import Ragged
from zhixing.tokenization.framing import Frame, frame_of
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective
from zhixing.training.objectives.labels import Labels
from zhixing.training.objectives.texts import TOKENS, TextBatch, ragged_of

DECIDING = 200
"""Sentences by which it is decided whether tags are chunks."""

AROUND = 16
"""Words that a window shows on either side of those that it is asked about."""

POSITIONS: dict[str, str] = {"BIO": "BI", "BIOES": "BIES"}


@dataclass(frozen=True)
class TagBatch(TextBatch):
    """Sentences with the number of each word's tag.

    Attributes:
        words: Where the words stand that are asked about, indices into all tokens, (words).
        counts: How many of them each sequence has.
    """

    words: Tensor
    counts: tuple[int, ...]


class Tagging(RecordObjective):
    """Minimises -log p(tag | sentence) summed over words, or -log p(all tags | sentence) with a CRF."""

    name: ClassVar[str] = "tagging"
    summary: ClassVar[str] = "give each word of a sentence its tag: names, parts of speech"
    shapes: ClassVar[tuple[Shape, ...]] = ("tagged",)
    network: ClassVar[NetworkKind] = "encoder"
    options: ClassVar[frozenset[str]] = frozenset({"scheme", "crf", "label_smoothing"})
    measures: ClassVar[tuple[str, ...]] = ("entity_f1", "tag_accuracy", "accuracy", "macro_f1")
    sample: ClassVar[Mapping[str, Any]] = {
        "tokens": ["王", "明", "在", "Paris"],
        "tags": ["B-PER", "I-PER", "O", "B-LOC"],
    }
    fields: ClassVar[Mapping[str, str]] = {**TOKENS, "words": "int32", "tags": "int32"}

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.labels = Labels()
        self.scheme: Literal["BIO", "BIOES", "none"] | None = self.task.scheme
        self._waiting: list[tuple[Tagged, bool]] = []
        self._types: set[str] = set()

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Refuses smoothing of a chain."""
        if recipe.task.crf and recipe.task.label_smoothing:
            raise BadInput(
                "label smoothing is for tags that are scored one by one, not for a chain",
                where="task.label_smoothing",
                remedy="leave out task.label_smoothing or task.crf",
            )

    def observe(self, record: Tagged, held_out: bool) -> None:
        """Collects tags; the first sentences decide whether they are chunks."""
        if self.scheme is None:
            self._waiting.append((record, held_out))
            if len(self._waiting) >= DECIDING:
                self._decide()
            return
        self._collect(record, held_out)

    def _decide(self) -> None:
        """Tells chunks from classes by the tags so far; a few slips do not make chunks classes."""
        letters = Counter(_is_chunk(tag) for record, _ in self._waiting for tag in record.tags if tag != "O")
        self.scheme = "BIO" if letters[True] > 0.8 * letters.total() else "none"
        for record, held_out in self._waiting:
            try:
                self._collect(record, held_out)
            except Misfit:  # it is met again, with its place, when it is encoded
                continue
        self._waiting = []

    def _collect(self, record: Tagged, held_out: bool) -> None:
        tags = self._converted(record)
        if self.scheme == "none":
            for tag in dict.fromkeys(tags):
                self.labels.observe(tag, held_out)
            return
        for tag in dict.fromkeys(tags):
            kind = split_tag(tag)[1]
            if tag == "O" or kind in self._types:
                continue
            if self.labels.names:
                self.labels.number(tag)
            self._types.add(kind)

    def _converted(self, record: Tagged) -> Sequence[str]:
        """Returns the tags in the network's scheme.

        Raises:
            Misfit: A tag is of no known scheme.
        """
        if self.scheme == "none" or self.scheme is None:
            return record.tags
        try:
            return convert(record.tags, self.scheme)
        except BadInput as error:
            word = next((w for w, tag in zip(record.tokens, record.tags, strict=True) if not _is_tag(tag)), "")
            raise Misfit(f"{error.cause} (at the word {brief(word)})", error.remedy or "") from error

    def settle(self) -> None:
        """Fixes the tags: O, and every position of every type."""
        if self.scheme is None:
            self._decide()
        if self.scheme == "none":
            self.labels.settle()
        else:
            assert self.scheme is not None
            kinds = [f"-{kind}" if kind else "" for kind in sorted(self._types)]
            self.labels.settle(["O", *(f"{p}{kind}" for kind in kinds for p in POSITIONS[self.scheme])])
        if len(self.labels) < 2:
            raise BadInput(
                f"all words of the training records have the same tag ({', '.join(self.labels.names)})",
                where="data.paths",
                remedy="name the column that holds the tags: --set data.columns={tokens: NAME, tags: NAME}",
            )

    def facts(self) -> dict[str, Any]:
        """Returns the tags and their scheme."""
        return {"labels": list(self.labels.names), "scheme": self.scheme}

    def load_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes the tags from an earlier pass."""
        self.scheme = facts["scheme"]
        self.labels.settle(facts["labels"])

    def measured(self) -> tuple[str, ...]:
        """Entities where tags are chunks, classes of words where they are not."""
        return ("accuracy", "macro_f1") if self.scheme == "none" else ("entity_f1", "tag_accuracy")

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer."""
        super().attach(tokenizer, longest)
        self.frame: Frame = frame_of(tokenizer)
        self.room = self.frame.room(longest)
        if self.room < 1:
            raise BadInput(f"{longest} tokens leave no room for a word", where="model.context", remedy="raise it")

    def encode(self, record: Tagged) -> Encoded:
        """Makes one example of a sentence, or several windows of a long one."""
        pieces, cut = self._pieces(record.tokens)
        tags = [self.labels.number(tag) for tag in self._converted(record)]
        examples: list[Example] = []
        for begin, end, first, last in windows([len(piece) for piece in pieces], self.room):
            tokens = [token for piece in pieces[begin:end] for token in piece]
            starts = np.cumsum([0, *(len(piece) for piece in pieces[begin:end])])[first - begin : last - begin]
            examples.append(
                {
                    "tokens": np.array(self.frame.single(tokens), np.int32),
                    "types": np.empty(0, np.uint8),
                    "words": (starts + len(self.frame.front)).astype(np.int32),
                    "tags": np.array(tags[first:last], np.int32),
                }
            )
        return Encoded(tuple(examples), cut)

    def _pieces(self, words: Sequence[str]) -> tuple[list[list[int]], int]:
        """Returns the tokens of each word, and how many did not fit (of words longer than a window)."""
        texts = spaced(words) if self.tokenizer.kind == "byte-bpe" else words
        try:
            pieces = self.tokenizer.encode_batch(texts)
        except BadInput as error:
            raise Misfit(error.cause, error.remedy or "") from error
        unknown, cut = self.tokenizer.unknown_id, 0
        for place, piece in enumerate(pieces):
            if not piece:
                if unknown is None:
                    raise Misfit(f"the word {brief(words[place])} has no tokens", "write another one, or leave it out")
                pieces[place] = [unknown]
            cut += max(0, len(piece) - self.room)
            pieces[place] = pieces[place][: self.room]
        return pieces, cut

    def head(self) -> HeadConfig:
        """Returns a head that scores tags of tokens."""
        return HeadConfig(kind="tag", labels=self.labels.names, crf=self.task.crf)

    def wrap(self, model: nn.Module, new_head: bool) -> nn.Module:
        """Forbids a CRF what the scheme forbids."""
        assert isinstance(model, EncoderModel)
        forbid_transitions(model)
        return model

    def to_device(self, raw: RawBatch, device: torch.device) -> TagBatch:
        """Lays the sentences end to end."""
        texts = ragged_of(raw.examples, device)
        starts = np.cumsum([0, *(len(example["tokens"]) for example in raw.examples)])
        words = np.concatenate([e["words"] + start for e, start in zip(raw.examples, starts[:-1], strict=True)])
        wanted = np.concatenate([example["tags"] for example in raw.examples]).astype(np.int64)
        counts = tuple(len(example["words"]) for example in raw.examples)
        return TagBatch(
            texts, torch.from_numpy(wanted).to(device), torch.from_numpy(words.astype(np.int64)).to(device), counts
        )

    def _scores(self, model: EncoderModel, batch: TagBatch) -> Tensor:
        """Returns the scores of the words that are asked about, (words, tags)."""
        assert isinstance(model.head, TokenHead)
        scores: Tensor = model.head(model.encoder(batch.texts)[batch.words])
        return scores.float()

    def loss_sum(self, model: EncoderModel, batch: TagBatch) -> Tensor:
        """Returns the loss summed over words."""
        scores = self._scores(model, batch)
        assert isinstance(model.head, TokenHead)
        if model.head.crf is None:
            smoothing = self.task.label_smoothing if model.training else 0.0
            return F.cross_entropy(scores, batch.wanted, label_smoothing=smoothing, reduction="sum")
        rows, mask, wanted = _rows(batch, scores)
        return model.head.crf.loss_sum(rows, wanted, mask)

    def predict(self, model: EncoderModel, batch: TagBatch) -> Sequence[Any]:
        """Returns the tags of each sequence's words."""
        scores, names = self._scores(model, batch), self.labels.names
        assert isinstance(model.head, TokenHead)
        if model.head.crf is not None:
            rows, _, _ = _rows(batch, scores)
            return [[names[tag] for tag in row] for row in model.head.crf.best(rows, batch.counts)]
        best = scores.argmax(dim=1)
        return [[names[tag] for tag in row.tolist()] for row in torch.split(best, list(batch.counts))]

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns the right tags of each sequence's words."""
        return [[self.labels.names[int(tag)] for tag in example["tags"]] for example in examples]

    def gather(
        self, predictions: Sequence[Any], references: Sequence[Any], records: Sequence[int]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Joins the windows of a sentence; where tags are classes, every word is an example."""
        found: dict[int, list[str]] = {}
        right: dict[int, list[str]] = {}
        for prediction, reference, record in zip(predictions, references, records, strict=True):
            found.setdefault(record, []).extend(prediction)
            right.setdefault(record, []).extend(reference)
        if self.scheme != "none":
            return list(found.values()), list(right.values())
        return [tag for tags in found.values() for tag in tags], [tag for tags in right.values() for tag in tags]


def _rows(batch: TagBatch, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lays words out as rows: scores (sequences, longest, tags), mask and wanted tags (sequences, longest)."""
    words = Ragged(batch.words, batch.counts)
    rows, mask = words.padded(scores)
    wanted, _ = words.padded(batch.wanted)
    return rows, mask, wanted


def _is_chunk(tag: str) -> bool:
    position, hyphen, kind = tag.partition("-")
    return len(position) == 1 and position in "BIESMLU" and bool(hyphen or not kind)


def _is_tag(tag: str) -> bool:
    try:
        split_tag(tag)
    except BadInput:
        return False
    return True


def windows(lengths: Sequence[int], room: int, around: int = AROUND) -> Iterator[tuple[int, int, int, int]]:
    """Cuts a sentence into windows of whole words.

    Args:
        lengths: Tokens of each word, none above `room`.
        room: Tokens that a window holds.
        around: Words that are shown on either side of those that are asked about, where there is room.

    Yields:
        The words that a window shows, [begin, end), and those of them that it is asked about, [first, last): over all
        windows, every word once.
    """
    first, count = 0, len(lengths)
    while first < count:
        begin, left = first, room - lengths[first]
        while begin and first - begin < around and lengths[begin - 1] <= left // 4:
            begin -= 1
            left -= lengths[begin]
        end = first + 1
        while end < count and lengths[end] <= left:
            left -= lengths[end]
            end += 1
        last = end if end == count else max(first + 1, end - min(around, (end - first) // 4))
        yield begin, end, first, last
        first = last

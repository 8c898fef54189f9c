"""`tag`: names of people, places and the like in a text, with where they stand in it, in characters.

A tagger (an encoder with a head for tags) reads words; a chat model lists the entities as JSON, and each is looked up
in the text. What a chat model lists that does not stand in the text is left out, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from zhixing.checkpoints.encoder_folder import is_encoder
from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput
from zhixing.data.shapes.schemes import chunks, find_scheme
from zhixing.data.word_bounds import spaced
from zhixing.models.heads import TokenHead
from zhixing.models.ragged import Ragged
from zhixing.tasks.base import TEXT, Row, check_labels
from zhixing.tasks.encoders import EncoderRunner
from zhixing.tasks.extract import Extract
from zhixing.training.objectives.tagging import windows

DEFAULT_LABELS = ("person", "organization", "location")

_WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u9fff]+(?:[-'’.,&/][^\W_\u3400-\u9fff]+)*|\S")


@dataclass(frozen=True)
class Entity:
    """A stretch of a text with its type.

    Attributes:
        text: The stretch, as it stands in the text.
        type: What it is.
        begin: Its first character's place in the text.
        end: Behind its last one.
        score: The mean probability of its tags; None where nothing gives one.
    """

    text: str
    type: str
    begin: int
    end: int
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Tagging:
    """The entities of a text, in its order.

    Attributes:
        entities: What was found.
        lost: Entities that a chat model named but that do not stand in the text.
    """

    entities: tuple[Entity, ...]
    lost: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"prediction": [entity.to_json() for entity in self.entities], "lost": self.lost}

    def __str__(self) -> str:
        return "; ".join(f"{one.text} [{one.type} {one.begin}-{one.end}]" for one in self.entities)


def words_of(text: str) -> list[tuple[int, int]]:
    """Returns where the words of a text are: runs of letters and digits, single Chinese characters, other signs."""
    return [match.span() for match in _WORD.finditer(text)]


class Tagger(Protocol):
    """Finds entities."""

    def __call__(self, texts: Sequence[str]) -> list[Tagging]:
        """Returns the entities of each text."""

    def identity(self) -> dict[str, Any]:
        """Returns what decides what is found."""


class HeadTagger:
    """A tagger that was trained.

    Args:
        runner: An encoder with a head for tags.
    """

    def __init__(self, runner: EncoderRunner) -> None:
        self.runner, self.labels = runner, runner.head.labels
        self.chunked = find_scheme([self.labels]) != "none"
        head = runner.model.head
        assert isinstance(head, TokenHead)
        self.head = head

    def identity(self) -> dict[str, Any]:
        """See `Tagger`."""
        return {"model": self.runner.fingerprint()}

    def __call__(self, texts: Sequence[str]) -> list[Tagging]:
        """See `Tagger`."""
        spans = [words_of(text) for text in texts]
        words = [[text[begin:end] for begin, end in places] for text, places in zip(texts, spans, strict=True)]
        results = []
        for text, places, (tags, scores) in zip(texts, spans, self.tags(words), strict=True):
            results.append(Tagging(tuple(self._entities(text, places, tags, scores))))
        return results

    def _entities(
        self, text: str, places: Sequence[tuple[int, int]], tags: Sequence[str], scores: Sequence[float]
    ) -> list[Entity]:
        if self.chunked:
            found = [(one.begin, one.end, one.type) for one in chunks(tags)]
        else:
            found = [(place, place + 1, tag) for place, tag in enumerate(tags)]
        entities = []
        for first, last, kind in found:
            begin, end = places[first][0], places[last - 1][1]
            score = sum(scores[first:last]) / (last - first)
            entities.append(Entity(text[begin:end], kind, begin, end, round(score, 4)))
        return entities

    def tags(self, sentences: Sequence[Sequence[str]]) -> list[tuple[list[str], list[float]]]:
        """Returns the tag of each word of sentences that are cut into words already, and its probability.

        A word is read at its first token, as in training. With a CRF the tags are the likeliest chain, and the
        probabilities those of each word by itself.
        """
        tokenizer, room = self.runner.tokenizer, self.runner.room
        unknown = tokenizer.unknown_id
        sequences: list[list[int]] = []
        asked: list[tuple[int, int, list[int]]] = []  # the sentence, its first word that is asked about, their places
        for owner, words in enumerate(sentences):
            texts = spaced(words) if tokenizer.kind == "byte-bpe" else words
            pieces = [piece[:room] or [unknown or 0] for piece in (tokenizer.encode_batch(texts) if texts else [])]
            for begin, end, first, last in windows([len(piece) for piece in pieces], room):
                places, at = [], len(self.runner.frame.front)
                for index in range(begin, end):
                    if first <= index < last:
                        places.append(at)
                    at += len(pieces[index])
                sequences.append(self.runner.framed([token for piece in pieces[begin:end] for token in piece]))
                asked.append((owner, first, places))
        tags: list[list[str]] = [[""] * len(words) for words in sentences]
        scores: list[list[float]] = [[0.0] * len(words) for words in sentences]

        def take(group: list[int], logits: Tensor, batch: Ragged) -> None:
            for number, rows in zip(group, batch.split(logits), strict=True):
                owner, first, places = asked[number]
                chosen = rows[torch.tensor(places, device=rows.device)]  # (words, labels)
                probabilities = chosen.softmax(1)
                if self.head.crf is not None:
                    best = self.head.crf.best(chosen[None], [len(places)])[0]
                else:
                    best = chosen.argmax(1).tolist()
                for word, tag in enumerate(best, start=first):
                    tags[owner][word] = self.labels[tag]
                    scores[owner][word] = float(probabilities[word - first, tag])

        if sequences:
            self.runner.forward(sequences, take)
        return list(zip(tags, scores, strict=True))


class PromptTagger:
    """A chat model that lists entities.

    Args:
        ref: The model.
        labels: The types to look for.
        prompt: A prompt file.
    """

    def __init__(self, ref: str | Path, labels: Sequence[str], prompt: str | Path | None = None) -> None:
        item = {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 1, "maxLength": 80}, "type": {"enum": list(labels)}},
            "required": ["text", "type"],
        }
        schema = {"type": "array", "items": item, "maxItems": 12}
        values = {"labels": ", ".join(labels)}
        self._extract = Extract(schema, ref, prompt=prompt, task="tag", values=values, per_part=True)

    def identity(self) -> dict[str, Any]:
        """See `Tagger`."""
        return self._extract.identity()

    def __call__(self, texts: Sequence[str]) -> list[Tagging]:
        """See `Tagger`."""
        found = self._extract.run([{"text": text} for text in texts])
        return [located(text, one.value) for text, one in zip(texts, found, strict=True)]


def located(text: str, named: Sequence[dict[str, str]]) -> Tagging:
    """Finds entities in their text, each at its first place behind the one before, else anywhere."""
    entities: list[Entity] = []
    taken: list[tuple[int, int]] = []
    lost, behind = 0, 0
    for one in named:
        name = one["text"].strip()
        place = _free(text, name, behind, taken)
        if place < 0:
            place = _free(text, name, 0, taken)
        if not name or place < 0:
            lost += 1
            continue
        end = place + len(name)
        entities.append(Entity(text[place:end], one["type"], place, end))
        taken.append((place, end))
        behind = end
    return Tagging(tuple(sorted(entities, key=lambda entity: entity.begin)), lost)


def _free(text: str, name: str, start: int, taken: Sequence[tuple[int, int]]) -> int:
    """Returns the first place of a name, from `start` on, that nothing else has; -1 when there is none."""
    place = text.find(name, start) if name else -1
    while place >= 0 and any(place < end and begin < place + len(name) for begin, end in taken):
        place = text.find(name, place + 1)
    return place


class Tag:
    """The task `tag`.

    Args:
        ref: A tagger, or a chat model.
        labels: The types that a chat model looks for; a tagger has its own.
        prompt: A prompt file for a chat model.
    """

    name = "tag"
    columns = (TEXT,)
    outputs = ("prediction", "lost")

    def __init__(
        self, ref: str | Path, labels: Sequence[str] | None = None, *, prompt: str | Path | None = None
    ) -> None:
        check_labels(labels)
        path = resolve(ref)
        self.tagger: Tagger
        if path.is_dir() and is_encoder(path):
            if labels is not None or prompt is not None:
                raise BadInput(
                    "a tagger has its own labels and takes no prompt", where=str(ref), remedy="leave them out"
                )
            self.tagger, self.chunk = HeadTagger(EncoderRunner.open(path, "tag", "tag")), 256
        else:
            self.tagger, self.chunk = PromptTagger(path, labels or DEFAULT_LABELS, prompt), 8

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return self.tagger.identity()

    def run(self, rows: Sequence[Row]) -> list[Tagging]:
        """See `Task.run`."""
        return self.tagger([row["text"] for row in rows])

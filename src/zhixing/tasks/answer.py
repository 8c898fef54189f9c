"""`answer`: a question answered from given text: by the part of it that says so, or in words by a chat model.

A span model (Rajpurkar et al. 2016) scores every part of the text as the answer, window by window. A chat model reads
the passages of the text that share most words with the question, as many as fit, and the answer names the passage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from zhixing.checkpoints.encoder_folder import is_encoder
from zhixing.checkpoints.references import resolve
from zhixing.checkpoints.seq2seq_folder import is_seq2seq
from zhixing.core.errors import BadInput
from zhixing.models.ragged import Ragged
from zhixing.tasks.base import Column, Row
from zhixing.tasks.encoders import EncoderRunner
from zhixing.tasks.parts import parts_of
from zhixing.tasks.prompting import LANGUAGES, language_of, load_prompt
from zhixing.tasks.search.terms import query_terms, terms_of
from zhixing.tasks.source_writer import InstructedSource
from zhixing.tasks.writer import CHAT_MODEL, ChatWriter

LONGEST_ANSWER = 64
"""Tokens of an answer of a span model."""
QUESTION_SHARE = 2
"""A question takes up to one part in so many of what a span model reads."""
PASSAGE = 160
"""Tokens of a passage that a chat model is given, where there is room for so many."""
NUMBER = 8
"""Tokens of a passage's number and of the empty line behind it."""

QUESTION = Column("question", ("query", "ask", "问题"))
CONTEXT = Column("context", ("passage", "text", "document", "article", "paragraph", "段落", "文章"))


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        text: The answer; empty when the text has none.
        score: The probability of this part among all parts of its window, for a span model; the mean probability of the
            answer's tokens is not a measure of truth, so a chat model gives none.
        begin: Where the answer stands in the text, in characters; None when it does not stand there word for word.
        end: Behind it.
        evidence: The passage that it is from.
        evidence_begin: Where that begins in the text.
        read: How many passages or windows were read.
        passages: How many there are: when fewer were read, those that share most words with the question.
    """

    text: str
    score: float | None
    begin: int | None
    end: int | None
    evidence: str
    evidence_begin: int
    read: int
    passages: int

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        values = dict(vars(self))
        return {"prediction": values.pop("text"), **values}

    def __str__(self) -> str:
        return self.text


class Answerer(Protocol):
    """Answers questions."""

    def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        """Returns the answer of each row's question from its context."""

    def identity(self) -> dict[str, Any]:
        """Returns what decides the answers."""


class SpanAnswerer:
    """A span model.

    Args:
        runner: An encoder with a head for spans.
        nothing: A question may have no answer: where pointing at the first token is likelier than every span.
    """

    def __init__(self, runner: EncoderRunner, nothing: bool = False) -> None:
        self.runner, self.nothing = runner, nothing

    def identity(self) -> dict[str, Any]:
        """See `Answerer`."""
        return {"model": self.runner.fingerprint(), "nothing": self.nothing}

    def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        """See `Answerer`."""
        frame, tokenizer = self.runner.frame, self.runner.tokenizer
        sequences, types, windows = [], [], []
        for owner, row in enumerate(rows):
            question = tokenizer.encode(row["question"])
            tokens, offsets = tokenizer.encode_with_offsets(row["context"])
            room = frame.pair_room(self.runner.longest)
            if len(question) > room // QUESTION_SHARE:
                raise BadInput(f"the question has {len(question)} tokens; this model reads {room // QUESTION_SHARE}")
            if not tokens:
                raise BadInput("the tokenizer makes no token of the context")
            room -= len(question)
            for window in self.runner.windows([tokens], room):
                part = tokens[window.begin : window.end]
                framed, kinds = frame.pair(question, part)
                sequences.append(framed)
                types.append(kinds)
                windows.append(
                    (owner, len(framed) - len(part) - len(frame.pair_back), offsets[window.begin : window.end])
                )
        best: list[Answer | None] = [None] * len(rows)
        margins = [-math.inf] * len(rows)
        nothing = [math.inf] * len(rows)
        counts = Counter(owner for owner, _, _ in windows)

        def take(group: list[int], scores: Tensor, batch: Ragged) -> None:
            for number, score in zip(group, batch.split(scores), strict=True):
                owner, place, offsets = windows[number]
                first, last = score[place : place + len(offsets), 0], score[place : place + len(offsets), 1]
                both = first[:, None] + last[None, :]
                legal = torch.ones_like(both, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
                both = both.masked_fill(~legal, -torch.inf)
                index = int(both.argmax())
                value = float(both.flatten()[index])
                none = float(score[0].sum())
                nothing[owner] = min(nothing[owner], none)
                if value <= margins[owner]:
                    continue
                margins[owner] = value
                one, other = divmod(index, both.shape[1])
                total = torch.logsumexp(torch.cat((both.flatten(), score[0].sum()[None])), 0)
                best[owner] = _span(rows[owner], offsets, one, other, math.exp(value - float(total)), counts[owner])

        self.runner.forward(sequences, take, types if frame.second_type else None)
        answers = [answer for answer in best if answer is not None]
        if self.nothing:
            return [
                _empty(answer) if nothing[owner] >= margins[owner] else answer for owner, answer in enumerate(answers)
            ]
        return answers


def _span(
    row: Row, offsets: Sequence[tuple[int, int]], first: int, last: int, probability: float, windows: int
) -> Answer:
    context = row["context"]
    begin, end = offsets[first][0], offsets[last][1]
    while begin < end and context[begin].isspace():
        begin += 1
    while end > begin and context[end - 1].isspace():
        end -= 1
    low = max(0, context.rfind("\n", 0, begin) + 1)
    high = context.find("\n", end)
    passage = context[low : high if high >= 0 else len(context)]
    return Answer(context[begin:end], round(probability, 6), begin, end, passage, low, windows, windows)


def _empty(answer: Answer) -> Answer:
    return replace(answer, text="", begin=None, end=None)


class PromptAnswerer:
    """A chat model that is given passages.

    Args:
        writer: The model.
        prompt: A prompt file.
    """

    def __init__(self, writer: ChatWriter, prompt: str | Path | None = None) -> None:
        self.writer = writer
        self.prompts = {language: load_prompt("answer", language, prompt) for language in LANGUAGES}
        empties = [one.messages({"passages": "", "question": ""}) for one in self.prompts.values()]
        writer.check_room(empties, min(one.max_tokens or 64 for one in self.prompts.values()))

    def identity(self) -> dict[str, Any]:
        """See `Answerer`."""
        return {"model": self.writer.fingerprint(), "prompts": [one.fingerprint() for one in self.prompts.values()]}

    def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        """See `Answerer`."""
        chosen, prompts, limits = [], [], []
        for row in rows:
            prompt = self.prompts[language_of(row["question"])]
            limit = prompt.max_tokens or 64
            empty = prompt.messages({"passages": "", "question": row["question"]})
            room = self.writer.room(empty, limit)
            passages = self._passages(row["context"], min(PASSAGE, room - NUMBER))
            kept = self._kept(row["question"], passages, room)
            numbered = "\n\n".join(f"[{number}] {passages[index][1].strip()}" for number, index in enumerate(kept, 1))
            prompts.append(self.writer.encode(prompt.messages({"passages": numbered, "question": row["question"]})))
            chosen.append((passages, kept))
            limits.append(limit)
        answers = self.writer.write(prompts, max_tokens=max(limits))
        return [
            _cited(row, answer.text.strip(), passages, kept)
            for row, answer, (passages, kept) in zip(rows, answers, chosen, strict=True)
        ]

    def _passages(self, context: str, most: int = PASSAGE) -> list[tuple[int, str]]:
        found, begin = [], 0
        for part in parts_of(context, most, self.writer.tokenizer):
            if part.strip():
                found.append((begin, part))
            begin += len(part)
        return found

    def _kept(self, question: str, passages: Sequence[tuple[int, str]], room: int) -> list[int]:
        """Returns the passages that fit, those first that share most with the question; in the order of the text."""
        lengths = [len(self.writer.tokenizer.encode(text)) + NUMBER for _, text in passages]
        if sum(lengths) <= room:
            return list(range(len(passages)))
        scores = shared_words(question, [text for _, text in passages])
        kept: list[int] = []
        for index in sorted(range(len(passages)), key=lambda index: -scores[index]):
            if lengths[index] <= room:
                kept.append(index)
                room -= lengths[index]
        return sorted(kept)


def shared_words(question: str, passages: Sequence[str]) -> list[float]:
    """Returns for each passage the words that it shares with a question, rare ones counting more."""
    words = [set(terms_of(passage)) for passage in passages]
    terms = query_terms(question)
    weights = {term: math.log((len(words) + 1) / (1 + sum(term in one for one in words))) + 0.01 for term in terms}
    return [sum(weights[term] for term in terms if term in one) for one in words]


def _cited(row: Row, text: str, passages: Sequence[tuple[int, str]], kept: Sequence[int]) -> Answer:
    """Finds the passage that an answer is from: the one that holds it, else the one that shares most words with it."""
    name = text.rstrip(".。")
    inside = [index for index in kept if name and name in passages[index][1]]
    scores = shared_words(f"{row['question']} {text}", [passages[index][1] for index in kept])
    source = inside[0] if inside else kept[max(range(len(kept)), key=lambda place: scores[place])]
    begin, passage = passages[source]
    place = begin + passage.find(name) if inside else None
    return Answer(
        text,
        None,
        place,
        None if place is None else place + len(name),
        passage.strip(),
        begin,
        len(kept),
        len(passages),
    )


class AnswerTask:
    """The task `answer`.

    Args:
        ref: A span model, or a chat model.
        nothing: For a span model: questions may have no answer.
        prompt: A prompt file for a chat model.
    """

    name = "answer"
    columns = (QUESTION, CONTEXT)
    outputs = ("prediction", "score", "begin", "end", "evidence", "evidence_begin", "read", "passages")

    def __init__(
        self, ref: str | Path = CHAT_MODEL, *, nothing: bool = False, prompt: str | Path | None = None
    ) -> None:
        path = resolve(ref)
        self.answerer: Answerer
        if path.is_dir() and is_encoder(path):
            if prompt is not None:
                raise BadInput("an encoder takes no prompt", where=str(ref), remedy="leave --prompt out")
            self.answerer, self.chunk = SpanAnswerer(EncoderRunner.open(path, "span", "answer"), nothing), 64
        else:
            if nothing:
                raise BadInput("a chat model is told by its prompt what to do without an answer", where="--no-answer")
            writer = InstructedSource.opened(path) if path.is_dir() and is_seq2seq(path) else ChatWriter.open(path)
            self.answerer, self.chunk = PromptAnswerer(writer, prompt), 8

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return self.answerer.identity()

    def run(self, rows: Sequence[Row]) -> list[Answer]:
        """See `Task.run`."""
        return self.answerer(rows)

"""Span answering: the part of a text that answers a question about it, or that none does (Rajpurkar et al. 2016, 2018).

A long text is read in windows that overlap; a window without the answer points at its first token, as a question
without an answer does. The best span over all windows is the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example, read_text, stored_text
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Question, Shape
from zhixing.data.shapes.records import Misfit, brief
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.models.ragged import Ragged
from zhixing.tokenization.framing import Frame, frame_of
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective
from zhixing.training.objectives.texts import TOKENS, ragged_of

STRIDE = 128
QUESTION_SHARE = 2
"""A question takes up to one part in so many of what the network reads."""


@dataclass(frozen=True)
class SpanBatch:
    """Windows with the places of their answers.

    Attributes:
        texts: Question and window, one sequence each.
        ends: First and last token of the answer within its sequence, (sequences, 2); zeros where there is none.
        contexts: Where the text stands in its sequence, [begin, end).
        examples: What they were made of.
    """

    texts: Ragged
    ends: Tensor
    contexts: list[tuple[int, int]]
    examples: list[Example]

    @property
    def target_count(self) -> int:
        """The sequences."""
        return len(self.ends)

    @property
    def token_count(self) -> int:
        """The tokens of all sequences."""
        return len(self.texts.tokens)


@dataclass(frozen=True)
class Guess:
    """The best span of a window.

    Attributes:
        text: Of the span.
        score: Of both its ends together.
        nothing: Of pointing at the first token instead.
    """

    text: str
    score: float
    nothing: float


class Span(RecordObjective):
    """Minimises the mean of -log p(first token of the answer) and -log p(last one)."""

    name: ClassVar[str] = "span"
    summary: ClassVar[str] = "find the part of a text that answers a question, or that none does"
    shapes: ClassVar[tuple[Shape, ...]] = ("qa",)
    network: ClassVar[NetworkKind] = "encoder"
    options: ClassVar[frozenset[str]] = frozenset({"stride", "longest_answer"})
    measures: ClassVar[tuple[str, ...]] = ("squad_f1", "squad_em", "squad2_f1", "squad2_em", "cmrc_f1", "cmrc_em")
    sample: ClassVar[Mapping[str, Any]] = {
        "context": "知行合一由王阳明提出。",
        "question": "谁提出了知行合一？",
        "answers": {"text": ["王阳明"], "answer_start": [5]},
    }
    fields: ClassVar[Mapping[str, str]] = {
        **TOKENS,
        "ends": "int32",
        "context": "int32",
        "offsets": "int32",
        "note": "uint8",
    }
    most_characters: ClassVar[int | None] = 1_000_000

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._unanswerable, self._chinese, self._seen = 0, 0, 0

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer."""
        super().attach(tokenizer, longest)
        self.frame: Frame = frame_of(tokenizer)
        if self.frame.pair_room(longest) < 8:
            raise BadInput(
                f"{longest} tokens leave no room for a question and a text", where="model.context", remedy="raise it"
            )

    def observe(self, record: Question, held_out: bool) -> None:
        """Checks that answers are parts of the text."""
        if not record.question.strip():
            raise Misfit("the question is empty", "write it, or leave the record out")
        for answer in record.answers:
            if answer.start is None:
                raise Misfit(
                    f"the answer {brief(answer.text)} is no part of the text",
                    "copy it from the text, or use train.objective: seq2seq for free answers",
                )
            if record.context[answer.start : answer.start + len(answer.text)] != answer.text:
                raise Misfit(f"the answer {brief(answer.text)} does not stand at {answer.start}", "mend answer_start")
        self._seen += 1
        self._unanswerable += not record.answers
        self._chinese += any("\u4e00" <= character <= "\u9fff" for character in record.question)

    def settle(self) -> None:
        """Refuses records of which none has an answer."""
        if self._unanswerable == self._seen:
            raise BadInput("no training record has an answer", where="data.paths", remedy="see data.columns")

    def facts(self) -> dict[str, Any]:
        """Returns what decides the measures."""
        return {"questions": self._seen, "unanswerable": self._unanswerable, "chinese": self._chinese}

    def load_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes it from an earlier pass."""
        self._seen, self._unanswerable = int(facts["questions"]), int(facts["unanswerable"])
        self._chinese = int(facts["chinese"])

    def measured(self) -> tuple[str, ...]:
        """SQuAD's measures, those of SQuAD 2.0 where questions have no answer, CMRC's where they are Chinese."""
        if self._unanswerable:
            return "squad2_f1", "squad2_em"
        return ("cmrc_f1", "cmrc_em") if 2 * self._chinese > self._seen else ("squad_f1", "squad_em")

    def head(self) -> HeadConfig:
        """Returns a head that scores both ends of a span."""
        return HeadConfig(kind="span")

    def encode(self, record: Question) -> Encoded:
        """Makes a window of a text, or several."""
        try:
            question = self.tokenizer.encode(record.question)
            tokens, offsets = self.tokenizer.encode_with_offsets(record.context)
        except BadInput as error:
            raise Misfit(error.cause, error.remedy or "") from error
        if not tokens or not question:
            raise Misfit("the text or the question has no tokens", "leave the record out")
        room = self.frame.pair_room(self.longest)
        cut = max(0, len(question) - room // QUESTION_SHARE)
        question = question[: room // QUESTION_SHARE]
        room -= len(question)
        stride = max(1, min(self.task.stride or STRIDE, room // 2))
        answer = self._answer(record, offsets)
        note = stored_text(
            json.dumps({"context": record.context, "answers": [answer.text for answer in record.answers]})
        )
        examples: list[Example] = []
        for begin in range(0, max(1, len(tokens) - room + stride), stride):
            part = tokens[begin : begin + room]
            framed, types = self.frame.pair(question, part)
            place = len(framed) - len(part) - len(self.frame.pair_back)
            inside = answer is not None and begin <= answer[0] and answer[1] < begin + len(part)
            ends = [end - begin + place for end in answer] if inside and answer is not None else [0, 0]
            examples.append(
                {
                    "tokens": np.array(framed, np.int32),
                    "types": np.array(types if self.frame.second_type else [], np.uint8),
                    "ends": np.array(ends, np.int32),
                    "context": np.array([place, place + len(part)], np.int32),
                    "offsets": np.array(offsets[begin : begin + len(part)], np.int32).reshape(-1),
                    "note": note,
                }
            )
            if begin + room >= len(tokens):
                break
        return Encoded(tuple(examples), cut)

    @staticmethod
    def _answer(record: Question, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """Returns the first and the last token that the first answer touches; None when there is no answer."""
        if not record.answers:
            return None
        answer = record.answers[0]
        assert answer.start is not None
        begin, end = answer.start, answer.start + len(answer.text)
        inside = [index for index, (first, last) in enumerate(offsets) if first < end and last > begin]
        if not inside:
            raise Misfit(f"the answer {brief(answer.text)} has no tokens", "leave the record out")
        return inside[0], inside[-1]

    def to_device(self, raw: RawBatch, device: torch.device) -> SpanBatch:
        """Lays the windows end to end."""
        ends = np.stack([example["ends"] for example in raw.examples]).astype(np.int64)
        contexts = [(int(example["context"][0]), int(example["context"][1])) for example in raw.examples]
        return SpanBatch(ragged_of(raw.examples, device), torch.from_numpy(ends).to(device), contexts, raw.examples)

    def loss_sum(self, model: EncoderModel, batch: SpanBatch) -> Tensor:
        """Returns the mean loss of both ends, summed over sequences."""
        rows, mask = batch.texts.padded(model(batch.texts).float())  # (sequences, longest, 2)
        rows = rows.masked_fill(~mask[:, :, None], -torch.inf)
        losses = [F.cross_entropy(rows[:, :, side], batch.ends[:, side], reduction="sum") for side in (0, 1)]
        return (losses[0] + losses[1]) / 2

    def predict(self, model: EncoderModel, batch: SpanBatch) -> Sequence[Any]:
        """Returns the best span of each window."""
        found = []
        scores = batch.texts.split(model(batch.texts).float())
        for score, (begin, end), example in zip(scores, batch.contexts, batch.examples, strict=True):
            first, last = score[begin:end, 0], score[begin:end, 1]
            both = first[:, None] + last[None, :]
            legal = torch.ones_like(both, dtype=torch.bool).triu().tril(self.task.longest_answer - 1)
            both = both.masked_fill(~legal, -torch.inf)
            best = int(both.argmax())
            one, other = divmod(best, both.shape[1])
            offsets = example["offsets"].reshape(-1, 2)
            context = json.loads(read_text(example["note"]))["context"]
            text = context[int(offsets[one][0]) : int(offsets[other][1])].strip()
            found.append(Guess(text, float(both.flatten()[best]), float(score[0].sum())))
        return found

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns the accepted answers."""
        return [json.loads(read_text(example["note"]))["answers"] for example in examples]

    def gather(
        self, predictions: Sequence[Any], references: Sequence[Any], records: Sequence[int]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Takes the best span of all windows of a question; none where no window's is better than none."""
        best: dict[int, Guess] = {}
        nothing: dict[int, float] = {}
        right: dict[int, Any] = {}
        for guess, reference, record in zip(predictions, references, records, strict=True):
            if record not in best or guess.score > best[record].score:
                best[record] = guess
            nothing[record] = min(nothing.get(record, np.inf), guess.nothing)
            right[record] = reference
        if self._unanswerable:
            return [g.text if g.score > nothing[r] else "" for r, g in best.items()], list(right.values())
        return [guess.text for guess in best.values()], list(right.values())

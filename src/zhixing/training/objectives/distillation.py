"""Distillation: a smaller model learns to predict what a larger one of the same tokenizer does (Hinton et al. 2015).

The loss of a token is (1 - hard_weight) * T^2 * KL at temperature T, plus hard_weight * cross-entropy with the text.
The teacher runs beside the student, or, with `task.top_k`, once over all records before the first step: its likeliest
tokens are kept in the run folder, and the teacher is not in memory while the student learns. Distillation on whole
sequences, where the student learns from what the teacher wrote, needs no objective of its own (docs/alignment.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve
from zhixing.checkpoints.tensors import read_tensors, write_tensors
from zhixing.core.errors import BadInput
from zhixing.core.progress import progress_bar
from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example, ExampleStore
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Chat, Pair, Shape, Text
from zhixing.data.shapes.records import Message, Misfit
from zhixing.models.divergence import divergence_sum, top_divergence
from zhixing.models.loss import IGNORED, cross_entropy_sum
from zhixing.models.ragged import batches_by_length
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.answers import AnswerEncoder, padded_answers
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective, Setting

KEPT = "teacher.safetensors"
TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class TaughtBatch:
    """Sequences to be predicted as the teacher does.

    Attributes:
        tokens: (rows, time).
        targets: (rows, time), IGNORED where nothing is to be predicted.
        top: The teacher's likeliest tokens at each target and their log-probabilities, (targets, k); None: not kept.
        target_count: Targets.
        outcomes: Of each held-out row: at how many targets both have the same likeliest token, and of how many.
    """

    tokens: Tensor
    targets: Tensor
    top: tuple[Tensor, Tensor] | None
    target_count: int
    outcomes: list[tuple[int, int]]


class Distillation(RecordObjective):
    """Minimises the divergence from a teacher's predictions."""

    name: ClassVar[str] = "distill"
    summary: ClassVar[str] = "predict what a larger model of the same tokenizer predicts"
    shapes: ClassVar[tuple[Shape, ...]] = ("text", "pair", "chat")
    network: ClassVar[NetworkKind] = "causal"
    options: ClassVar[frozenset[str]] = frozenset({"teacher", "divergence", "temperature", "hard_weight", "top_k"})
    measures: ClassVar[tuple[str, ...]] = ("agreement",)
    own: ClassVar[frozenset[str]] = frozenset(measures)
    sample: ClassVar[Mapping[str, Any]] = {"text": "Whatever the student is to be good at."}
    fields: ClassVar[Mapping[str, str]] = {"tokens": "int32", "wanted": "uint8"}

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._teacher: Transformer | None = None
        self._top: dict[bytes, tuple[Tensor, Tensor]] = {}

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Asks for a teacher, and refuses a reverse divergence from a part of its predictions."""
        task = recipe.task
        if task.teacher is None:
            raise BadInput("there is no teacher", where="task.teacher", remedy="name the model to learn from")
        if task.top_k is not None and task.divergence == "reverse":
            raise BadInput(
                "the reverse divergence needs all of the teacher's predictions, not its likeliest alone",
                where="task.top_k",
                remedy="leave it out, or use the forward divergence",
            )

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer."""
        super().attach(tokenizer, longest)
        self._encoder = AnswerEncoder(tokenizer)

    def encode(self, record: Text | Pair | Chat) -> Encoded:
        """Encodes a text, all of which is to be predicted, or a conversation, of which the answers are."""
        if isinstance(record, Text):
            tokens = self.tokenizer.encode(record.text, special=True)
            end = self.tokenizer.end_of_text_id
            tokens = tokens + ([] if end is None else [end])
            wanted = [False] + [True] * (len(tokens) - 1)
        elif isinstance(record, Pair):
            tokens, wanted = self._encoder.encode(
                (Message("user", record.source),), (Message("assistant", record.target),)
            )
        else:
            tokens, wanted = self._encoder.encode((), record.messages)
        cut = max(0, len(tokens) - self.longest)
        tokens, wanted = tokens[: self.longest], wanted[: self.longest]
        if not any(wanted[1:]):
            raise Misfit("there is nothing in it to predict", "leave the record out")
        return Encoded(({"tokens": np.array(tokens, np.int32), "wanted": np.array(wanted, np.uint8)},), cut)

    # The teacher.

    def begin(self, setting: Setting) -> None:
        """Opens the teacher, or what was kept of it."""
        if not isinstance(setting.model, Transformer):
            raise BadInput("the student must be a Transformer", where="model.family", remedy="choose another family")
        path, stores = setting.folder / KEPT, {"train": setting.train, "validation": setting.validation}
        kept = read_tensors(path) if path.exists() and self.task.top_k is not None else {}
        if not kept:
            self._teacher = self._open(setting.model)
            if self.task.top_k is not None:
                kept = self._keep(self._teacher, stores)
                partial = path.with_name(f".{path.name}")
                write_tensors(partial, kept)
                partial.rename(path)
                self._teacher = None
        for name, store in stores.items() if kept else ():
            begin = 0
            for index in range(len(store)):
                example = store[index]
                end = begin + int((example["wanted"][1:] > 0).sum())
                self._top[_key(example)] = kept[f"{name}.tokens"][begin:end], kept[f"{name}.logprobs"][begin:end]
                begin = end

    def _open(self, student: Transformer) -> Transformer:
        assert self.task.teacher is not None
        opened = open_model(resolve(self.task.teacher))
        if opened.tokenizer is None or opened.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise BadInput(
                "the teacher's tokenizer is not the student's, so their predictions cannot be compared",
                where="task.teacher",
                remedy=f"give the student the teacher's: --set tokenizer.path={self.task.teacher}",
            )
        teacher = opened.transformer.to(student.device).requires_grad_(False).eval()
        if teacher.config.vocab_size != student.config.vocab_size:
            raise BadInput(
                f"the teacher predicts {teacher.config.vocab_size} tokens, the student {student.config.vocab_size}",
                where="task.teacher",
            )
        if teacher.config.context < self.longest:
            raise BadInput(
                f"the teacher reads {teacher.config.context} tokens, the student {self.longest}",
                where="model.context",
                remedy=f"--set model.context={teacher.config.context}",
            )
        return teacher

    @torch.no_grad()
    def _keep(self, teacher: Transformer, stores: Mapping[str, ExampleStore]) -> dict[str, Tensor]:
        """Returns the teacher's likeliest tokens at all targets of all examples, in the order of the examples."""
        assert self.task.top_k is not None
        count = min(self.task.top_k, teacher.config.vocab_size)
        found: dict[str, Tensor] = {}
        with progress_bar("Asking the teacher", sum(map(len, stores.values()))) as bar:
            for name, store in stores.items():
                parts: dict[int, tuple[Tensor, Tensor]] = {}
                for group in batches_by_length(store.lengths.tolist(), TOKENS_AT_ONCE):
                    tokens, targets = self._rows(store.take(group), teacher.device)
                    hidden = teacher.hidden_states(tokens)
                    for row, index in enumerate(group):
                        logits = teacher.logits(hidden[row][targets[row] != IGNORED]).float() / self.task.temperature
                        values, places = logits.log_softmax(-1).topk(count)
                        parts[index] = places.int().cpu(), values.cpu()
                    bar.advance(len(group))
                ordered = [parts[index] for index in range(len(store))]
                for key, which in (("tokens", 0), ("logprobs", 1)):
                    found[f"{name}.{key}"] = torch.cat([part[which] for part in ordered])
        return found

    # Batches and losses.

    def _rows(self, examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor]:
        return padded_answers([(example["tokens"], example["wanted"]) for example in examples], device)

    def to_device(self, raw: RawBatch, device: torch.device) -> TaughtBatch:
        """Lays sequences side by side, with what was kept of the teacher."""
        tokens, targets = self._rows(raw.examples, device)
        top = None
        if self._top:
            parts = [self._top[_key(example)] for example in raw.examples]
            top = (
                torch.cat([one for one, _ in parts]).long().to(device),
                torch.cat([two for _, two in parts]).to(device),
            )
        return TaughtBatch(tokens, targets, top, int((targets != IGNORED).sum()), [])

    def loss_sum(self, model: Any, batch: TaughtBatch) -> Tensor:
        """Returns the loss summed over the targets."""
        task, kept = self.task, batch.targets != IGNORED
        hidden = model.hidden_states(batch.tokens)[kept]  # (targets, width)
        head, cap = model.output_matrix, model.config.logit_softcap
        if batch.top is not None:
            logs = (model.logits(hidden).float() / task.temperature).log_softmax(-1)
            soft = top_divergence(logs.gather(1, batch.top[0]), batch.top[1]).sum()
            likeliest: Tensor | None = batch.top[0][:, 0]
        else:
            assert self._teacher is not None
            teacher = self._teacher
            with torch.no_grad():
                taught = teacher.hidden_states(batch.tokens)[kept]
            soft = divergence_sum(
                hidden, head, taught, teacher.output_matrix, caps=(cap, teacher.config.logit_softcap),
                temperature=task.temperature, reverse=task.divergence == "reverse",
            )  # fmt: skip
            likeliest = None if model.training else teacher.logits(taught).argmax(-1)
        if not model.training and likeliest is not None:
            same = (model.logits(hidden).argmax(-1) == likeliest).split(kept.sum(1).tolist())
            batch.outcomes.extend((int(row.sum()), len(row)) for row in same)
        loss = (1 - task.hard_weight) * task.temperature**2 * soft
        if task.hard_weight:
            loss = loss + task.hard_weight * cross_entropy_sum(hidden, head, batch.targets[kept], cap)
        return loss

    # Measuring.

    def predict(self, model: Any, batch: TaughtBatch) -> Sequence[Any]:
        """Returns for each row at how many targets both agree, and of how many."""
        return batch.outcomes

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns the text of each."""
        return [self.tokenizer.decode(example["tokens"].tolist(), skip_special=True) for example in examples]

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns the share of targets at which both have the same likeliest token."""
        same, all_of_them = (sum(column) for column in zip(*predictions, strict=True))
        return {"agreement": same / all_of_them}


def _key(example: Example) -> bytes:
    return b"|".join(example[name].tobytes() for name in ("tokens", "wanted"))

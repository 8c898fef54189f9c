"""Learning from preferences: of two answers the better one becomes likelier than the worse one, or good ones than bad.

`dpo`, `ipo`, `simpo`, `orpo` read pairs, `kto` answers that are good or bad by themselves (pairs, too: one of each).
Which loss is which formula is in `training.preference`. The reference of DPO, IPO and KTO is the model that the run
began with: its log-probabilities are computed once, before the first step, and kept in the run folder, so that no
second model is in memory while training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zhixing.checkpoints.tensors import read_tensors, write_tensors
from zhixing.core.errors import BadInput
from zhixing.core.progress import progress_bar
from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example, ExampleStore
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Preference, Shape, UnpairedPreference
from zhixing.data.shapes.records import Message, Misfit
from zhixing.models.ragged import batches_by_length
from zhixing.models.token_logprobs import token_logprobs
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.answers import AnswerEncoder, padded_answers
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective, Setting
from zhixing.training.preference import Answers, dpo_loss, ipo_loss, kto_loss, orpo_loss, simpo_loss

REFERENCE = "reference.safetensors"
TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class AnswerBatch:
    """Answers side by side: of pairs all better ones, then all worse ones; for KTO the answers, then mismatched ones.

    Attributes:
        tokens: (rows, time).
        targets: (rows, time), IGNORED outside of the answers.
        reference: Log-probability of each answer under the model that the run began with, (rows).
        good: For KTO whether each answer is good, (rows / 2); else empty.
        target_count: Pairs, or answers.
        token_count: Tokens of all rows.
        outcomes: What held-out ones came to; filled in by `loss_sum`.
    """

    tokens: Tensor
    targets: Tensor
    reference: Tensor
    good: Tensor
    target_count: int
    token_count: int
    outcomes: list[dict[str, float]]


class _Preference(RecordObjective):
    """What all of them share: encoding two sequences for an example, the reference, figures."""

    shapes: ClassVar[tuple[Shape, ...]] = ("preference",)
    network: ClassVar[NetworkKind] = "causal"
    measures: ClassVar[tuple[str, ...]] = ("pair_accuracy", "margin", "chosen_logprob", "rejected_logprob")
    own: ClassVar[frozenset[str]] = frozenset(measures)
    sample: ClassVar[Mapping[str, Any]] = {"prompt": "1 + 1?", "chosen": "2.", "rejected": "3."}
    fields: ClassVar[Mapping[str, str]] = {
        "first": "int32", "first_answer": "uint8", "second": "int32", "second_answer": "uint8", "good": "uint8",
    }  # fmt: skip
    needs_reference: ClassVar[bool] = True
    default_beta: ClassVar[float] = 0.1

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.beta = self.default_beta if recipe.task.beta is None else recipe.task.beta
        self._known: dict[bytes, tuple[float, float]] = {}
        self._figures: dict[str, list[float]] = defaultdict(list)

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Refuses to begin with nothing, and a beta without meaning."""
        if recipe.model.start is None:
            raise BadInput(
                f"{cls.name!r} moves a model that can already answer",
                where="model.start",
                remedy="name the model to begin with",
            )
        if recipe.task.beta == 0:
            raise BadInput("with beta = 0 nothing is learned", where="task.beta", remedy="leave it out, or give 0.1")

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer."""
        super().attach(tokenizer, longest)
        self._encoder = AnswerEncoder(tokenizer)

    def length(self, example: Example) -> int:
        """Counts both sequences."""
        return len(example["first"]) + len(example["second"])

    def observe(self, record: Preference, held_out: bool) -> None:
        """Refuses pairs without a difference."""
        if record.chosen == record.rejected:
            raise Misfit("the chosen answer is the rejected one", "leave the record out")

    def encode(self, record: Preference) -> Encoded:
        """Makes one example of a pair."""
        return self._example(record.prompt, record.chosen, record.prompt, record.rejected, good=True)

    def _example(
        self, prompt: tuple[Message, ...], answer: tuple[Message, ...], other_prompt: tuple[Message, ...],
        other: tuple[Message, ...], *, good: bool,
    ) -> Encoded:  # fmt: skip
        cut = 0
        values: dict[str, NDArray[Any]] = {"good": np.array([good], np.uint8)}
        for name, before, after in (("first", prompt, answer), ("second", other_prompt, other)):
            tokens, mask = self._encoder.encode(before, after)
            cut += max(0, len(tokens) - self.longest)
            tokens, mask = tokens[: self.longest], mask[: self.longest]
            if not any(mask):
                raise Misfit(
                    f"the prompt leaves no room for an answer within {self.longest} tokens",
                    "shorten it, or leave the record out",
                    kind="long",
                )
            values[name], values[f"{name}_answer"] = np.array(tokens, np.int32), np.array(mask, np.uint8)
        return Encoded((values,), cut)

    # The reference.

    def begin(self, setting: Setting) -> None:
        """Scores all answers with the model as it begins, or reads what was kept of that."""
        if not isinstance(setting.model, Transformer):
            raise BadInput(
                "preferences are learned by Transformers", where="model.start", remedy="choose another model"
            )
        if not self.needs_reference:
            return
        path = setting.folder / REFERENCE
        stores = {"train": setting.train, "validation": setting.validation}
        kept = read_tensors(path) if path.exists() else {}
        if any(name not in kept or len(kept[name]) != len(store) for name, store in stores.items()):
            kept = self._score(setting.model, stores)
            partial = path.with_name(f".{path.name}")
            write_tensors(partial, kept)
            partial.rename(path)
        for name, store in stores.items():
            for index in range(len(store)):
                first, second = kept[name][index].tolist()
                self._known[_key(store[index])] = first, second

    @torch.no_grad()
    def _score(self, model: Transformer, stores: Mapping[str, ExampleStore]) -> dict[str, Tensor]:
        training = model.training
        model.eval()
        found = {name: torch.zeros(len(store), 2) for name, store in stores.items()}
        with progress_bar("Scoring with the reference", sum(map(len, stores.values()))) as bar:
            for name, store in stores.items():
                for group in batches_by_length(store.lengths.tolist(), TOKENS_AT_ONCE):
                    batch = self._rows(store.take(group), model.device, reference=False)
                    logprobs = self._logprobs(model, batch)[0]
                    found[name][torch.tensor(group)] = logprobs.view(2, len(group)).t().cpu()
                    bar.advance(len(group))
        model.train(training)
        return found

    # Batches and losses.

    def to_device(self, raw: RawBatch, device: torch.device) -> AnswerBatch:
        """Lays all first sequences side by side, then all second ones."""
        return self._rows(raw.examples, device, reference=self.needs_reference)

    def _rows(self, examples: Sequence[Example], device: torch.device, *, reference: bool) -> AnswerBatch:
        rows = [(example[name], example[f"{name}_answer"]) for name in ("first", "second") for example in examples]
        tokens, targets = padded_answers(rows, device)
        known = torch.zeros(2 * len(examples))
        if reference:
            pairs = [self._known[_key(example)] for example in examples]
            known = torch.tensor([[first for first, _ in pairs], [second for _, second in pairs]]).flatten()
        good = torch.tensor([bool(example["good"][0]) for example in examples])
        count = sum(len(row) for row, _ in rows)
        return AnswerBatch(tokens, targets, known.to(device), good.to(device), len(examples), count, [])

    def _logprobs(self, model: Transformer, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
        """Returns the log-probability of each row's answer, and its length."""
        hidden = model.hidden_states(batch.tokens)
        logprobs, _ = token_logprobs(hidden, model.output_matrix, batch.targets, model.config.logit_softcap)
        return logprobs.sum(1), (batch.targets >= 0).sum(1)

    def _answers(self, model: Transformer, batch: AnswerBatch) -> tuple[Answers, Answers]:
        logprobs, lengths = self._logprobs(model, batch)
        half = batch.target_count
        first, second = slice(0, half), slice(half, None)
        return (
            Answers(logprobs[first], batch.reference[first], lengths[first]),
            Answers(logprobs[second], batch.reference[second], lengths[second]),
        )

    def loss_sum(self, model: Any, batch: AnswerBatch) -> Tensor:
        """Returns the loss summed over the pairs."""
        chosen, rejected = self._answers(model, batch)
        outcomes = [dict(zip(self._names, values, strict=True)) for values in self._outcomes(chosen, rejected)]
        if model.training:
            for outcome in outcomes:
                for name, value in outcome.items():
                    self._figures[name].append(value)
        else:
            batch.outcomes.extend(outcomes)
        return self._loss(chosen, rejected).sum()

    _names: ClassVar[tuple[str, ...]] = ("pair_accuracy", "margin", "chosen_logprob", "rejected_logprob")

    def _outcomes(self, chosen: Answers, rejected: Answers) -> Iterator[tuple[float, ...]]:
        """Yields for each pair: whether the better one has the higher reward, by how much, and both per token."""
        with torch.no_grad():
            margin = self._reward(chosen) - self._reward(rejected)
            columns = ((margin > 0).double(), margin, chosen.mean, rejected.mean)
            yield from zip(*(column.tolist() for column in columns), strict=True)

    def _reward(self, answers: Answers) -> Tensor:
        """The reward that the loss implies."""
        return self.beta * answers.ratio

    def _loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        raise NotImplementedError

    def step_figures(self) -> dict[str, float]:
        """Returns the mean of each figure over the last step's pairs."""
        means = {name: float(np.mean(values)) for name, values in self._figures.items()}
        self._figures.clear()
        return means

    # Measuring.

    def predict(self, model: Any, batch: AnswerBatch) -> Sequence[Any]:
        """Returns what each pair came to."""
        return batch.outcomes

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns the better answer, and the worse one."""
        return [
            " / ".join(
                self.tokenizer.decode(example[name][example[f"{name}_answer"] > 0].tolist())
                for name in ("first", "second")
            )
            for example in examples
        ]

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns the mean of each figure."""
        names = dict.fromkeys(name for one in predictions for name in one)
        return {name: float(np.mean([one[name] for one in predictions if name in one])) for name in names}


def _key(example: Example) -> bytes:
    """Tells examples apart: what stands in one and where its answers are."""
    return b"|".join(example[name].tobytes() for name in ("first", "first_answer", "second", "second_answer"))


class Dpo(_Preference):
    """Direct preference optimization."""

    name: ClassVar[str] = "dpo"
    summary: ClassVar[str] = "make the better of two answers likelier, held to the model it began as (DPO)"
    options: ClassVar[frozenset[str]] = frozenset({"beta", "label_smoothing"})

    def _loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        return dpo_loss(chosen, rejected, self.beta, self.task.label_smoothing)


class Ipo(_Preference):
    """Identity preference optimization."""

    name: ClassVar[str] = "ipo"
    summary: ClassVar[str] = "likewise, towards a fixed lead instead of an ever larger one (IPO)"
    options: ClassVar[frozenset[str]] = frozenset({"beta"})

    def _reward(self, answers: Answers) -> Tensor:
        return answers.ratio / answers.lengths

    def _loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        return ipo_loss(chosen, rejected, self.beta)


class SimPo(_Preference):
    """Simple preference optimization."""

    name: ClassVar[str] = "simpo"
    summary: ClassVar[str] = "likewise by log-probabilities per token, without a reference (SimPO)"
    options: ClassVar[frozenset[str]] = frozenset({"beta", "margin"})
    needs_reference: ClassVar[bool] = False
    default_beta: ClassVar[float] = 2.0

    def _reward(self, answers: Answers) -> Tensor:
        return self.beta * answers.mean

    def _loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        return simpo_loss(chosen, rejected, self.beta, self.task.margin)


class Orpo(_Preference):
    """Odds ratio preference optimization."""

    name: ClassVar[str] = "orpo"
    summary: ClassVar[str] = "learn the better answer and to prefer it at once, without a reference (ORPO)"
    options: ClassVar[frozenset[str]] = frozenset({"beta"})
    needs_reference: ClassVar[bool] = False

    def _reward(self, answers: Answers) -> Tensor:
        return answers.mean

    def _loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        return orpo_loss(chosen, rejected, self.beta)


class Kto(_Preference):
    """Kahneman-Tversky optimization: the second sequence is another record's answer behind the same prompt."""

    name: ClassVar[str] = "kto"
    summary: ClassVar[str] = "make good answers likelier and bad ones less likely, without pairs (KTO)"
    shapes: ClassVar[tuple[Shape, ...]] = ("unpaired_preference", "preference")
    options: ClassVar[frozenset[str]] = frozenset({"beta", "good_weight", "bad_weight"})
    measures: ClassVar[tuple[str, ...]] = ("right_side", "good_reward", "bad_reward", "good_logprob")
    own: ClassVar[frozenset[str]] = frozenset(measures)
    sample: ClassVar[Mapping[str, Any]] = {"prompt": "1 + 1?", "completion": "2.", "label": True}

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._before: tuple[Message, ...] | None = None

    def observe(self, record: Preference | UnpairedPreference, held_out: bool) -> None:
        """Remembers the last answer: it is the first record's mismatched one."""
        if isinstance(record, Preference):
            super().observe(record, held_out)
            self._before = record.rejected
        else:
            self._before = record.completion

    def encode(self, record: Preference | UnpairedPreference) -> Encoded:
        """Makes one example of an answer, with the answer of the record before as its mismatched one."""
        if isinstance(record, UnpairedPreference):
            return self._one(record.prompt, record.completion, record.good)
        good, bad = self._one(record.prompt, record.chosen, True), self._one(record.prompt, record.rejected, False)
        return Encoded(good.examples + bad.examples, good.cut + bad.cut)

    def _one(self, prompt: tuple[Message, ...], answer: tuple[Message, ...], good: bool) -> Encoded:
        other, self._before = self._before or answer, answer
        return self._example(prompt, answer, prompt, other, good=good)

    def loss_sum(self, model: Any, batch: AnswerBatch) -> Tensor:
        """Returns the loss summed over the answers."""
        answers, mismatched = self._answers(model, batch)
        losses = kto_loss(answers, batch.good, mismatched, self.beta, (self.task.good_weight, self.task.bad_weight))
        with torch.no_grad():
            rewards = (self.beta * answers.ratio).tolist()
        for reward, mean, good in zip(rewards, answers.mean.detach().tolist(), batch.good.tolist(), strict=True):
            side = "good" if good else "bad"
            outcome = {"right_side": float((reward > 0) == good), f"{side}_reward": reward, f"{side}_logprob": mean}
            if model.training:
                for name, value in outcome.items():
                    self._figures[name].append(value)
            else:
                batch.outcomes.append(outcome)
        return losses.sum()

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns the mean of each figure; one that no held-out answer has is not-a-number."""
        found = super().own_measures(loss, predictions, references)
        return {**dict.fromkeys(self.measures, float("nan")), **found}

"""Reinforcement learning: the model writes answers, rewards judge them, and better ones become likelier.

`grpo` compares the answers to one prompt with each other (Shao et al. 2024, DeepSeekMath) and clips; `reinforce` is the
plain policy gradient with the other samples as its baseline. The loss is averaged over all tokens of the step (as Yu et
al. 2025 do), so that long wrong answers are not cheaper than short ones. What is measured on held-out prompts is the
reward of the likeliest answer; rewards of weight 0 are measured and not trained on, so that a model which learns to
please the reward instead of doing the task is seen to.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.batches import key_of
from zhixing.data.examples import Example, read_text, stored_text
from zhixing.data.length_batches import LengthSampler, RawBatch
from zhixing.data.shapes import Chat, Pair, Shape
from zhixing.data.shapes.records import Misfit
from zhixing.models.adapters import adapter_names, deactivated
from zhixing.models.loss import IGNORED
from zhixing.models.token_logprobs import token_logprobs
from zhixing.models.transformer import Transformer
from zhixing.tokenization.chat_format import ChatFormat
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective, Sampler, Setting, Written
from zhixing.training.policy import clipped_loss, divergence, group_advantages, reinforce_advantages, reinforce_loss
from zhixing.training.rewards import Attempt, RecordFault, build_rewards
from zhixing.training.rollouts import Rollout, Rollouts, RolloutSampler, padded_rows

SHOWN = 3
"""Prompts of a step of which answers are kept to be read."""

COMMON = frozenset({"rewards", "samples", "temperature", "max_tokens", "beta", "reuse"})


@dataclass(frozen=True)
class PolicyBatch:
    """Answers in training.

    Attributes:
        tokens: (answers, time).
        targets: (answers, time), IGNORED outside of the answers.
        advantages: (answers, 1).
        old: Log-probabilities when they were written, (answers, time); None: those of the present policy.
        target_count: Tokens of all answers.
        token_count: With the prompts.
    """

    tokens: Tensor
    targets: Tensor
    advantages: Tensor
    old: Tensor | None
    target_count: int
    token_count: int


@dataclass(frozen=True)
class Outcome:
    """What became of a held-out prompt: the reward of the likeliest answer, each part of it, and the answer."""

    reward: float
    parts: Mapping[str, float]
    text: str

    def __str__(self) -> str:
        return f"{self.text} (reward {self.reward:g})"


@dataclass(frozen=True)
class PromptBatch:
    """Held-out prompts; `target_count` is their number, and what became of them is noted by `loss_sum`."""

    prompts: list[list[int]]
    examples: Sequence[Example]
    outcomes: list[Outcome]

    @property
    def target_count(self) -> int:
        """The number of prompts."""
        return len(self.prompts)


def asked(record: Pair | Chat) -> tuple[list[dict[str, Any]], str]:
    """Returns the conversation up to the last answer, and that answer: what a policy is asked, and what is right."""
    if isinstance(record, Pair):
        return [{"role": "user", "content": record.source}], record.target
    last = max(index for index, message in enumerate(record.messages) if message.role == "assistant")
    return [message.to_json() for message in record.messages[:last]], record.messages[last].content


def _row(example: Example) -> dict[str, Any]:
    """Returns the fields of a record's row, where a reward needs them."""
    text = read_text(example["row"]) if "row" in example else ""  # older runs have not kept it
    return json.loads(text) if text else {}


class _Policy(RecordObjective):
    """What both objectives share: drawing, judging, measuring."""

    shapes: ClassVar[tuple[Shape, ...]] = ("pair", "chat")
    network: ClassVar[NetworkKind] = "causal"
    measures: ClassVar[tuple[str, ...]] = ("reward",)
    own: ClassVar[frozenset[str]] = frozenset({"reward"})
    sample: ClassVar[Mapping[str, Any]] = {"source": "12+34=", "target": "46"}
    fields: ClassVar[Mapping[str, str]] = {"tokens": "int32", "prompt": "uint8", "answer": "uint8", "row": "uint8"}

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.rewards = build_rewards(recipe.task.rewards or ())
        self._reference: Any = None
        self._late = 0
        self._figures: dict[str, list[float]] = defaultdict(list)
        self._written: list[dict[str, Any]] = []

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Refuses a policy that begins with nothing, and rewards that cannot be built."""
        if recipe.model.start is None:
            raise BadInput(
                f"{cls.name!r} makes good answers of a model likelier: it must be able to write some",
                where="model.start",
                remedy="name the model to begin with",
            )
        build_rewards(recipe.task.rewards or ())
        if recipe.task.samples < 2 and cls.name == "grpo":
            raise BadInput(
                "grpo compares answers to the same prompt, so there must be several",
                where="task.samples",
                remedy="give 2 or more, or train with reinforce",
            )

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer; prompts go through its chat template where it has one."""
        super().attach(tokenizer, longest)
        self._format = None if tokenizer.chat_templates is None else ChatFormat(tokenizer)

    def observe(self, record: Pair | Chat, held_out: bool) -> None:
        """Refuses empty prompts."""
        if not any(message["content"].strip() for message in asked(record)[0]):
            raise Misfit("the prompt is empty", "write one, or leave the record out")

    def encode(self, record: Pair | Chat) -> Encoded:
        """Keeps the prompt as tokens and as text, and the right answer as text."""
        messages, answer = asked(record)
        text = "\n".join(message["content"] for message in messages)
        if self._format is None:
            tokens = self.tokenizer.encode(text, special=True)
        else:
            tokens = self._format.encode(messages, add_generation_prompt=True).tokens
        over = len(tokens) + self.task.max_tokens - self.longest
        if over > 0:
            raise Misfit(
                f"a prompt of {len(tokens)} tokens and an answer of {self.task.max_tokens} are more than the model's"
                f" {self.longest}",
                "lower task.max_tokens, or leave the record out",
                kind="long",
            )
        texts = {"prompt": stored_text(text), "answer": stored_text(answer), "row": stored_text("")}
        return Encoded(({"tokens": np.array(tokens, np.int32), **texts},))

    def encode_row(self, record: Pair | Chat, row: Mapping[str, Any] | None) -> Encoded:
        """Keeps the row beside it, where a reward looks at its fields."""
        encoded = self.encode(record)
        rewards = self.task.rewards or ()
        for reward in rewards:
            if reward.field not in (None, "answer") and (row or {}).get(reward.field or "") in (None, "", []):
                raise Misfit(
                    f"no field {reward.field!r}, which the reward {reward.kind!r} compares with",
                    f"add it, name another one with task.rewards' `field` (here are {', '.join(row or ()) or 'none'}),"
                    " or leave the record out",
                )
        (example,) = encoded.examples
        prompt, answer = read_text(example["prompt"]), read_text(example["answer"])
        try:
            self.rewards.check(Attempt(prompt, answer, answer, dict(row or {})))
        except RecordFault as error:
            raise Misfit(f"{error.where}: {error.cause}", error.remedy or "") from error
        if row and any(reward.kind == "function" or reward.field not in (None, "answer") for reward in rewards):
            (example,) = encoded.examples
            kept = json.dumps(dict(row), ensure_ascii=False, default=str)
            return Encoded(({**example, "row": stored_text(kept)},), encoded.cut)
        return encoded

    def begin(self, setting: Setting) -> None:
        """Takes the writer, and keeps the model as it begins where answers are held against it."""
        model = setting.model
        if not isinstance(model, Transformer):
            raise BadInput("policies are trained on Transformers", where="model.start", remedy="choose another model")
        self._model, self._write = model, setting.writer
        if self.task.beta and not adapter_names(model):
            self._reference = copy.deepcopy(model).requires_grad_(False).eval()

    def sampler(self, examples: LengthSampler) -> Sampler:
        """Returns a sampler that has answers drawn."""
        return RolloutSampler(examples, self._draw, self.task.reuse)

    def step_figures(self) -> dict[str, float]:
        """Returns rewards, lengths, entropy, divergence and clipping since the last call."""
        means = {name: float(np.mean(values)) for name, values in self._figures.items()}
        self._figures.clear()
        return means

    # Drawing and judging.

    def _answer(self, prompts: list[list[int]], samples: int, key: int, temperature: float) -> list[list[Written]]:
        # One seed for all prompts would draw the answers to different prompts by the same random numbers.
        seeds = [int(key_of(key, place)) for place in range(len(prompts))]
        return self._write(
            prompts, samples=samples, seeds=seeds, temperature=temperature, max_tokens=self.task.max_tokens
        )

    def _attempts(self, examples: Sequence[Example], answers: list[list[Written]]) -> list[Attempt]:
        return [
            Attempt(read_text(example["prompt"]), one.text, read_text(example["answer"]), row, one.finished)
            for example, group in zip(examples, answers, strict=True)
            for row in [_row(example)]
            for one in group
        ]

    def _draw(self, raw: RawBatch) -> Rollouts:
        """Writes answers with the present policy, judges them, and compares them."""
        prompts = [example["tokens"].tolist() for example in raw.examples]
        # The key is this batch's own, so a resumed run draws the same answers.
        answers = self._answer(prompts, self.task.samples, raw.key, self.task.temperature)
        scores = self.rewards(self._attempts(raw.examples, answers))
        rewards = torch.tensor(scores.total, dtype=torch.float64).view(len(prompts), self.task.samples)
        advantages = self._advantages(rewards).flatten().tolist()
        written = [one for group in answers for one in group]
        self._note_draw(rewards, scores.parts, written)
        self._note_written(raw.examples, written, scores.total)
        rows = [
            Rollout(prompt, one.tokens, advantage, [])
            for (prompt, one), advantage in zip(
                ((prompt, one) for prompt, group in zip(prompts, answers, strict=True) for one in group),
                advantages,
                strict=True,
            )
            if one.tokens
        ]
        return Rollouts(self._with_old(rows) if self.task.reuse > 1 else rows)

    def _note_written(self, examples: Sequence[Example], written: Sequence[Written], totals: Sequence[float]) -> None:
        """Keeps the best and the worst answer to some prompts."""
        self._written = []
        for index, example in enumerate(examples[:SHOWN]):
            group = range(index * self.task.samples, (index + 1) * self.task.samples)
            best, worst = max(group, key=totals.__getitem__), min(group, key=totals.__getitem__)
            for place in dict.fromkeys((best, worst)):
                self._written.append(
                    {"prompt": read_text(example["prompt"]), "text": written[place].text, "reward": totals[place]}
                )

    def written(self) -> list[dict[str, Any]]:
        """Returns the best and the worst answer to some prompts of the last step."""
        return self._written

    def _note_draw(self, rewards: Tensor, parts: Mapping[str, Sequence[float]], written: Sequence[Written]) -> None:
        figures = self._figures
        figures["reward"].append(float(rewards.mean()))
        for name, values in parts.items() if len(parts) > 1 else ():
            figures[f"reward_{name}"].append(float(np.mean(values)))
        figures["answer_tokens"].append(float(np.mean([len(one.tokens) for one in written])))
        late = self.rewards.given_up()
        if late:  # patterns that take too long count as no match, and are to be seen
            figures["patterns_given_up"].append(late - self._late)
            self._late = late
        figures["finished"].append(float(np.mean([one.finished for one in written])))
        # Groups in which all answers are worth the same teach nothing.
        figures["undecided"].append(float((rewards.amax(1) == rewards.amin(1)).double().mean()))

    @torch.no_grad()
    def _with_old(self, rows: list[Rollout]) -> list[Rollout]:
        """Adds the log-probabilities under the policy that wrote the answers."""
        if not rows:
            return rows
        tokens, targets = padded_rows(rows, self._model.device)
        logprobs, _ = self._logprobs(self._model, tokens, targets)
        return [
            Rollout(row.prompt, row.answer, row.advantage, line[wanted != IGNORED].tolist())
            for row, line, wanted in zip(rows, logprobs, targets, strict=True)
        ]

    def _logprobs(self, model: Transformer, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        hidden = model.hidden_states(tokens)
        return token_logprobs(
            hidden, model.output_matrix, targets, model.config.logit_softcap, temperature=self.task.temperature
        )

    # Learning.

    def _advantages(self, rewards: Tensor) -> Tensor:
        raise NotImplementedError

    def _token_losses(self, logprobs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        raise NotImplementedError

    def to_device(self, raw: Rollouts | RawBatch, device: torch.device) -> PolicyBatch | PromptBatch:
        """Lays answers side by side; held-out prompts stay lists."""
        if isinstance(raw, RawBatch):
            return PromptBatch([example["tokens"].tolist() for example in raw.examples], raw.examples, [])
        rows = raw.rows or [Rollout([0], [0], 0.0, [])]  # nothing was written at all: nothing to learn
        tokens, targets = padded_rows(rows, device)
        old = None
        if rows[0].old:
            old = torch.zeros(targets.shape, device=device)
            old[targets != IGNORED] = torch.tensor([value for row in rows for value in row.old], device=device)
        advantages = torch.tensor([[row.advantage] for row in rows], device=device)
        count = sum(len(row.answer) for row in rows)
        return PolicyBatch(tokens, targets, advantages, old, count, count + sum(len(row.prompt) for row in rows))

    def loss_sum(self, model: Any, batch: PolicyBatch | PromptBatch) -> Tensor:
        """Returns the loss summed over the answers' tokens; for held-out prompts, minus their rewards."""
        if isinstance(batch, PromptBatch):
            return self._measure(batch)
        logprobs, entropies = self._logprobs(model, batch.tokens, batch.targets)
        kept = batch.targets != IGNORED
        old = logprobs.detach() if batch.old is None else batch.old
        losses = self._token_losses(logprobs, old, batch.advantages)
        self._figures["entropy"].append(float(entropies[kept].mean()))
        if batch.old is not None:
            ratio = torch.exp(logprobs.detach() - old)[kept]
            outside = (ratio < 1 - self.task.clip_low) | (ratio > 1 + self.task.clip_high)
            self._figures["clipped"].append(float(outside.double().mean()))
        if self.task.beta:
            with torch.no_grad(), self._as_it_began(model) as reference:
                before, _ = self._logprobs(reference, batch.tokens, batch.targets)
            distance = divergence(logprobs, before)
            losses = losses + self.task.beta * distance
            self._figures["kl"].append(float(distance.detach()[kept].mean()))
        return (losses * kept).sum()

    def _as_it_began(self, model: Any) -> AbstractContextManager[Any]:
        """The reference: the model without its adapters, or a copy of it."""
        if self._reference is not None:
            return nullcontext(self._reference)
        return _without_adapters(model)

    # Measuring.

    def _measure(self, batch: PromptBatch) -> Tensor:
        answers = self._answer(batch.prompts, 1, 0, 0.0)
        attempts = self._attempts(batch.examples, answers)
        scores = self.rewards(attempts)
        for index, (attempt, total) in enumerate(zip(attempts, scores.total, strict=True)):
            parts = {name: values[index] for name, values in scores.parts.items()}
            batch.outcomes.append(Outcome(total, parts, attempt.completion))
        return -torch.tensor(scores.total, dtype=torch.float64).sum()

    def predict(self, model: Any, batch: PromptBatch) -> Sequence[Any]:
        """Returns what became of each prompt."""
        return batch.outcomes

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns prompt and right answer."""
        return [f"{read_text(example['prompt'])} → {read_text(example['answer'])}" for example in examples]

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns the mean reward, and each reward by itself."""
        names = self.rewards.names if len(self.rewards.names) > 1 else ()
        parts = {f"reward_{name}": float(np.mean([one.parts[name] for one in predictions])) for name in names}
        return {"reward": float(np.mean([one.reward for one in predictions])), **parts}


@contextmanager
def _without_adapters(model: Any) -> Iterator[Any]:
    with deactivated(model):
        yield model


class Grpo(_Policy):
    """Group-relative policy optimization."""

    name: ClassVar[str] = "grpo"
    summary: ClassVar[str] = "raise the reward of what the model writes, each answer against the others to its prompt"
    options: ClassVar[frozenset[str]] = COMMON | {"clip_low", "clip_high", "scale_rewards"}

    def _advantages(self, rewards: Tensor) -> Tensor:
        return group_advantages(rewards, scale=self.task.scale_rewards)

    def _token_losses(self, logprobs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        return clipped_loss(logprobs, old, advantages, self.task.clip_low, self.task.clip_high)


class Reinforce(_Policy):
    """The plain policy gradient."""

    name: ClassVar[str] = "reinforce"
    summary: ClassVar[str] = "raise the reward of what the model writes, by the plain policy gradient"
    options: ClassVar[frozenset[str]] = COMMON - {"reuse"}

    def _advantages(self, rewards: Tensor) -> Tensor:
        return reinforce_advantages(rewards)

    def _token_losses(self, logprobs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        return reinforce_loss(logprobs, advantages)

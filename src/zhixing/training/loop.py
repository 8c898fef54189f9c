"""The training loop: batches in, steps out, with measuring, saving and stopping around them.

One `Trainer` is one model in training. `step` does exactly one optimizer step and depends on nothing but the state that
`capture` returns, which is why a resumed run repeats an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.native.row_kernels import use_row_kernels
from zhixing.training.objectives import Objective, RecordObjective, Sampler
from zhixing.training.objectives.causal import Causal
from zhixing.training.optimizers import MuonAdamW, clip_gradients
from zhixing.training.regularisers import Mixout
from zhixing.training.schedules import learning_rate_share
from zhixing.training.state import TrainingState, capture_generators, check_fit, restore_generators

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MEAN_DECAY = 0.98
"""Of the running mean that spikes are measured against: about the last 50 steps."""

MEAN_AFTER = 20
"""Steps before the running mean is trusted."""

FIRST_LOSS_SCALE = 65536.0
LOSS_SCALE_STEPS = 2000
"""Good steps after which the loss scale is doubled."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Attributes:
        step: Steps done, this one included.
        loss: Mean loss over the step's targets, in nats.
        gradient_norm: Joint norm of the gradients before clipping.
        tokens: Tokens of the step.
        share: Share of the peak learning rate.
        problem: Why the step was not applied (not-a-number, a spike), or None.
    """

    step: int
    loss: float
    gradient_norm: float
    tokens: int
    share: float
    problem: str | None = None


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the parameters that are trained, by name: frozen ones are in no checkpoint, because they never change."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


class Trainer:
    """A model in training.

    Args:
        model: The network, initialised, on its device.
        sampler: Where batches come from.
        recipe: A resolved recipe.
        objective: What makes batches and losses of them; causal language modelling when not given.
    """

    def __init__(self, model: nn.Module, sampler: Sampler, recipe: Recipe, objective: Objective | None = None) -> None:
        assert recipe.train.steps is not None
        self.model, self.sampler, self.recipe = model, sampler, recipe
        self.device = torch.device(recipe.train.device)
        self.objective: Objective = Causal() if objective is None else objective
        self.optimizer = MuonAdamW(model.named_parameters(), recipe.optimizer)
        self.steps: int = recipe.train.steps
        self.done = 0
        self.tokens = 0
        self.loss_mean = 0.0  # exponential, bias-corrected where it is read
        decay = recipe.train.average_decay
        self.average: dict[str, Tensor] = {}
        if decay is not None:
            self.average = {name: p.detach().clone() for name, p in trained(model)}
        dtype = DTYPES[recipe.train.precision]
        self._autocast_dtype = None if dtype == torch.float32 else dtype
        # float16 gradients underflow, so the loss is scaled up; None means no scaling.
        self.loss_scale = FIRST_LOSS_SCALE if dtype == torch.float16 else None
        if recipe.train.checkpoint_activations:
            # A plain number, not a part of the network.
            model.checkpoint_activations = recipe.train.checkpoint_activations  # type: ignore[assignment]
        self._mixout = Mixout(model, recipe.optimizer.mixout) if recipe.optimizer.mixout else None
        self._loss_sum = self.objective.loss_sum
        if recipe.train.compile:
            self._loss_sum = torch.compile(self.objective.loss_sum, dynamic=False)
        use_row_kernels()
        model.train()

    def autocast(self) -> Any:
        """Returns the context in which forward passes run."""
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast_dtype)

    def step(self) -> StepResult:
        """Does one optimizer step: forward and backward over all micro-batches, clip, update, average."""
        train = self.recipe.train
        batches = [self.objective.to_device(self.sampler.next(), self.device) for _ in range(train.accumulate)]
        # The divisor is the number of targets in the whole step: micro-batches with few targets must not count more.
        count = sum(batch.target_count for batch in batches)
        if not count:
            raise BadInput(
                f"step {self.done + 1} has no target: nothing would be learned from it",
                where="data.paths",
                remedy="look at the batches: zhixing data inspect RECIPE",
            )
        # Where a target is not a token (a label of a text), the batch says how many tokens were read for it.
        tokens = sum(getattr(batch, "token_count", batch.target_count) for batch in batches)
        loss = 0.0
        with nullcontext() if self._mixout is None else self._mixout.mixed():
            for batch in batches:
                with self.autocast():
                    part = self._loss_sum(self.model, batch) / count
                scaled = part if self.loss_scale is None else part * self.loss_scale
                scaled.backward()
                loss += float(part.detach())
        self._unscale()
        norm = clip_gradients(self.model.parameters(), train.clip)
        share = learning_rate_share(self.done, self.steps, self.recipe.schedule)
        problem = self._problem(loss, norm)
        if problem is None:
            if math.isfinite(norm):
                self.optimizer.step(share)
            self._rescale(norm)
            self._update_average()
            self.done += 1
            self.tokens += tokens
            self.loss_mean = MEAN_DECAY * self.loss_mean + (1 - MEAN_DECAY) * loss
        self.optimizer.zero_grad()
        return StepResult(self.done if problem is None else self.done + 1, loss, norm, tokens, share, problem)

    def step_figures(self) -> dict[str, float]:
        """Returns what the objective has to say of the last step."""
        return self.objective.step_figures() if isinstance(self.objective, RecordObjective) else {}

    def written(self) -> list[dict[str, Any]]:
        """Returns some of what the network wrote in the last step, where the objective lets it write."""
        return self.objective.written() if isinstance(self.objective, RecordObjective) else []

    def _unscale(self) -> None:
        if self.loss_scale is not None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_div_(gradients, self.loss_scale)

    def _rescale(self, norm: float) -> None:
        """Halves the loss scale after an overflow and doubles it now and then (Micikevicius et al. 2018)."""
        if self.loss_scale is not None:
            if not math.isfinite(norm):
                self.loss_scale /= 2
            elif self.done % LOSS_SCALE_STEPS == LOSS_SCALE_STEPS - 1:
                self.loss_scale *= 2

    def _problem(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if not math.isfinite(norm) and self.loss_scale is None:  # float16 skips such a step and lowers its scale
            return f"the gradient's norm became {norm}"
        if self.done >= MEAN_AFTER:
            mean = self.loss_mean / (1 - MEAN_DECAY**self.done)
            if mean > 0 and loss > self.recipe.train.spike * mean:  # the loss of a policy may be negative
                return f"the loss jumped to {loss:.3f}, over {self.recipe.train.spike:g} times its mean of {mean:.3f}"
        return None

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = self.recipe.train.average_decay
        if decay is not None:
            # A young average follows closely, so that the random start does not linger in it.
            weight = 1 - min(decay, (self.done + 1) / (self.done + 10))
            parameters = [parameter.detach() for _, parameter in trained(self.model)]
            torch._foreach_lerp_(list(self.average.values()), parameters, weight)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Puts the averaged weights into the model for the time of the block, where an average is kept."""
        if not self.average:
            yield
            return
        own = {name: parameter.detach().clone() for name, parameter in trained(self.model)}
        self._set_weights(self.average)
        try:
            yield
        finally:
            self._set_weights(own)

    @torch.no_grad()
    def _set_weights(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in trained(self.model):
            parameter.copy_(weights[name])

    def capture(self) -> TrainingState:
        """Returns everything that the next step depends on (not copied: save it before stepping on)."""
        values = {
            "tokens": self.tokens,
            "loss_mean": self.loss_mean,
            "sampler": self.sampler.state_dict(),
            "loss_scale": self.loss_scale,
        }
        return TrainingState(
            step=self.done,
            weights={name: parameter.detach() for name, parameter in trained(self.model)},
            optimizer=self.optimizer.state(),
            average=self.average,
            generators=capture_generators(),
            values=values,
        )

    def restore(self, state: TrainingState) -> None:
        """Goes back to a captured state.

        Raises:
            BadInput: It is of another network, optimizer or corpus.
        """
        check_fit(state, self.capture())
        self._set_weights(state.weights)
        self.optimizer.load_state(state.optimizer)
        for name, tensor in self.average.items():
            tensor.copy_(state.average[name])
        restore_generators(state.generators)
        self.sampler.load_state_dict(state.values["sampler"])
        self.done, self.tokens = state.step, int(state.values["tokens"])
        self.loss_mean = float(state.values["loss_mean"])
        self.loss_scale = state.values["loss_scale"]
        self.step_figures()  # what steps before have noted belongs to none of those to come

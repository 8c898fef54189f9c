"""Runs a `Trainer` to its end inside a run folder: measuring, logging, saving, stopping, and going on after a stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

from zhixing.core.device import give_back_memory
from zhixing.core.errors import BadInput, Interrupted, ZhixingError, command
from zhixing.core.progress import Bar, human_count, progress_bar
from zhixing.models.network import NetworkConfig
from zhixing.training.loop import StepResult, Trainer
from zhixing.training.run import Run
from zhixing.training.state import (
    checkpoint_folder,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    without,
)
from zhixing.training.tracking import Tracker
from zhixing.training.validation import HeldOut, ValidationScore


class TrainingDiverged(ZhixingError):
    """The loss became useless; the last good checkpoint is kept."""

    exit_code = 1


class ResumeMismatch(ZhixingError):
    """A repeated step gave another loss than the one recorded before the interruption."""

    exit_code = 1


class StopRequest:
    """Turns the first Ctrl-C (or a termination signal) into a request to stop after the present step."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Listens while the block runs; a second Ctrl-C interrupts at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: the caller handles signals
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class Fit:
    """One call of training, from the newest checkpoint (or the start) to the end.

    Args:
        run: The run folder.
        trainer: The model in training.
        validation: What to measure on.
        peak_gflops: The machine's measured rate of matrix products, for the share shown; 0 when unknown.
        lower: The measures of which less is better.
    """

    run: Run
    trainer: Trainer
    validation: HeldOut
    peak_gflops: float = 0.0
    lower: frozenset[str] = frozenset({"loss"})
    repeated: int = 0
    _known: dict[int, float] = field(default_factory=dict)
    _seconds_before: float = 0.0
    _best: dict[str, Any] | None = None
    _stale: int = 0

    def resume(self) -> int:
        """Loads the newest checkpoint, if there is one; returns its step (0 when starting afresh)."""
        steps = list_checkpoints(self.run.checkpoints)
        if not steps:
            self._known = {row["step"]: row["loss"] for row in self.run.rewind_metrics(0) if row["kind"] == "train"}
            return 0
        state = load_checkpoint(self.run.checkpoints, steps[-1])
        try:
            self.trainer.restore(state)
        except BadInput as error:
            where = str(checkpoint_folder(self.run.checkpoints, state.step))
            remedy = error.remedy or without(self.run.checkpoints, state.step)
            raise BadInput(error.cause, where=where, remedy=remedy) from error
        self._seconds_before = float(state.values.get("seconds", 0.0))
        self._best = state.values.get("best")
        self._stale = int(state.values.get("stale", 0))
        lost = self.run.rewind_metrics(state.step)
        self._known = {row["step"]: row["loss"] for row in lost if row["kind"] == "train"}
        self.run.log("event", step=state.step, event="resumed", message=f"from step {state.step}")
        return state.step

    def go(self) -> ValidationScore | None:
        """Trains to the end.

        Returns:
            The best validation score's final measurement, or None when the run was already complete.

        Raises:
            Interrupted: Ctrl-C; the state is saved.
            TrainingDiverged: Not-a-number or a spike; the last good checkpoint is kept.
            ResumeMismatch: A repeated step gave another loss.
        """
        trainer, score = self.trainer, None
        self.run.set_state("running", step=trainer.done, steps=trainer.steps, reason=None, best=self._best)
        self._started = time.monotonic()
        tracker = Tracker(self.run.folder)
        stop = StopRequest()
        try:
            with stop.listening(), progress_bar("Training", trainer.steps) as bar:
                bar.advance(trainer.done)
                while trainer.done < trainer.steps and not self.gave_up:
                    score = self._one(bar, tracker) or score
                    if stop.asked and trainer.done < trainer.steps and not self.gave_up:
                        self._interrupt()
        finally:
            tracker.close()
        if early := self.stopped_early:
            self.run.log("event", step=trainer.done, event="stopped early", message=early)
        self.run.log("event", step=trainer.done, event="finished", message=f"after {self._seconds():.0f} s of training")
        return score

    @property
    def best_step(self) -> int | None:
        """The step with the best validation so far."""
        return int(self._best["step"]) if self._best else None

    @property
    def measure(self) -> str:
        """The measure that decides which checkpoint is the best."""
        return self.run.recipe.train.best or "loss"

    @property
    def gave_up(self) -> bool:
        """Whether so many measurements brought nothing better that training stops."""
        patience = self.run.recipe.train.patience
        return patience is not None and self._stale >= patience

    @property
    def stopped_early(self) -> str | None:
        """Why training ended before its last step, in words; None where it did not."""
        if not self.gave_up or self.trainer.done >= self.trainer.steps:
            return None
        assert self._best is not None
        times = f"{self._stale} measurements" if self._stale > 1 else "1 measurement"
        return f"{times} brought no better {self.measure.replace('_', ' ')} than step {self._best['step']:,}'s"

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _one(self, bar: Bar, tracker: Tracker) -> ValidationScore | None:
        """Does one step with everything that follows from it."""
        train = self.run.recipe.train
        assert train.validate_every is not None
        assert train.save_every is not None
        begun = time.perf_counter()
        result = self.trainer.step()
        speed = result.tokens / (time.perf_counter() - begun)
        if result.problem is not None:
            self._diverge(result)
        self._compare(result)
        share = self._share(speed)
        self.run.log(
            "train", step=result.step, loss=result.loss, learning_rate=result.share,
            gradient_norm=result.gradient_norm, tokens=self.trainer.tokens, seconds=round(self._seconds(), 3),
            tokens_per_second=round(speed, 1), matmul_share=round(share, 4), **self.trainer.step_figures(),
        )  # fmt: skip
        last = result.step == self.trainer.steps
        note = f"step {result.step}/{self.trainer.steps}  loss {result.loss:.3f}  {human_count(speed)} tokens/s"
        bar.advance(1, note + (f"  {100 * share:.0f} % of matmul peak" if share else ""))
        if result.step % train.log_every == 0 or last:
            tracker.train(result, speed)
        score = None
        if result.step % train.validate_every == 0 or last:
            score = self._validate(bar, tracker)
        # A new best is saved as well: it is the one that is published in the end; and so is a last one, stopped early.
        if result.step % train.save_every == 0 or last or self.best_step == result.step or self.gave_up:
            self._save()
        return score

    def _share(self, tokens_per_second: float) -> float:
        if not self.peak_gflops:
            return 0.0
        block = self.run.recipe.train.block or 0
        config = cast(NetworkConfig, self.trainer.model.config)
        return config.flops_per_token(block) * tokens_per_second / 1e9 / self.peak_gflops

    def _compare(self, result: StepResult) -> None:
        """Holds a repeated step against what the interrupted process recorded for it."""
        known = self._known.pop(result.step, None)
        if known is None:
            return
        if known != result.loss:
            raise ResumeMismatch(
                f"step {result.step} gave a loss of {result.loss!r}, but {known!r} before the interruption",
                where=str(self.run.folder),
                remedy="another thread count, processor or version of torch changes rounding; the run goes on with:"
                f" {command('rm', self.run.folder / 'metrics.jsonl')}"
                f" && {command('zhixing', 'resume', self.run.folder)}",
            )
        self.repeated += 1

    def _validate(self, bar: Bar, tracker: Tracker) -> ValidationScore:
        with self.trainer.averaged_weights(), self.trainer.autocast():
            score = self.validation.measure(self.trainer.model, self.trainer.device)
        give_back_memory()
        step, figures, written = self.trainer.done, score.figures(), self.trainer.written()
        self.run.log(
            "validation", step=step, **figures, tokens=self.trainer.tokens, seconds=round(self._seconds(), 3),
            **({"written": written} if written else {}),
        )  # fmt: skip
        tracker.validation(step, score)
        if self._better(figures):
            self._best, self._stale = {"step": step, **figures, "measure": self.measure}, 0
        else:
            self._stale += 1
        bar.say(f"  step {step:>6}  validation {_in_words(score)}")
        return score

    def _better(self, figures: Mapping[str, float]) -> bool:
        """Tells whether these figures are better than the best so far; of equal ones, that with the lower loss."""
        if self._best is None:
            return True
        name, best = self.measure, self._best
        sign = 1.0 if name in self.lower else -1.0
        if name not in figures or name not in best:
            return figures["loss"] < float(best["loss"])
        ours = (sign * figures[name], figures["loss"])
        return ours < (sign * float(best[name]), float(best["loss"]))

    def _save(self) -> None:
        state = self.trainer.capture()
        state.values |= {"seconds": self._seconds(), "best": self._best, "stale": self._stale}
        self.run.sync()
        save_checkpoint(self.run.checkpoints, state)
        train = self.run.recipe.train
        best = self._best["step"] if self._best else None
        prune_checkpoints(self.run.checkpoints, train.keep, train.keep_every, best)
        self.run.set_state("running", step=state.step, best=self._best, seconds=self._seconds())

    def _interrupt(self) -> None:
        self._save()
        step = self.trainer.done
        self.run.log("event", step=step, event="interrupted", message="stopped by the user; saved")
        self.run.set_state("interrupted", step=step)
        raise Interrupted(
            f"stopped after step {step} of {self.trainer.steps}; saved",
            remedy=f"go on: {command('zhixing', 'resume', self.run.folder)}",
        )

    def _diverge(self, result: StepResult) -> None:
        steps = list_checkpoints(self.run.checkpoints)
        kept = f"the last good checkpoint is step {steps[-1]}" if steps else "no checkpoint had been saved"
        self.run.log("event", step=result.step, event="diverged", message=result.problem)
        self.run.set_state("failed", step=self.trainer.done, reason=result.problem)
        raise TrainingDiverged(
            f"stopped at step {result.step}: {result.problem}; {kept}",
            where=str(checkpoint_folder(self.run.checkpoints, steps[-1])) if steps else str(self.run.folder),
            remedy="lower optimizer.learning_rate and optimizer.matrix_learning_rate, or add schedule.warmup_steps",
        )


def _in_words(score: ValidationScore) -> str:
    if score.bits_per_byte is not None and score.perplexity is not None:
        return f"{score.loss:.4f} nats/token, {score.bits_per_byte:.4f} bits/byte, perplexity {score.perplexity:.2f}"
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in score.figures().items())

"""One fit inside a run folder, told to the user: the proof where it is asked for, the model, the time it took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from zhixing.core.progress import human_time
from zhixing.training.fit import Fit
from zhixing.training.prove import Proof, copy_state, prove
from zhixing.training.run import Run
from zhixing.training.state import list_checkpoints
from zhixing.workflows.console import say


@dataclass(frozen=True)
class Fitted:
    """What a fit came to.

    Attributes:
        published_step: The step whose weights are published.
        proof: What `--prove` compared, or None.
        facts: What the run's facts say of its training: steps made, what is published, why it stopped early.
    """

    published_step: int
    proof: Proof | None
    facts: dict[str, Any]


def fit_run(fit: Fit, described: str, *, prove_first: bool) -> Fitted:
    """Trains to the end, from the newest checkpoint or from the start.

    Args:
        fit: What to run.
        described: The model in a few words.
        prove_first: Replay the last steps before going on, and compare every bit.
    """
    run, trainer = fit.run, fit.trainer
    proof = None
    if prove_first:
        proof = prove(run, trainer, copy_state(trainer.capture()))
        say(
            f"Proved: steps {proof.start + 1} to {proof.end} repeated;"
            f" {proof.losses} losses and {proof.tensors} tensors agree bit for bit"
        )
    step = fit.resume()
    say(f"Model: {described}" + (f"; from step {step} of {trainer.steps}" if step else f"; {trainer.steps} steps"))
    begun = time.monotonic()
    fit.go()
    if fit.repeated:
        say(f"{fit.repeated} steps repeated after the interruption, with bit-identical losses")
    early = fit.stopped_early
    if trainer.done > step:
        say(f"Trained in {human_time(time.monotonic() - begun)}")
    if early:
        say(f"Stopped early, at step {trainer.done} of {trainer.steps}: {early}")
    published = _published_step(run, fit.best_step)
    facts: dict[str, Any] = {"steps": trainer.done, "tokens": trainer.tokens, "published": [published]}
    facts |= {"best_by": fit.measure} if published == fit.best_step else {}
    facts |= {"stopped_early": early} if early else {}
    return Fitted(published, proof, facts)


def say_published(fitted: Fitted) -> None:
    """Tells which step is published, where it is not the last one."""
    if fitted.published_step != fitted.facts["steps"] and "best_by" in fitted.facts:
        say(f"Published: step {fitted.published_step}, the best by {fitted.facts['best_by'].replace('_', ' ')}")


def _published_step(run: Run, best: int | None) -> int:
    """Returns the step whose weights become the model: the best one, or the newest where that is gone."""
    steps = list_checkpoints(run.checkpoints)
    if best in steps:
        assert best is not None
        return best
    say(f"No checkpoint of the best step ({best or 'unknown'}) is there; the newest, step {steps[-1]}, is published")
    return steps[-1]

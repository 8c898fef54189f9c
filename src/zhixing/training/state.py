"""Checkpoints: everything that the next step depends on, written so that a crash at any byte loses no earlier one.

A checkpoint is a folder `step-000000500` with `weights.safetensors`, `optimizer.safetensors`, `average.safetensors`
(when weights are averaged) and `state.json`. Nothing is pickled. What is not here: when to save, and the published
model folder (`checkpoints.folder`).
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zhixing.checkpoints.tensors import read_tensors, write_tensors
from zhixing.core.errors import BadInput, ZhixingError, command
from zhixing.core.files import atomic_folder, read_json

PATTERN = re.compile(r"step-(\d{9})")


@dataclass
class TrainingState:
    """What a checkpoint holds.

    Attributes:
        step: Optimizer steps done.
        weights: The model's parameters by our names.
        optimizer: The optimizer's tensors.
        average: The averaged weights; empty when none are kept.
        generators: Random-number states, as byte tensors.
        values: Plain numbers and strings: sampler position, tokens seen, best figure, loss mean, scaler.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    generators: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Returns where the checkpoint of a step is."""
    return checkpoints / f"step-{step:09d}"


def list_checkpoints(checkpoints: Path) -> list[int]:
    """Returns the steps that have a checkpoint, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = (PATTERN.fullmatch(path.name) for path in checkpoints.iterdir())
    return sorted(int(match[1]) for match in found if match)


def save_checkpoint(checkpoints: Path, state: TrainingState) -> None:
    """Writes a checkpoint; it appears whole or not at all."""
    with atomic_folder(checkpoint_folder(checkpoints, state.step)) as folder:
        tensors = {**state.optimizer, **{f"generator.{name}": value for name, value in state.generators.items()}}
        for name, content in (("weights", state.weights), ("optimizer", tensors), ("average", state.average)):
            if content:
                write_tensors(folder / f"{name}.safetensors", content)
        (folder / "state.json").write_text(json.dumps({"step": state.step, **state.values}), encoding="utf-8")


def load_checkpoint(checkpoints: Path, step: int) -> TrainingState:
    """Reads a checkpoint.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged.
    """
    folder = checkpoint_folder(checkpoints, step)
    try:
        return _read(folder, step)
    except ZhixingError as error:
        cause = f"the checkpoint of step {step} is damaged: {error.cause}"
        raise type(error)(cause, where=error.where, remedy=without(checkpoints, step)) from error


def without(checkpoints: Path, step: int) -> str:
    """Returns the commands that go on with a run without the checkpoint of a step."""
    earlier = [other for other in list_checkpoints(checkpoints) if other < step]
    on = f"go on from step {earlier[-1]}" if earlier else "begin again from step 0"
    remove = command("rm", "-r", checkpoint_folder(checkpoints, step))
    return f"{on}: {remove} && {command('zhixing', 'resume', checkpoints.parent)}"


def _read(folder: Path, step: int) -> TrainingState:
    values = read_json(folder / "state.json")
    if not isinstance(values, dict) or values.pop("step", None) != step:
        raise BadInput("it does not say the step of its name", where=str(folder / "state.json"))
    _check_values(values, str(folder / "state.json"))
    tensors = read_tensors(folder / "optimizer.safetensors")
    generators = {
        name[len("generator.") :]: tensors.pop(name) for name in list(tensors) if name.startswith("generator.")
    }
    average = folder / "average.safetensors"
    return TrainingState(
        step=step,
        weights=read_tensors(folder / "weights.safetensors"),
        optimizer=tensors,
        average=read_tensors(average) if average.exists() else {},
        generators=generators,
        values=values,
    )


def _check_values(values: dict[str, Any], where: str) -> None:
    """Refuses a state.json without what `Trainer.restore` and `Fit.resume` read from it."""
    sampler, best, scale = values.get("sampler"), values.get("best"), values.get("loss_scale")
    whole = {
        "tokens": _is_number(values.get("tokens")),
        "loss_mean": _is_number(values.get("loss_mean")),
        "loss_scale": scale is None or _is_number(scale),
        "seconds": _is_number(values.get("seconds", 0)),
        "sampler": isinstance(sampler, dict) and all(_is_number(sampler.get(key)) for key in ("epoch", "position")),
        "best": best is None or (isinstance(best, dict) and all(_is_number(best.get(key)) for key in ("step", "loss"))),
    }
    for name, good in whole.items():
        if not good:
            raise BadInput(f"its {name!r} is missing or broken", where=where)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_fit(state: TrainingState, present: TrainingState) -> None:
    """Refuses a state of another network or optimizer than the present one, before any of it is taken over.

    Raises:
        BadInput: A tensor is missing, unknown, or of another shape.
    """
    remedy = "put the run's own recipe.yaml and tokenizer/ back, or start a new run"
    for part in ("weights", "optimizer", "average"):
        theirs: dict[str, Tensor] = getattr(state, part)
        ours: dict[str, Tensor] = getattr(present, part)
        for name in sorted(theirs.keys() | ours.keys()):
            there, here = theirs.get(name), ours.get(name)
            if there is None or here is None:
                lacks = "lacks" if there is None else "has, and the recipe does not ask for,"
                raise BadInput(
                    f"the checkpoint of step {state.step} does not fit the recipe: it {lacks} {part} of {name}",
                    remedy=remedy,
                )
            if there.shape != here.shape:
                raise BadInput(
                    f"the checkpoint of step {state.step} does not fit the recipe: {part} of {name} has the shape"
                    f" {tuple(there.shape)}, not {tuple(here.shape)}",
                    remedy=remedy,
                )


def prune_checkpoints(checkpoints: Path, keep: int, keep_every: int | None, best: int | None) -> None:
    """Removes old checkpoints, but not the newest `keep`, the best, and the multiples of `keep_every`."""
    steps = list_checkpoints(checkpoints)
    for step in steps[:-keep]:
        if step != best and not (keep_every and step % keep_every == 0):
            shutil.rmtree(checkpoint_folder(checkpoints, step), ignore_errors=True)
    if checkpoints.is_dir():
        for leftover in checkpoints.glob(".step-*"):  # half-written when the process was killed
            shutil.rmtree(leftover, ignore_errors=True)


def capture_generators() -> dict[str, Tensor]:
    """Returns the state of every random-number generator that training draws from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_generators(states: dict[str, Tensor]) -> None:
    """Puts the random-number generators back."""
    try:
        torch.set_rng_state(states["cpu"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise BadInput("the checkpoint's random-number state is missing or broken") from error
    for name, state in states.items():
        if name.startswith("cuda") and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name[4:]))

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

from zhixing.checkpoints.folder import read_tensors, write_tensors
from zhixing.core.errors import BadInput
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
    values = read_json(folder / "state.json")
    if not isinstance(values, dict) or values.pop("step", None) != step:
        raise BadInput("this checkpoint does not say the step of its name", where=str(folder))
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
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if name.startswith("cuda") and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name[4:]))

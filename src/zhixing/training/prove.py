"""Proof of exact resumption: replays steps that were already done and compares every bit.

`resume --prove` goes back to the checkpoint before the newest (or to the start), repeats the steps up to the newest,
and checks each loss against the record and every weight and optimizer tensor against the newest checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.core.progress import progress_bar
from zhixing.training.fit import ResumeMismatch
from zhixing.training.loop import Trainer
from zhixing.training.run import Run
from zhixing.training.state import TrainingState, list_checkpoints, load_checkpoint


@dataclass(frozen=True)
class Proof:
    """What was repeated: from which step to which, how many losses and how many tensors agreed bit for bit."""

    start: int
    end: int
    losses: int
    tensors: int


def prove(run: Run, trainer: Trainer, initial: TrainingState) -> Proof:
    """Replays up to the newest checkpoint.

    Args:
        run: The run folder; it must hold a checkpoint.
        trainer: The model in training; its state is overwritten.
        initial: A copy of the state before the first step, from which to replay when there is one checkpoint only.

    Raises:
        ResumeMismatch: A loss or a tensor differs.
        BadInput: Nothing has been saved yet.
    """
    steps = list_checkpoints(run.checkpoints)
    if not steps:
        raise BadInput("nothing to prove yet: no checkpoint has been saved", where=str(run.folder))
    newest = load_checkpoint(run.checkpoints, steps[-1])
    # The best checkpoint may be far back; the one just before the newest keeps the replay short.
    start = load_checkpoint(run.checkpoints, steps[-2]) if len(steps) > 1 else initial
    recorded = {row["step"]: row["loss"] for row in run.metrics() if row["kind"] == "train"}
    trainer.restore(start)
    losses = 0
    with progress_bar("Proving", newest.step - start.step) as bar:
        while trainer.done < newest.step:
            result = trainer.step()
            bar.advance(1)
            if result.step in recorded:
                before = recorded[result.step]
                if result.loss != before:
                    raise ResumeMismatch(
                        f"step {result.step} repeats with a loss of {result.loss!r}, recorded was {before!r}",
                        where=str(run.folder),
                        remedy="was the run made on another machine, thread count or version of torch?",
                    )
                losses += 1
    return Proof(start.step, newest.step, losses, _compare(trainer.capture(), newest, run))


def _compare(replayed: TrainingState, saved: TrainingState, run: Run) -> int:
    count = 0
    for part in ("weights", "optimizer", "average", "generators"):
        ours: dict[str, Tensor] = getattr(replayed, part)
        theirs: dict[str, Tensor] = getattr(saved, part)
        for name in ours.keys() | theirs.keys():
            if name not in ours or name not in theirs or not torch.equal(ours[name].cpu(), theirs[name]):
                raise ResumeMismatch(
                    f"{part}: {name} differs from the checkpoint of step {saved.step}", where=str(run.folder)
                )
            count += 1
    return count


def copy_state(state: TrainingState) -> TrainingState:
    """Returns a state that later steps do not change."""

    def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in tensors.items()}

    return TrainingState(
        state.step, copy(state.weights), copy(state.optimizer), copy(state.average), copy(state.generators),
        dict(state.values),
    )  # fmt: skip

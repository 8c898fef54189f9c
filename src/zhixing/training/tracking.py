"""TensorBoard, when it is installed: the same figures as metrics.jsonl, which is always written."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhixing.training.loop import StepResult
    from zhixing.training.validation import ValidationScore


class Tracker:
    """Writes scalars to `tensorboard/` in the run folder; does nothing where TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        self._writer = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def train(self, result: StepResult, tokens_per_second: float) -> None:
        """Records one training step."""
        if self._writer is not None:
            self._writer.add_scalar("train/loss", result.loss, result.step)
            self._writer.add_scalar("train/gradient_norm", result.gradient_norm, result.step)
            self._writer.add_scalar("train/learning_rate", result.share, result.step)
            self._writer.add_scalar("train/tokens_per_second", tokens_per_second, result.step)

    def validation(self, step: int, score: ValidationScore) -> None:
        """Records one measurement on the held-out part."""
        if self._writer is not None:
            for name, value in score.figures().items():
                self._writer.add_scalar(f"validation/{name}", value, step)

    def close(self) -> None:
        """Flushes what is written."""
        if self._writer is not None:
            self._writer.close()

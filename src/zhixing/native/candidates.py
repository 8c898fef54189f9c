"""The leading candidates of every row of scores, found by the core: of a large vocabulary few tokens count."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zhixing.native.library import check, library
from zhixing.native.packing import address


def leading(scores: Tensor, count: int, normalise: bool = False) -> tuple[Tensor, Tensor] | None:
    """Returns the highest scores of every row and their places.

    Args:
        scores: (rows, vocab), float32 on the CPU.
        count: How many of each row, at most `vocab`.
        normalise: The scores are logits, of which log-probabilities are wanted.

    Returns:
        Scores, falling, and places, (rows, count) each; None when a score is not a number.
    """
    rows = np.ascontiguousarray(scores.numpy())
    values, places = np.empty((len(rows), count), np.float32), np.empty((len(rows), count), np.int32)
    arguments = (address(rows), *rows.shape, count, normalise, address(values), address(places))
    if check(library().zx_candidates(*arguments)):
        return None
    return torch.from_numpy(values), torch.from_numpy(places).long()

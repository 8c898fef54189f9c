"""Choosing tokens from logits on the core: the likeliest, or drawn by temperature, top-k, top-p and min-p."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zhixing.native.library import check, library
from zhixing.native.packing import Floats, address


class Setting(NamedTuple):
    """How a token is chosen; the steps are applied in this order.

    Attributes:
        temperature: 0: the likeliest; else it divides the logits.
        top_k: So many of the likeliest; 0 for all.
        top_p: The likeliest that hold this share; 1 for all.
        min_p: Those with at least this share of the likeliest one's probability; 0 for all.
        point: A random number, from 0 up to 1, at which the cumulative distribution is inverted.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    point: float = 0.0


def choose_tokens(logits: Floats, settings: Sequence[Setting]) -> list[int]:
    """Chooses one token of every row.

    Args:
        logits: (rows, vocab).
        settings: One for each row.

    Returns:
        Token ids; -1 where logits are not numbers.
    """
    rows, vocab = logits.shape
    given = np.array(settings, np.float64)  # (rows, 5)
    tokens = np.empty(rows, np.int32)
    check(library().zx_choose(address(logits), rows, vocab, address(given), address(tokens)))
    found: list[int] = tokens.tolist()
    return found

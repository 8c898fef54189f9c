"""A plan that is packed: the numbers that the core reads, the weights in memory, the rotary frequencies.

This is all that running needs; the modules that it was written from are not here, nor is PyTorch. `native.weights`
makes one from a plan, `native.saved` keeps it on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zhixing.native.packing import Bytes, Floats, Kind


class Turning(NamedTuple):
    """How fast the pairs of a head turn from one position to the next.

    Attributes:
        frequencies: Radians per position, (dim / 2).
        cos_factor: What the cosines are multiplied by.
        sin_factor: What the sines are multiplied by.
    """

    frequencies: Floats
    cos_factor: float
    sin_factor: float

    def table(self, length: int) -> tuple[Floats, Floats]:
        """Returns cosines and sines of the positions below `length`, (length, dim / 2) each.

        The angles are rounded to float32, as the modules do; what is taken of them is rounded once.
        """
        angles = np.outer(np.arange(length, dtype=np.float32), self.frequencies).astype(np.float64)
        cos = (np.cos(angles) * self.cos_factor).astype(np.float32)
        return cos, (np.sin(angles) * self.sin_factor).astype(np.float32)


@dataclass(frozen=True)
class Program:
    """What the core runs.

    Attributes:
        numbers: The plan, as csrc/plan.cpp reads it.
        factors: Its real numbers.
        memory: All weights, where the plan says.
        turnings: The tables of rotations.
        kinds: How the matrices are stored.
        output_width: Values in a row of the output.
        spared: Bytes of the head that a step does not read where only the likeliest token is asked for; 0: it is not
            approximated.
    """

    numbers: NDArray[np.int64]
    factors: NDArray[np.float64]
    memory: Bytes
    turnings: tuple[Turning, ...]
    kinds: frozenset[Kind]
    output_width: int
    spared: int = 0

    @property
    def step_tokens(self) -> int:
        """Most tokens of a step."""
        return int(self.numbers[2])

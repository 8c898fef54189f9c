"""The number formats of GGUF tensors: names, numbers, and how many bytes hold how many values.

Every format of ggml is listed, so that sizes can be checked and an unsupported one can be named; those that can be
turned into numbers are in `blocks`. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One number format.

    Attributes:
        name: As ggml calls it.
        number: In the file.
        values: Values in one block.
        bytes: Bytes of one block.
    """

    name: str
    number: int
    values: int
    bytes: int

    def row_bytes(self, length: int) -> int:
        """Returns the bytes of a row of so many values, a multiple of `values`."""
        return length // self.values * self.bytes


F32, F16, BF16 = Kind("F32", 0, 1, 4), Kind("F16", 1, 1, 2), Kind("BF16", 30, 1, 2)
Q4_0, Q4_1 = Kind("Q4_0", 2, 32, 18), Kind("Q4_1", 3, 32, 20)
Q5_0, Q5_1 = Kind("Q5_0", 6, 32, 22), Kind("Q5_1", 7, 32, 24)
Q8_0, IQ4_NL = Kind("Q8_0", 8, 32, 34), Kind("IQ4_NL", 20, 32, 18)
Q4_K, Q5_K, Q6_K = Kind("Q4_K", 12, 256, 144), Kind("Q5_K", 13, 256, 176), Kind("Q6_K", 14, 256, 210)

NOT_READ = (
    Kind("Q8_1", 9, 32, 36), Kind("Q2_K", 10, 256, 84), Kind("Q3_K", 11, 256, 110), Kind("Q8_K", 15, 256, 292),
    Kind("IQ2_XXS", 16, 256, 66), Kind("IQ2_XS", 17, 256, 74), Kind("IQ3_XXS", 18, 256, 98),
    Kind("IQ1_S", 19, 256, 50), Kind("IQ3_S", 21, 256, 110), Kind("IQ2_S", 22, 256, 82), Kind("IQ4_XS", 23, 256, 136),
    Kind("I8", 24, 1, 1), Kind("I16", 25, 1, 2), Kind("I32", 26, 1, 4), Kind("I64", 27, 1, 8), Kind("F64", 28, 1, 8),
    Kind("IQ1_M", 29, 256, 56), Kind("TQ1_0", 34, 256, 54), Kind("TQ2_0", 35, 256, 66), Kind("MXFP4", 39, 32, 17),
    Kind("NVFP4", 40, 64, 36), Kind("Q1_0", 41, 128, 18),
)  # fmt: skip
"""Formats whose sizes are known, so that the rest of a file can be checked, but which are not turned into numbers."""

READ = (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL)
"""Formats that are turned into numbers."""

KINDS: dict[int, Kind] = {kind.number: kind for kind in (*READ, *NOT_READ)}
"""Every known format by its number in the file."""

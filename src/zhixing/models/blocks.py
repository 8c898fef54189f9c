"""Block formats of ggml: from stored bytes to numbers.

A row of a matrix is stored as blocks of 32 or 256 values that share a scale (and, in some formats, a minimum), so that
a value takes 4 to 8 bits. The formulas are those of ggml-quants.c of ggml-org/ggml, and give its numbers to the last
bit. Sizes and names of the formats are in `block_kinds`, the way back is in `block_packing`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zhixing.models import block_kinds as kinds
from zhixing.models.block_kinds import Kind

VALUES_AT_ONCE = 1 << 17
"""Values that are expanded together: few enough that the steps in between stay in the processor's cache."""

Expansion = Callable[[Tensor, Tensor], None]
"""Turns blocks (n, bytes) into values (n, values), written into the second argument, float32."""

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The sixteen unevenly spaced levels of IQ4_NL: kvalues_iq4nl of ggml-common.h."""


def _half(blocks: Tensor, start: int) -> Tensor:
    """Returns the float16 number at a byte of every block, as float32: (n, 1)."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """Returns the lower halves of a block's bytes, then the upper ones: (n, bytes) -> (n, 2 * bytes)."""
    return torch.cat((packed & 15, packed >> 4), dim=1)


def _fifth_bits(blocks: Tensor, start: int) -> Tensor:
    """Returns the 32 bits of four bytes as 0 or 16, lowest first: (n, 32)."""
    bits = blocks[:, start : start + 4, None] >> torch.arange(8, dtype=torch.uint8)  # (n, 4, 8)
    return ((bits & 1) << 4).flatten(1)


def _f32(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks.contiguous().view(torch.float32))


def _f16(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks.contiguous().view(torch.float16))


def _bf16(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks.contiguous().view(torch.bfloat16))


def _q4_0(blocks: Tensor, out: Tensor) -> None:
    torch.mul(_nibbles(blocks[:, 2:]).view(torch.int8).sub_(8), _half(blocks, 0), out=out)


def _q4_1(blocks: Tensor, out: Tensor) -> None:
    torch.mul(_nibbles(blocks[:, 4:]), _half(blocks, 0), out=out).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor, out: Tensor) -> None:
    whole = _nibbles(blocks[:, 6:]).bitwise_or_(_fifth_bits(blocks, 2)).view(torch.int8)
    torch.mul(whole.sub_(16), _half(blocks, 0), out=out)


def _q5_1(blocks: Tensor, out: Tensor) -> None:
    whole = _nibbles(blocks[:, 8:]).bitwise_or_(_fifth_bits(blocks, 4))
    torch.mul(whole, _half(blocks, 0), out=out).add_(_half(blocks, 2))


def _q8_0(blocks: Tensor, out: Tensor) -> None:
    torch.mul(blocks[:, 2:].view(torch.int8), _half(blocks, 0), out=out)


def _iq4_nl(blocks: Tensor, out: Tensor) -> None:
    levels = torch.tensor(IQ4_NL_LEVELS, dtype=torch.float32)
    torch.mul(levels[_nibbles(blocks[:, 2:]).int()], _half(blocks, 0), out=out)


def _six_bit_pairs(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Unpacks the eight scales and eight minima of a block of 256, six bits each, from twelve bytes: (n, 8) twice."""
    scales, minima, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    return (
        torch.cat((scales & 63, (rest & 15) | ((scales >> 2) & 48)), dim=1),
        torch.cat((minima & 63, (rest >> 4) | ((minima >> 2) & 48)), dim=1),
    )


def _scaled(values: Tensor, blocks: Tensor, out: Tensor) -> None:
    """Writes d * scale * value - dmin * minimum per group of 32: values (n, 8, 32)."""
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    steps = (_half(blocks, 0) * scales)[:, :, None]  # (n, 8, 1)
    floors = (_half(blocks, 2) * minima)[:, :, None]
    torch.mul(values, steps, out=out.view(-1, 8, 32)).sub_(floors)


def _q4_k(blocks: Tensor, out: Tensor) -> None:
    packed = blocks[:, 16:].reshape(-1, 4, 1, 32)
    _scaled(torch.cat((packed & 15, packed >> 4), dim=2).flatten(1, 2), blocks, out)


def _q5_k(blocks: Tensor, out: Tensor) -> None:
    packed = blocks[:, 48:].reshape(-1, 4, 1, 32)
    low = torch.cat((packed & 15, packed >> 4), dim=2).flatten(1, 2)  # (n, 8, 32)
    high = blocks[:, 16:48, None].transpose(1, 2) >> torch.arange(8, dtype=torch.uint8)[:, None]  # (n, 8, 32)
    _scaled(low.bitwise_or_((high & 1) << 4), blocks, out)


def _q6_k(blocks: Tensor, out: Tensor) -> None:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = torch.cat((low & 15, low >> 4), dim=2).view(-1, 8, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    whole = low.bitwise_or_(((high & 3) << 4).flatten(1, 2)).view(torch.int8).sub_(32)  # (n, 8, 32)
    steps = _half(blocks, 208) * blocks[:, 192:208].view(torch.int8)  # (n, 16)
    torch.mul(whole.view(-1, 16, 16), steps[:, :, None], out=out.view(-1, 16, 16))


EXPANSIONS: dict[Kind, Expansion] = {
    kinds.F32: _f32, kinds.F16: _f16, kinds.BF16: _bf16, kinds.Q4_0: _q4_0, kinds.Q4_1: _q4_1, kinds.Q5_0: _q5_0,
    kinds.Q5_1: _q5_1, kinds.Q8_0: _q8_0, kinds.Q4_K: _q4_k, kinds.Q5_K: _q5_k, kinds.Q6_K: _q6_k,
    kinds.IQ4_NL: _iq4_nl,
}  # fmt: skip
"""How each format is turned into numbers."""


def expand(kind: Kind, rows: Tensor, out: Tensor) -> Tensor:
    """Turns rows of blocks into numbers.

    Args:
        kind: How they are stored.
        rows: (rows, bytes), uint8; every row of the same whole number of blocks.
        out: (rows, values) in float32, float16 or bfloat16, contiguous; written to.

    Returns:
        `out`.
    """
    blocks, values = rows.reshape(-1, kind.bytes), out.view(-1, kind.values)
    step = max(1, VALUES_AT_ONCE // kind.values)
    function = EXPANSIONS[kind]
    direct = out.dtype == torch.float32 or kind.values == 1
    for start in range(0, len(blocks), step):
        part = values[start : start + step]
        if direct:
            function(blocks[start : start + step], part)
        else:
            whole = torch.empty(part.shape)
            function(blocks[start : start + step], whole)
            part.copy_(whole)
    return out

"""Block formats of ggml: from numbers to stored bytes.

The simple formats give the bytes that ggml's reference code gives. Q4_1 and Q4_K search scales and minima as
`make_qkx2_quants` and `quantize_row_q4_K_ref` of ggml-quants.c (ggml-org/ggml) do, over many blocks at once. The way
back is in `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zhixing.models import block_kinds as kinds
from zhixing.models.block_kinds import Kind

VALUES_AT_ONCE = 1 << 20
"""Values that are packed together, which bounds the memory for the steps in between."""

STEPS = 21
"""Scales that Q4_K tries for every group of 32 values."""


def _bytes_of(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns numbers, (n, m), as the bytes of another type: (n, m * its size)."""
    return values.to(dtype).contiguous().view(torch.uint8)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


def _rounded(values: Tensor) -> Tensor:
    """Rounds to the nearest whole number, halves away from zero, as C's roundf."""
    size = values.abs()
    floor = size.floor()
    return values.sign() * (floor + (2 * (size - floor)).floor())


def _f32(values: Tensor) -> Tensor:
    return _bytes_of(values, torch.float32)


def _f16(values: Tensor) -> Tensor:
    return _bytes_of(values, torch.float16)


def _bf16(values: Tensor) -> Tensor:
    return _bytes_of(values, torch.bfloat16)


def _q8_0(values: Tensor) -> Tensor:
    scale = values.abs().amax(1, keepdim=True) / 127
    whole = _rounded(values * _inverse(scale)).to(torch.int8)
    return torch.cat((_bytes_of(scale, torch.float16), whole.view(torch.uint8)), dim=1)


def _nibbles(whole: Tensor) -> Tensor:
    """Packs values from 0 to 15, (n, m): the first half into the lower four bits, the second into the upper."""
    low, high = whole.to(torch.uint8).chunk(2, dim=1)
    return low | (high << 4)


def _q4_0(values: Tensor) -> Tensor:
    largest = values.gather(1, values.abs().argmax(1, keepdim=True))
    scale = largest / -8
    whole = (values * _inverse(scale) + 8.5).trunc().clamp(0, 15)
    return torch.cat((_bytes_of(scale, torch.float16), _nibbles(whole)), dim=1)


def _best_scales(values: Tensor) -> tuple[Tensor, Tensor]:
    """Finds, for groups (n, 32), the scale and minimum whose 16 levels fit best, large values counting more.

    Every tried scale gives whole numbers; for these the least-squares line through the values is a better scale and
    minimum. The one with the least weighted error is kept.

    Returns:
        Scales and negated minima, (n, 1), neither below zero.
    """
    weight = values.square().mean(1, keepdim=True).sqrt() + values.abs()
    minimum, top = values.amin(1, keepdim=True).clamp_max(0), values.amax(1, keepdim=True)
    sum_w, sum_x = weight.sum(1, keepdim=True), (weight * values).sum(1, keepdim=True)
    inverse = 15 * _inverse(top - minimum)
    scale = _inverse(inverse)
    whole = ((values - minimum) * inverse).round().clamp(0, 15)
    least = (weight * (scale * whole + minimum - values).square()).sum(1, keepdim=True)
    for step in range(STEPS):
        inverse = (14 + 0.1 * step) * _inverse(top - minimum)  # the minimum found so far
        whole = ((values - minimum) * inverse).round().clamp(0, 15)
        weighted = weight * whole
        sum_l, sum_l2 = weighted.sum(1, keepdim=True), (weighted * whole).sum(1, keepdim=True)
        sum_xl = (weighted * values).sum(1, keepdim=True)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        tried_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        tried_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = tried_minimum > 0
        tried_scale = torch.where(above, sum_xl / sum_l2, tried_scale)
        tried_minimum = tried_minimum.clamp_max(0)
        error = (weight * (tried_scale * whole + tried_minimum - values).square()).sum(1, keepdim=True)
        better = (determinant > 0) & (error < least)
        least = torch.where(better, error, least)
        scale = torch.where(better, tried_scale, scale)
        minimum = torch.where(better, tried_minimum, minimum)
    return scale, -minimum


def _q4_1(values: Tensor) -> Tensor:
    # ggml spans a block from its least to its largest value; searching for scale and minimum comes closer.
    scale, negated = _best_scales(values)
    step, floor = scale.half(), (-negated).half()
    whole = ((values - floor.float()) * _inverse(step.float())).round().clamp(0, 15)
    return torch.cat((step.view(torch.uint8), floor.view(torch.uint8), _nibbles(whole)), dim=1)


def _six_bit_pairs(scales: Tensor, minima: Tensor) -> Tensor:
    """Packs eight scales and eight minima from 0 to 63 into twelve bytes; see `blocks`."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minima[:, :4] | ((minima[:, 4:] >> 4) << 6)
    rest = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)
    return torch.cat((first, second, rest), dim=1)


def _q4_k(values: Tensor) -> Tensor:
    groups = values.reshape(-1, 32)
    scales, minima = (part.view(-1, 8) for part in _best_scales(groups))  # (n, 8)
    top_scale, top_minimum = scales.amax(1, keepdim=True).clamp_min(0), minima.amax(1, keepdim=True).clamp_min(0)
    small_scales = (scales * 63 * _inverse(top_scale)).round().clamp(0, 63).to(torch.uint8)
    small_minima = (minima * 63 * _inverse(top_minimum)).round().clamp(0, 63).to(torch.uint8)
    step, floor = (top_scale / 63).half(), (top_minimum / 63).half()
    real_scales = (step.float() * small_scales).view(-1, 1)
    real_minima = (floor.float() * small_minima).view(-1, 1)
    whole = ((groups + real_minima) * _inverse(real_scales)).round().clamp(0, 15)
    # Two groups of 32 share 32 bytes: the first in the lower four bits.
    packed = _nibbles(whole.view(-1, 64)).view(-1, 128)
    head = torch.cat((step.view(torch.uint8), floor.view(torch.uint8)), dim=1)
    return torch.cat((head, _six_bit_pairs(small_scales, small_minima), packed), dim=1)


PACKINGS: dict[Kind, Callable[[Tensor], Tensor]] = {
    kinds.F32: _f32, kinds.F16: _f16, kinds.BF16: _bf16, kinds.Q8_0: _q8_0, kinds.Q4_0: _q4_0, kinds.Q4_1: _q4_1,
    kinds.Q4_K: _q4_k,
}  # fmt: skip
"""How each format is made: values (n, values of a block) to bytes (n, bytes of a block)."""


def pack(kind: Kind, values: Tensor) -> Tensor:
    """Stores rows of numbers in blocks.

    Args:
        kind: The format, one of `PACKINGS`.
        values: (rows, width), the width a multiple of the block.

    Returns:
        (rows, bytes), uint8.
    """
    rows = values.reshape(-1, values.shape[-1])
    blocks = rows.reshape(-1, kind.values)
    out = torch.empty((len(blocks), kind.bytes), dtype=torch.uint8)
    step = max(1, VALUES_AT_ONCE // kind.values)
    for start in range(0, len(blocks), step):
        out[start : start + step] = PACKINGS[kind](blocks[start : start + step].float())
    return out.view(len(rows), -1)

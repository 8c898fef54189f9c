"""Block formats: the numbers are those of the `gguf` package to the last bit, whatever the bytes."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from zhixing.models import blocks
from zhixing.models.block_kinds import BF16, F16, F32, KINDS, Q4_K, READ

SCALES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where the float16 numbers of a block stand; at its beginning for the others."""


def random_rows(kind, rows=6, blocks_per_row=3, seed=0):
    """Rows of random bytes whose scales are ordinary numbers."""
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, (rows * blocks_per_row, kind.bytes), dtype=np.uint8)
    if kind == F32:
        raw = random.normal(size=(rows * blocks_per_row, 1)).astype(np.float32).view(np.uint8)
    elif kind == BF16:
        raw[:, 1] &= 0xBF  # no infinities
    else:
        for place in SCALES.get(kind.name, (0,)):
            raw[:, place : place + 2] = random.normal(size=(len(raw), 1)).astype(np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.name)
def test_values_are_those_of_the_gguf_package(kind):
    rows = random_rows(kind)
    expected = quants.dequantize(rows, GGMLQuantizationType[kind.name])
    out = torch.empty(len(rows), rows.shape[1] // kind.bytes * kind.values)
    result = blocks.expand(kind, torch.from_numpy(rows), out)
    assert result is out
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_number_types_round_the_same_values(kind, dtype):
    rows = torch.from_numpy(random_rows(kind))
    whole = blocks.expand(kind, rows, torch.empty(6, 3 * kind.values))
    half = blocks.expand(kind, rows, torch.empty(6, 3 * kind.values, dtype=dtype))
    assert torch.equal(half, whole.to(dtype))


def test_many_blocks_are_expanded_in_pieces(monkeypatch):
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", 512)
    rows = torch.from_numpy(random_rows(Q4_K))
    pieces = blocks.expand(Q4_K, rows, torch.empty(6, 768))
    monkeypatch.undo()
    assert torch.equal(pieces, blocks.expand(Q4_K, rows, torch.empty(6, 768)))


def test_rows_may_be_views():
    rows = torch.from_numpy(random_rows(F16, rows=8))
    assert torch.equal(
        blocks.expand(F16, rows[::2], torch.empty(4, 3)), blocks.expand(F16, rows, torch.empty(8, 3))[::2]
    )


def test_only_known_kinds_are_expanded():
    assert set(blocks.EXPANSIONS) == set(READ) <= set(KINDS.values())

"""From numbers to blocks: the bytes of the `gguf` package where it has the format, small errors where it has not."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.models import block_packing
from zhixing.models.block_kinds import BF16, F16, F32, Q4_0, Q4_K, Q8_0
from zhixing.models.block_packing import PACKINGS, pack
from zhixing.models.blocks import expand

KINDS = pytest.mark.parametrize("kind", PACKINGS, ids=lambda kind: kind.name)


def sample(rows=8, width=512, seed=0):
    """Ordinary weights, and rows that are awkward: zeros, one sign only, a few large values."""
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.05
    values[1] = 0
    values[2, :256] = 0
    values[3] = values[3].abs() + 1
    values[4] = -values[3]
    values[5, ::7] *= 30
    values[6] = 0.25
    return values


@pytest.mark.parametrize("kind", [F32, F16, BF16, Q8_0, Q4_0], ids=lambda kind: kind.name)
def test_bytes_are_those_of_the_gguf_package(kind):
    values = sample()
    expected = quants.quantize(values.numpy(), GGMLQuantizationType[kind.name])
    np.testing.assert_array_equal(pack(kind, values).numpy(), expected.view(np.uint8).reshape(len(values), -1))


@KINDS
def test_what_was_packed_is_packed_to_the_same_values_again(kind):
    rows = pack(kind, sample())
    once = expand(kind, rows, torch.empty(8, 512))
    if kind in (F32, F16, BF16):
        assert torch.equal(pack(kind, once), rows)
    again = expand(kind, pack(kind, once), torch.empty(8, 512))
    assert float((again - once).abs().max()) <= 0.02 * float(once.abs().max())


def test_q4_k_is_closer_than_a_grid_without_minima():
    values = sample()
    ordinary = values[[0, 3, 5, 7]]

    def error(kind):
        return float((expand(kind, pack(kind, ordinary), torch.empty(ordinary.shape)) - ordinary).square().mean())

    assert error(Q4_K) < 0.8 * error(Q4_0)
    relative = (error(Q4_K) / float(ordinary.square().mean())) ** 0.5
    assert relative < 0.05  # llama.cpp's own quantisation of these rows has 0.037


def test_q4_k_keeps_zeros_and_constants():
    values = sample()
    packed = expand(Q4_K, pack(Q4_K, values), torch.empty(values.shape))
    assert torch.equal(packed[1], values[1])
    torch.testing.assert_close(packed[6], values[6], rtol=2e-3, atol=0)


@KINDS
def test_packing_in_pieces_changes_nothing(kind, monkeypatch):
    whole = pack(kind, sample())
    monkeypatch.setattr(block_packing, "VALUES_AT_ONCE", 256)
    assert torch.equal(pack(kind, sample()), whole)


@given(st.lists(st.floats(-8, 8, width=32), min_size=256, max_size=256))
@settings(max_examples=30, deadline=None)
def test_errors_stay_within_a_step(values):
    row = torch.tensor([values])
    for kind, levels in ((Q8_0, 254), (Q4_0, 16), (Q4_K, 15)):
        spread = float(row.max().clamp_min(0) - row.min().clamp_max(0))
        found = expand(kind, pack(kind, row), torch.empty(row.shape))
        # Half a step of the finest even grid, with room for scales of few bits and for Q4_K's weighted fit.
        assert float((found - row).abs().max()) <= max(4 * spread / levels, 1e-3)

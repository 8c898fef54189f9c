"""Packed matrices against the `gguf` package's own dequantisation, and products against plain arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing import native
from zhixing.native import library, packing
from zhixing.native.packing import Kind

gguf = pytest.importorskip("gguf")
if not native.is_available():
    pytest.skip(native.absence() or "", allow_module_level=True)
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"]
HALVES = {  # where the half-precision scales of a block are
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
    "Q6_K": [208], "IQ4_NL": [0],
}  # fmt: skip


def random_blocks(name, rows, cols, seed=0):
    """Random bytes, with scales of an ordinary size."""
    kind = gguf.GGMLQuantizationType[name]
    size, nbytes = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (rows * cols // size, nbytes), dtype=np.uint8)
    for at in HALVES[name]:
        blocks[:, at : at + 2] = random.normal(0, 0.02, len(blocks)).astype(np.float16).view(np.uint8).reshape(-1, 2)
    return kind, blocks.reshape(rows, -1)


def activations(tokens, cols, seed=1):
    return np.random.default_rng(seed).normal(size=(tokens, cols)).astype(np.float32)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("rows", [16, 21])
def test_gguf_blocks_are_repacked_without_loss(name, rows):
    kind, blocks = random_blocks(name, rows, 512)
    expected = gguf.dequantize(blocks, kind)
    packed = packing.pack_ggml(kind, blocks, rows, 512)
    np.testing.assert_array_equal(packed.unpack(), expected.reshape(rows, 512))


def test_rows_are_rearranged_while_they_are_packed():
    kind, blocks = random_blocks("Q4_1", 32, 64)
    order = np.random.default_rng(2).permutation(32).astype(np.int32)
    packed = packing.pack_ggml(kind, blocks, 32, 64, order)
    np.testing.assert_array_equal(packed.unpack(), gguf.dequantize(blocks, kind).reshape(32, 64)[order])


@pytest.mark.parametrize("name", TYPES)
def test_quantised_products_equal_plain_arithmetic_on_rounded_activations(name, kernels):
    kind, blocks = random_blocks(name, 37, 512)
    packed = packing.pack_ggml(kind, blocks, 37, 512)
    bias = np.linspace(-1, 1, 37, dtype=np.float32)
    for tokens in (1, 2, 3, 8, 13):
        x = activations(tokens, 512)
        rounded = packing.round_activations(x)
        assert abs(rounded - x).max() <= abs(x).max() / 127 * 0.501
        expected = rounded.astype(np.float64) @ packed.unpack().T.astype(np.float64)
        scale = abs(expected).max()
        np.testing.assert_allclose(packed.product(x), expected, atol=2e-6 * scale)
        onto = np.ones((tokens, 37), np.float32)
        np.testing.assert_allclose(packed.product(x, bias, onto), expected + bias + 1, atol=2e-6 * scale + 1e-6)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_float_products_equal_plain_arithmetic(kind, kernels):
    weights = np.random.default_rng(3).normal(size=(35, 51)).astype(np.float32)
    packed = packing.pack_float(kind, weights)
    tolerance = {Kind.F32: 0.0, Kind.F16: 2**-11, Kind.BF16: 2**-8}[kind]
    np.testing.assert_allclose(packed.unpack(), weights, rtol=tolerance, atol=1e-7 if tolerance else 0)
    for tokens in (1, 2, 5, 16):
        x = activations(tokens, 51)
        expected = x.astype(np.float64) @ packed.unpack().T.astype(np.float64)
        np.testing.assert_allclose(packed.product(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", TYPES)
def test_all_kernels_give_the_same_products(name):
    kind, blocks = random_blocks(name, 32, 1024)
    packed = packing.pack_ggml(kind, blocks, 32, 1024)
    x, results, before = activations(9, 1024), {}, library.kernels()
    for kernels in library.supported_kernels():
        library.use_kernels(kernels)
        results[kernels] = packed.product(x)
    library.use_kernels(before)
    for result in results.values():
        np.testing.assert_allclose(result, results["scalar"], atol=1e-6 * abs(result).max())


def test_the_extreme_values_of_eight_bits_do_not_overflow(kernels):
    """All weights -128, all activations of the largest size: careless sums of pairs would overflow 16 bits."""
    kind = gguf.GGMLQuantizationType.Q8_0
    block = np.concatenate([np.float16([1.0]).view(np.uint8), np.full(32, 128, np.uint8)])
    packed = packing.pack_ggml(kind, np.tile(block, (16, 2)), 16, 64)
    for x in (np.full((1, 64), 127, np.float32), np.full((1, 64), -127, np.float32)):
        np.testing.assert_array_equal(packed.product(x), x.sum() * np.full((1, 16), -128.0))


@pytest.mark.parametrize("kind", [Kind.B8S, Kind.B4M])
def test_own_quantiser_is_at_least_as_close_as_gguf_s(kind):
    weights = np.random.default_rng(4).normal(size=(64, 256)).astype(np.float32)
    reference = gguf.GGMLQuantizationType.Q8_0 if kind == Kind.B8S else gguf.GGMLQuantizationType.Q4_1
    theirs = gguf.dequantize(gguf.quantize(weights, reference), reference)
    ours = packing.pack_float(kind, weights).unpack()
    assert np.square(ours - weights).mean() <= np.square(theirs - weights).mean() * (1.01 if kind == Kind.B8S else 0.95)


def test_own_quantiser_keeps_constant_and_zero_groups():
    weights = np.zeros((3, 64), np.float32)
    weights[1] = 0.25
    weights[2, :32] = -3.0
    np.testing.assert_array_equal(packing.pack_float(Kind.B4M, weights).unpack(), weights)
    np.testing.assert_array_equal(packing.pack_float(Kind.B8S, np.zeros((1, 32), np.float32)).unpack(), 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(-3, 40), st.integers(-1, 300), st.sampled_from([0, 1, 31, 32, 33, 256, 1 << 40]), st.integers(-9, 9))
def test_sizes_that_do_not_fit_are_refused(ggml_type, rows, cols, lack):
    """Every call with a wrong type, shape or size ends in a ValueError, not in a crash."""
    blocks = np.zeros(max(0, 4096 + lack), np.uint8)
    try:
        packed = packing.pack_ggml(ggml_type, blocks, rows, cols)
    except ValueError:
        return
    assert packed.unpack().shape == (rows, cols)


def test_a_matrix_of_another_size_than_it_says_is_refused():
    packed = packing.pack_float(Kind.F32, np.ones((16, 8), np.float32))
    with pytest.raises(ValueError, match="no such packed matrix"):
        packing.Packed(Kind.F32, 32, 8, packed.data).product(np.ones((1, 8), np.float32))
    with pytest.raises(ValueError, match="no such rows"):
        packed.unpack(10, 7)
    with pytest.raises(ValueError, match="multiply"):
        packed.product(np.ones((1, 9), np.float32))

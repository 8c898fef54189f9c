"""Choosing tokens on the core, against the filters on tensors."""

import numpy as np
import pytest
import torch

from zhixing import native
from zhixing.generation.filters import filters_for
from zhixing.generation.options import SamplingOptions
from zhixing.generation.sampling import Candidates, draw
from zhixing.native.choosing import Setting, choose_tokens

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the C++ core is not built")


def expected(logits, setting, shift=0.0):
    """What filters and draw make of a row; the random number may be shifted by what rounding makes of it."""
    options = SamplingOptions(
        temperature=setting.temperature, top_k=setting.top_k or None, top_p=setting.top_p, min_p=setting.min_p
    )
    candidates = Candidates(torch.from_numpy(logits)[None])
    for narrow in filters_for(options):
        candidates = narrow(candidates)
    return int(draw(candidates, [min(max(setting.point + shift, 0.0), 1.0 - 1e-12)]))


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 1000, 49152])
@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0])
def test_draws_are_those_of_the_filters(size, spread, kernels):
    random = np.random.default_rng(size)
    logits = (random.normal(size=(40, size)) * spread).astype(np.float32)
    settings = [
        Setting(
            temperature=float(random.choice([0.5, 0.8, 1.0, 1.7])),
            top_k=int(random.choice([0, 0, 1, 5, 50, 800, 10**6])),
            top_p=float(random.choice([1.0, 1.0, 0.3, 0.9, 0.99])),
            min_p=float(random.choice([0.0, 0.0, 0.05, 0.5])),
            point=float(random.random()),
        )
        for _ in logits
    ]
    chosen = choose_tokens(logits, settings)
    for row, setting, token in zip(logits, settings, chosen, strict=True):
        near = {expected(row, setting, shift) for shift in (-1e-5, 0.0, 1e-5)}
        assert token in near, setting


@pytest.mark.parametrize("point", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_random_numbers(point, kernels):
    logits = np.random.default_rng(0).normal(size=(1, 777)).astype(np.float32)
    for setting in (Setting(1.0), Setting(1.0, top_k=3), Setting(1.0, top_p=0.5), Setting(1.0, min_p=0.2)):
        setting = setting._replace(point=point)
        assert choose_tokens(logits, [setting]) == [expected(logits[0], setting)]


def test_the_likeliest_is_the_first_of_equal_ones(kernels):
    logits = np.zeros((3, 300), np.float32)
    logits[1, [70, 71, 200]] = 5.0
    logits[2] = -np.inf
    logits[2, 299] = -3.0
    assert choose_tokens(logits, [Setting()] * 3) == [0, 70, 299]
    big = np.random.default_rng(1).normal(size=(33, 50257)).astype(np.float32)
    assert choose_tokens(big, [Setting()] * 33) == big.argmax(-1).tolist()


@pytest.mark.parametrize("place", [0, 17, 64, 299])
def test_what_is_no_number_is_told(place, kernels):
    logits = np.zeros((2, 300), np.float32)
    logits[1, place] = np.nan
    for setting in (Setting(), Setting(0.7, top_k=4)):
        assert choose_tokens(logits, [setting] * 2)[1] == -1
        assert choose_tokens(logits, [setting] * 2)[0] >= 0


def test_settings_out_of_range_are_refused():
    logits = np.zeros((1, 4), np.float32)
    for setting in (Setting(-1.0), Setting(1.0, top_p=0.0), Setting(1.0, point=1.0), Setting(1.0, min_p=2.0)):
        with pytest.raises(ValueError, match="out of range"):
            choose_tokens(logits, [setting])
    with pytest.raises(ValueError, match="no such rows"):
        choose_tokens(np.zeros((1, 0), np.float32), [Setting()])

"""Several steps in one call of the core, against the same steps one by one with a choice behind each."""

import numpy as np
import pytest
import torch

from zhixing import native
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native import library
from zhixing.native.choosing import Setting, choose_tokens
from zhixing.native.network import pack_decoder
from zhixing.native.runtime import Pages
from zhixing.native.steps import Reading, Steps

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the C++ core is not built")
SEQUENCES, PAGES = 3, 4
SETTINGS = [Setting(), Setting(0.8, 20, 0.9), Setting(1.1, 0, 1.0, 0.01)]


@pytest.fixture(scope="module")
def runtime():
    config = TransformerConfig(
        vocab_size=700, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=64, context=64, **FIXED
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(3))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6
    return pack_decoder(model.eval()).runtime


@pytest.fixture(params=[1, 3])
def threads(request):
    before = library.threads()
    library.set_threads(request.param)
    yield request.param
    library.set_threads(before)


def steps_of(runtime):
    """Steps with three sequences of 5, 17 and 1 tokens in the cache; the next step's tokens."""
    steps = Steps(runtime, Pages(runtime, SEQUENCES * PAGES))
    tables = [list(range(PAGES * number, PAGES * (number + 1))) for number in range(SEQUENCES)]
    lengths = [5, 17, 1]
    ids = np.random.default_rng(0).integers(0, 700, sum(lengths)).tolist()
    owners = [number for number, length in enumerate(lengths) for _ in range(length)]
    places = [place for length in lengths for place in range(length)]
    steps.run(Reading(ids, owners, places, tables, [22]))
    return steps, Reading([7, 8, 9], [0, 1, 2], lengths, tables, [0, 1, 2])


def settings_of(count):
    draw = np.random.default_rng(1)
    return [[setting._replace(point=float(draw.random())) for setting in SETTINGS] for _ in range(count)]


def one_by_one(runtime, settings):
    steps, reading = steps_of(runtime)
    chosen = []
    for setting in settings:
        chosen.append(choose_tokens(steps.run(reading), setting))
        reading = reading._replace(ids=chosen[-1], positions=[place + 1 for place in reading.positions])
    return chosen


@pytest.mark.parametrize("kernels", library.supported_kernels() if native.is_available() else [])
def test_a_burst_is_its_steps(runtime, threads, kernels):
    library.use_kernels(kernels)
    try:
        settings = settings_of(30)
        expected = one_by_one(runtime, settings)
        steps, reading = steps_of(runtime)
        assert steps.write(reading, settings, ()) == expected
    finally:
        library.use_kernels("auto")


def test_it_ends_when_every_sequence_has_ended(runtime, threads):
    settings = settings_of(30)
    expected = one_by_one(runtime, settings)
    ends = {tokens[number] for number, tokens in zip((0, 1, 2), expected[4:11:3], strict=True)}
    over: set[int] = set()
    last = 0
    while len(over) < SEQUENCES:
        over |= {number for number, token in enumerate(expected[last]) if token in ends}
        last += 1
    steps, reading = steps_of(runtime)
    assert last < 30
    assert steps.write(reading, settings, ends) == expected[:last]


def test_a_step_with_longer_pieces_is_chosen_behind_once(runtime, threads):
    steps, _ = steps_of(runtime)
    reading = Reading([1, 2, 3, 4], [0, 0, 0, 1], [5, 6, 7, 17], [[0, 1, 2, 3], [4, 5, 6, 7]], [2, 3])
    expected = choose_tokens(steps.run(reading), [Setting()] * 2)
    assert steps.write(reading, [[Setting()] * 2], ()) == [expected]


def test_bursts_out_of_order_are_refused(runtime):
    steps, reading = steps_of(runtime)
    settings = settings_of(2)
    with pytest.raises(ValueError, match="one token of every sequence"):
        steps.write(reading._replace(wanted=[0, 1]), [row[:2] for row in settings], ())
    with pytest.raises(ValueError, match="in order"):
        steps.write(reading._replace(wanted=[1, 0, 2]), settings, ())
    with pytest.raises(ValueError, match="behind the sequence's pages"):
        steps.write(reading, settings_of(600), ())
    with pytest.raises(ValueError, match="a setting"):
        steps.write(reading, [[Setting(temperature=-1)] * 3] * 2, ())

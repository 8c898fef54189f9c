"""Greedy tokens by way of a head in 4 bits: those of the whole head, bit for bit, and the bound that says so."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zhixing
from tests.native.test_network import network
from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput
from zhixing.families.llama import FIXED
from zhixing.generation import SamplingOptions
from zhixing.generation.engine import Engine
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native import library, saved
from zhixing.native.choosing import Setting
from zhixing.native.network import NativeNetwork
from zhixing.native.packing import Kind, pack_coarse, pack_float, pack_ggml, round_activations
from zhixing.native.runtime import Pages
from zhixing.native.steps import Reading, Steps
from zhixing.tokenization.train import train_tokenizer

pytestmark = pytest.mark.skipif(not library.is_available(), reason="the C++ core is not built")

VOCABULARY, WIDTH = 1003, 64
GGML = {name: gguf.GGMLQuantizationType[name] for name in ("Q5_0", "Q5_1", "Q8_0", "Q5_K", "Q6_K")}


def values(seed, shape, tails):
    """Numbers with heavier tails the smaller `tails` is."""
    draw = np.random.default_rng(seed)
    return (draw.standard_t(tails, shape) * draw.uniform(0.01, 10)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from(["B8S", "Q5_0", "Q5_1", "Q8_0"]),
    st.integers(1, 9),
    st.sampled_from([2, 4, 50]),
)
def test_products_are_no_further_apart_than_the_bound(seed, kind, groups, tails):
    weights, x = values(seed, (37, 32 * groups), tails), values(seed + 1, (5, 32 * groups), tails)
    if kind == "B8S":
        exact = pack_float(Kind.B8S, weights)
    else:
        exact = pack_ggml(GGML[kind], gguf.quants.quantize(weights, GGML[kind]).view(np.uint8), *weights.shape)
    approximate, bounds = pack_coarse(exact)
    length = np.linalg.norm(round_activations(x).astype(np.float64), axis=1)
    before = library.kernels()
    try:
        for name in library.supported_kernels():
            library.use_kernels(name)
            apart = np.abs(exact.product(x).astype(np.float64) - approximate.product(x))
            assert (apart <= length[:, None] * bounds).all()
    finally:
        library.use_kernels(before)
    error = np.linalg.norm(exact.unpack() - approximate.unpack(), axis=1)
    assert (bounds <= 1.1 * error + 1e-3 * np.linalg.norm(weights, axis=1)).all()  # and it is no larger than it must be


@pytest.mark.parametrize("kind", ["Q5_K", "Q6_K"])
def test_kinds_of_two_levels_keep_the_bound(kind):
    draw = np.random.default_rng(3)
    size = {"Q5_K": 176, "Q6_K": 210}[kind]
    blocks = draw.integers(0, 256, (40, size), dtype=np.uint8)
    for place in {"Q5_K": (0, 2), "Q6_K": (208,)}[kind]:  # scales that are numbers
        blocks[:, place : place + 2] = draw.uniform(0.001, 0.1, (40, 1)).astype(np.float16).view(np.uint8)
    exact = pack_ggml(GGML[kind], blocks, 40, 256)
    approximate, bounds = pack_coarse(exact)
    x = values(4, (9, 256), 3)
    length = np.linalg.norm(round_activations(x).astype(np.float64), axis=1)
    apart = np.abs(exact.product(x).astype(np.float64) - approximate.product(x))
    assert (apart <= length[:, None] * bounds).all()


def crowded(seed=0):
    """A head whose rows are copies of a few, many equal, the others apart by less than 4 bits can tell."""
    draw = torch.Generator().manual_seed(seed)
    some = torch.randn(7, WIDTH, generator=draw)
    rows = some[torch.randint(0, 7, (VOCABULARY,), generator=draw)]
    noise = torch.randn(VOCABULARY, WIDTH, generator=draw) * 0.02
    return rows + noise * (torch.rand(VOCABULARY, 1, generator=draw) < 0.6)


def model(head=None, **changes):
    made = network("llama", vocab_size=VOCABULARY, width=WIDTH, mlp_width=96, **changes)
    if head is not None:
        made.output_matrix.data.copy_(head)
    return made


@pytest.mark.parametrize("case", ["random", "crowded", "equal", "biased"])
def test_the_highest_is_that_of_the_whole_head_and_what_is_not_exact_is_lower(case, kernels):
    head = {"random": None, "biased": None, "crowded": crowded(), "equal": crowded()[:1].expand(VOCABULARY, WIDTH)}[
        case
    ]
    made = model(head, head_bias=case == "biased")
    ours = NativeNetwork(made, "q8", head="q4")
    steps = Steps(ours.runtime, Pages(ours.runtime, 8))
    draw = np.random.default_rng(0)
    approximate = 0
    for place in range(40):
        tables = [[0, 1, 2], [3, 4, 5], [6, 7, 7]]
        reading = Reading(draw.integers(0, VOCABULARY, 3).tolist(), [0, 1, 2], [place] * 3, tables, [0, 2])
        whole = steps.run(reading).copy()
        assert steps.write(reading, [[Setting(), Setting()]], ()) == [whole.argmax(1).tolist()]
        found = steps._out[:2]
        assert (found.argmax(1) == whole.argmax(1)).all()
        assert (found.max(1) == whole.max(1)).all()
        other = found != whole
        assert (found < whole.max(1, keepdims=True))[other].all()
        approximate += int(other.sum())
    assert (approximate == 0) == (case == "equal")


def test_numbers_that_are_none_are_told():
    made = model()
    ours = NativeNetwork(made, "q8", head="q4")
    ours.runtime.reach(32)
    ours.runtime._turned[0][0][:] = np.nan  # the rotations: every state is none
    steps = Steps(ours.runtime, Pages(ours.runtime, 1))
    assert steps.write(Reading([5], [0], [0], [[0]], [0]), [[Setting()]], ()) == [[-1]]


TOKENIZER = train_tokenizer([], "byte").tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("head") / "model"
    made = Transformer(
        TransformerConfig(
            vocab_size=TOKENIZER.vocab_size,
            width=64,
            layers=2,
            heads=2,
            kv_heads=2,
            head_dim=32,
            mlp_width=64,
            context=256,
            **FIXED,
        )
    )
    made.initialise(torch.Generator().manual_seed(0))
    for parameter in made.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4
    save_folder(where, made.eval(), TOKENIZER, "llama")
    return where


def test_answers_are_the_same_beside_drawn_ones(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(saved.MOST_VARIABLE, str(1 << 30))
    plain, coarse = (zhixing.load(folder, quantize="q8", head=head) for head in (None, "q4"))
    assert "head in 4 bits" in coarse.details[-1]
    options = [
        SamplingOptions(temperature=0.0, max_tokens=40, end_tokens=()),
        SamplingOptions(temperature=0.9, top_k=30, max_tokens=25, seed=2, end_tokens=()),
        SamplingOptions(temperature=0.0, max_tokens=10, logprobs=3, end_tokens=()),
    ]
    answers = []
    for opened in (plain, coarse):
        engine = Engine(opened.network, TOKENIZER, cache_tokens=1024)
        requests = [engine.submit(f"{number} abc", one) for number, one in enumerate(options * 3)]
        answers.append([request.generation() for request in requests])
        engine.close()
    for one, other in zip(*answers, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == other.logprobs
    saved.wait()
    again = zhixing.load(folder, quantize="q8", head="q4")
    assert "taken from" in again.details[0]
    assert again.network.runtime.program.spared == coarse.network.runtime.program.spared > 0
    beams = {"num_beams": 3, "temperature": 0.0, "max_tokens": 9, "end_tokens": ()}
    assert again.generate("abc", **beams) == plain.generate("abc", **beams)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "q4"}, "kept as F32"),
        ({"head": "q4", "quantize": "q4"}, "kept as Q4_1"),
        ({"head": "q3"}, "known: q4"),
        ({"head": "q4", "engine": "torch"}, "leave out one of --head"),
    ],
)
def test_heads_that_gain_nothing_and_contradictions_are_refused(folder, options, words):
    with pytest.raises(BadInput, match=words):
        zhixing.load(folder, **options)


def test_soft_caps_are_refused():
    with pytest.raises(BadInput, match="soft-capped"):
        NativeNetwork(model(logit_softcap=5.0), "q8", head="q4")

"""Encoder-decoders on the core against the PyTorch modules: logits of every arrangement, and whole beam searches."""

import pytest
import torch

from tests.native.rounding import ROUNDINGS
from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions
from zhixing.models.cache import LayerCache
from zhixing.models.config import TransformerConfig
from zhixing.models.cross_attention import CrossAttention
from zhixing.models.encoder import EncoderAttention
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent_seq2seq import RecurrentEncoderDecoder
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder, TransformerSeq2SeqConfig
from zhixing.native import library
from zhixing.native.choice import choose_seq2seq
from zhixing.native.seq2seq import NativeEncoderDecoder

pytestmark = pytest.mark.skipif(not library.is_available(), reason="the C++ core is not built")

VOCABULARY, START, END = 101, 1, 0
MARIAN = {
    "norm": "layer", "norm_eps": 1e-5, "norm_placement": "residual", "position": "sinusoidal", "activation": "relu",
    "gated": False, "attention_bias": True, "attention_output_bias": True, "mlp_bias": True, "scale_embeddings": True,
    "tied": True,
}  # fmt: skip
T5 = {
    "norm": "rms", "position": "relative", "attention_scale": 1.0, "activation": "gelu_tanh", "context": 1 << 30,
    "relative_buckets": 8, "relative_distance": 20,
}  # fmt: skip
CASES = {
    "marian": (MARIAN, {"head_bias": True}),
    "bart": (
        {**MARIAN, "position": "learned", "position_offset": 2, "embedding_norm": True, "activation": "gelu"},
        {"head_bias": True},
    ),
    "t5": ({**T5, "gated": False, "activation": "relu", "tied": True}, {"logit_scale": 0.25}),
    "flan-t5": (T5, {}),
    "grouped": ({**MARIAN, "norm_placement": "pre", "kv_heads": 2}, {"layers": 1}),
    "rotary-writer": ({**MARIAN, "norm_placement": "pre", "position": "none"}, {"position": "rotary", "heads": 8}),
}


@pytest.fixture
def rounded(monkeypatch):
    """Lets the modules round keys and values as the core does, that all else can be compared."""

    def follow(kv_cache):
        by = ROUNDINGS[kv_cache]
        update, forward, project = LayerCache.update, CrossAttention.forward, EncoderAttention._project
        monkeypatch.setattr(LayerCache, "update", lambda self, k, v, start: update(self, by(k), by(v), start))
        monkeypatch.setattr(
            CrossAttention, "forward", lambda self, x, k, v, *rest: forward(self, x, by(k), by(v), *rest)
        )

        def projected(self, x):
            q, k, v = project(self, x)
            return q, by(k), by(v)

        monkeypatch.setattr(EncoderAttention, "_project", projected)

    return follow


def network(case="marian", seed=0, **changes):
    base = {
        "vocab_size": VOCABULARY, "width": 64, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp_width": 96,
        "context": 80,
    }  # fmt: skip
    both, decoder = CASES[case]
    values = {**base, **both, **changes}
    config = TransformerSeq2SeqConfig(
        TransformerConfig(**values, causal=False),
        TransformerConfig(**{**values, **decoder}, cross_width=64),
        start=START,
    )
    model = TransformerEncoderDecoder(config).eval()
    model.initialise(torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model


def sources(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Ragged.of([torch.randint(2, VOCABULARY, (length,), generator=draw).tolist() for length in lengths])


NEAR = {"f32": (1e-6, 1e-5), "f16": (1e-4, 1e-3), "q8": (1e-3, 1e-2)}
"""How far logits may be off on average, and at most, of the largest, by the cache's format: within float32 rounding. A
key that lies between two numbers of a coarser format may be rounded the other way, rarely."""


def assert_near(got, expected, kv_cache="f32"):
    difference = (got - expected).abs() / expected.abs().max()
    mean, most = NEAR[kv_cache]
    assert difference.mean() < mean
    assert difference.max() < most


@pytest.mark.parametrize(
    ("case", "kv_cache"), [(case, "f32") for case in CASES] + [("t5", "f16"), ("grouped", "q8"), ("bart", "q8")]
)
@torch.inference_mode()
def test_logits_equal_those_of_the_modules(case, kv_cache, kernels, rounded):
    model = network(case)
    rounded(kv_cache)
    read = sources([5, 40, 17, 16, 1])
    theirs, ours = model.reading(read), NativeEncoderDecoder(model, kv_cache=kv_cache).reading(read)
    caches = theirs.new_cache(5, 60), ours.new_cache(5, 60)

    def compare(tokens):
        expected, got = theirs.next_logits(tokens, caches[0]), ours.next_logits(tokens, caches[1])
        assert_near(got, expected, kv_cache)

    draw = torch.Generator().manual_seed(1)
    compare(torch.full((5, 1), START))
    compare(torch.randint(0, VOCABULARY, (5, 3), generator=draw))
    for cache in caches:
        cache.repeat(4)
    for _ in range(8 if kernels == "scalar" else 30):  # beams part ways: none may write where another reads
        compare(torch.randint(0, VOCABULARY, (20, 1), generator=draw))
        rows = (torch.arange(5)[:, None] * 4 + torch.randint(0, 4, (5, 4), generator=draw)).flatten()
        for cache in caches:
            cache.keep(rows)
    kept = torch.tensor([3, 17, 16, 8])
    for cache in caches:
        cache.keep(kept)
    compare(torch.randint(0, VOCABULARY, (4, 1), generator=draw))


@torch.inference_mode()
def test_a_source_gets_the_same_bits_alone_and_in_company():
    ours = NativeEncoderDecoder(network(), quantize="q8")
    tokens = torch.full((3, 1), START)

    def first(read):
        reading = ours.reading(read)
        return reading.next_logits(tokens[: len(read.lengths)], reading.new_cache(len(read.lengths), 9))

    several = sources([30, 7, 80])
    together = first(several)
    for source, row in zip(several.split(several.tokens), together, strict=True):
        assert torch.equal(first(Ragged.of([source.tolist()]))[0], row)


@pytest.mark.parametrize("case", ["marian", "bart", "t5"])
def test_searches_find_the_same_answers(case):
    model = network(case)
    prompts = sources([9, 30, 12, 4, 22]).split(sources([9, 30, 12, 4, 22]).tokens)
    prompts = [one.tolist() for one in prompts]
    for options in (
        SamplingOptions(temperature=0.0, max_tokens=20, end_tokens=(END,)),
        SamplingOptions(temperature=0.0, max_tokens=20, end_tokens=(END, 5, 6), num_beams=4, length_penalty=0.8),
        SamplingOptions(
            temperature=0.0, max_tokens=18, end_tokens=(END, 7), num_beams=3, forced_bos_token_id=9,
            forced_eos_token_id=(END,), bad_words=((3,),), n=2,
        ),
        SamplingOptions(temperature=0.0, max_tokens=10, end_tokens=(END,), num_beams=4, num_beam_groups=2,
                        diversity_penalty=0.5),
    ):  # fmt: skip
        expected = Generator(model, None).generate(prompts, options)
        got = Generator(NativeEncoderDecoder(model), None).generate(prompts, options)
        assert [one.tokens for one in got] == [one.tokens for one in expected]
        if options.beams:
            assert [one.score for one in got] == pytest.approx([one.score for one in expected], abs=2e-5)


@torch.inference_mode()
def test_many_rows_and_long_sources_go_in_several_steps():
    model = network("t5")
    read = sources([60] * 70)
    theirs, ours = model.reading(read), NativeEncoderDecoder(model).reading(read)
    caches = theirs.new_cache(70, 4), ours.new_cache(70, 4)
    for cache in caches:
        cache.repeat(5)
    tokens = torch.randint(0, VOCABULARY, (350, 1), generator=torch.Generator().manual_seed(2))
    expected, got = theirs.next_logits(tokens, caches[0]), ours.next_logits(tokens, caches[1])
    assert_near(got, expected)


@torch.inference_mode()
def test_what_is_longer_than_the_tables_is_left_to_the_modules():
    model = network("t5")
    ours = NativeEncoderDecoder(model)
    read = sources([8])
    reading = ours.reading(read)
    cache = reading.new_cache(1, ours.write_reach + 1)
    tokens = torch.full((1, 1), START)
    theirs = model.reading(read)
    expected = theirs.next_logits(tokens, theirs.new_cache(1, 9))
    assert torch.allclose(reading.next_logits(tokens, cache), expected, atol=1e-5)
    ours.read_reach = 7
    assert type(ours.reading(read)) is type(theirs)


def test_losses_are_those_of_the_modules():
    model = network()
    ours = NativeEncoderDecoder(model)
    targets = sources([6, 3], seed=5)
    inputs = model.shifted(targets)
    both = [one.losses(sources([4, 9]), inputs, targets.tokens) for one in (ours, model)]
    assert torch.equal(*both)


def test_the_choice_is_said():
    model = network()
    assert "native core" in choose_seq2seq(model).note
    assert "Q8_0" in choose_seq2seq(model, quantize="q8").note
    assert choose_seq2seq(model, "torch") == (None, "computed by PyTorch, as asked")
    wide = network("marian", context=9000)
    assert "9000" in choose_seq2seq(wide).note
    with pytest.raises(BadInput, match="9000"):
        choose_seq2seq(wide, "native")
    recurrent = RecurrentEncoderDecoder.__new__(RecurrentEncoderDecoder)
    assert "RecurrentEncoderDecoder" in choose_seq2seq(recurrent).note

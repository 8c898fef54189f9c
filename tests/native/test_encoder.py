"""Encoders on the C++ core against their modules."""

import pytest
import torch

from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig
from zhixing.models.encoder import Encoder
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.models.ragged import Ragged
from zhixing.native import library
from zhixing.native.encoder import NativeEncoder, put_on_core
from zhixing.native.encoder_plan import encoder_plan
from zhixing.native.plan import Unsupported
from zhixing.native.weights import Packing

pytestmark = pytest.mark.skipif(not library.is_available(), reason="the C++ core is not built")

BERT = {
    "norm": "layer", "norm_placement": "residual", "position": "learned", "embedding_norm": True, "token_types": 2,
    "activation": "gelu", "gated": False, "attention_bias": True, "attention_output_bias": True, "mlp_bias": True,
}  # fmt: skip
PRE = {
    "norm": "rms", "norm_placement": "pre", "position": "sinusoidal", "activation": "silu", "gated": True,
    "attention_bias": False, "attention_output_bias": False, "mlp_bias": False, "scale_embeddings": True,
}  # fmt: skip
CASES = {
    "bert": BERT,
    "offset": {**BERT, "position_offset": 2, "token_types": 0},
    "pre": PRE,
    "grouped": {**PRE, "kv_heads": 2},
    "relative": {**PRE, "position": "relative", "relative_buckets": 8, "relative_distance": 30, "attention_scale": 1.0},
}


NEAR = 2e-6
"""Of the largest value: the order of a few float32 sums."""


def encoder(**changes):
    values = {
        "vocab_size": 101, "width": 64, "layers": 3, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp_width": 96,
        "context": 80, "causal": False, "tied": True, **changes,
    }  # fmt: skip
    made = Encoder(TransformerConfig(**values))
    made.initialise(torch.Generator().manual_seed(0))
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return made.eval()


def batch(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Ragged.of([torch.randint(0, 101, (n,), generator=draw).tolist() for n in lengths])


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_every_vector_is_that_of_the_modules(case):
    modules = encoder(**CASES[case])
    native = NativeEncoder(modules)
    for lengths in ([5], [1, 80, 17, 17, 16, 3], [80] * 30, list(range(1, 41))):
        expected, got = modules(batch(lengths)), native(batch(lengths))
        assert got.shape == expected.shape
        # Nothing is rounded to fewer bits than float32 has: half precision anywhere does a thousand times as much.
        assert (got - expected).abs().max() < NEAR * expected.abs().max(), case


@torch.inference_mode()
def test_a_text_has_the_same_vectors_whatever_is_beside_it():
    native = NativeEncoder(encoder(**BERT), quantize="q8")
    several = batch([30, 7, 80, 30])
    rows = several.split(native(several))
    for text, row in zip(several.split(several.tokens), rows, strict=True):
        assert torch.equal(native(Ragged.of([text.tolist()])), row)


@torch.inference_mode()
def test_two_segments_are_left_to_the_modules():
    modules = encoder(**BERT)
    pair = Ragged.of([[1, 2, 3, 4]], [[0, 0, 1, 1]])
    assert torch.equal(NativeEncoder(modules)(pair), modules(pair))


def test_what_is_not_known_is_said():
    with pytest.raises(Unsupported, match="factorised"):
        encoder_plan(encoder(**{**PRE, "embedding_width": 8}), Packing())
    model = EncoderModel(encoder(**{**PRE, "embedding_width": 8}).config, HeadConfig("pool"))
    assert "PyTorch" in put_on_core(model)
    with pytest.raises(BadInput, match="cannot run this encoder"):
        put_on_core(model, engine="native")
    assert put_on_core(model, engine="torch") == "computed by PyTorch, as asked"


@torch.inference_mode()
def test_heads_stand_on_it():
    config = encoder(**BERT).config
    for head in (HeadConfig("pool", normalise=True), HeadConfig("classify", labels=("a", "b")), HeadConfig("masked")):
        model = EncoderModel(config, head)
        model.initialise(torch.Generator().manual_seed(1))
        some = batch([9, 30])
        expected = model.eval()(some)
        assert "native core" in put_on_core(model)
        assert (model(some) - expected).abs().max() < NEAR * expected.abs().max()

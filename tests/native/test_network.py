"""Whole networks on the core against the PyTorch modules: logits of every arrangement that a plan can express."""

import pytest
import torch

from tests.native.rounding import ROUNDINGS
from zhixing.core.errors import BadInput
from zhixing.models.cache import LayerCache
from zhixing.models.config import RopeScaling, TransformerConfig
from zhixing.models.loss import IGNORED
from zhixing.models.transformer import Transformer
from zhixing.native import library
from zhixing.native.network import NativeNetwork, why_not
from zhixing.native.plan import Unsupported, transformer_plan
from zhixing.native.runtime import KV_CACHES, Pages
from zhixing.native.weights import Packing

BASE = {
    "vocab_size": 97, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp_width": 48,
    "context": 2048,
}  # fmt: skip
BIASED = {"attention_bias": True, "attention_output_bias": True, "mlp_bias": True}
CASES = {
    "llama": {},
    "llama-scaled": {"rope_scaling": RopeScaling("llama3", 8.0, 64)},
    "qwen2": {"attention_bias": True, "kv_heads": 4, "tied": True},
    "gpt2": {
        "norm": "layer", "position": "learned", "gated": False, "activation": "gelu_tanh", "tied": True, "kv_heads": 4,
        **BIASED,
    },
    "gemma3": {
        "norm_offset": 1.0, "norm_placement": "sandwich", "scale_embeddings": True, "qk_norm": "before_rotary",
        "window": 20, "window_layers": (True, False), "local_rope_theta": 100.0, "attention_scale": 0.3,
        "activation": "gelu_tanh", "tied": True, "heads": 3, "kv_heads": 1,
    },
    "gemma2": {
        "norm_offset": 1.0, "norm_placement": "sandwich", "attention_softcap": 5.0, "logit_softcap": 3.0, "window": 300,
    },
    "neox": {
        "parallel_residual": True, "norm": "layer", "rotary_dim": 8, "gated": False, "activation": "gelu", **BIASED,
    },
    "olmo2": {"norm_placement": "post", "qk_norm": "before_rotary", "qk_norm_scope": "projection"},
    "nanochat": {
        "norm_weight": False, "embedding_norm": True, "rope_reversed": True, "qk_norm": "after_rotary",
        "activation": "relu2", "gated": False, "logit_softcap": 15.0,
    },
    "smollm3": {"rotary_layers": (True, False), "activation": "relu"},
    "wide-groups": {"heads": 12, "kv_heads": 1, "head_dim": 10},
    "wide-heads": {"heads": 2, "kv_heads": 1, "head_dim": 72},
    "positionless": {"position": "none"},
    "vaswani": {
        "norm": "layer", "norm_placement": "residual", "position": "sinusoidal", "gated": False, "activation": "relu",
        "scale_embeddings": True, "head_bias": True, "tied": True, **BIASED,
    },
    "offset": {"position": "learned", "position_offset": 2, "logit_scale": 0.5},
    "relative": {"position": "relative", "attention_scale": 0.3, "relative_buckets": 16, "relative_distance": 100},
}  # fmt: skip


@pytest.fixture
def rounded(monkeypatch):
    """Lets the modules round keys and values as the core does, that all else can be compared."""

    def follow(kv_cache):
        update, rounding = LayerCache.update, ROUNDINGS[kv_cache]
        monkeypatch.setattr(
            LayerCache, "update", lambda self, k, v, start: update(self, rounding(k), rounding(v), start)
        )

    return follow


def network(case="llama", seed=0, **changes):
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(**{**BASE, **CASES[case], **changes})).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm.weight" in name else 0.0, std=0.2)
    return model


def reference(model, tokens):
    """The logits of every position, (time, vocab)."""
    with torch.no_grad():
        cache = model.new_cache(1, tokens.shape[1])
        return model.logits(model.hidden_states(tokens, cache=cache))[0]


NEAR = {"f32": (5e-6, 5e-5), "f16": (3e-4, 1.5e-3), "q8": (3e-3, 1.5e-2)}
"""How far logits may be off on average, and at most, by the cache's format: within float32 rounding. A key that lies
between two numbers of a coarser format may be rounded the other way, rarely."""


def assert_near(got, expected, kv_cache="f32"):
    difference = (got - expected).abs()
    mean, most = NEAR[kv_cache]
    assert difference.mean() < mean
    assert difference.max() < most


@pytest.mark.parametrize(
    ("case", "kv_cache"),
    [(case, "f32") for case in CASES]
    + [
        (case, kv_cache)
        for case in ("gemma3", "gemma2", "wide-groups", "relative", "wide-heads")
        for kv_cache in ("f16", "q8")
    ],
)
def test_logits_equal_those_of_the_modules(case, kv_cache, kernels, rounded):
    model = network(case)
    assert why_not(model) is None
    rounded(kv_cache)
    ours = NativeNetwork(model, kv_cache=kv_cache)
    tokens = torch.randint(0, 97, (1, 50 if kernels == "scalar" else 330))
    expected = reference(model, tokens)
    cache = ours.new_cache(1, tokens.shape[1])
    read = tokens.shape[1] - 9
    assert_near(ours.next_logits(tokens[:, :read], cache)[0], expected[read - 1], kv_cache)
    for place in range(read, tokens.shape[1]):  # one at a time, behind keys of several pages
        got = ours.next_logits(tokens[:, place : place + 1], cache)[0]
        assert_near(got, expected[place], kv_cache)


@pytest.mark.parametrize(("case", "kv_cache"), [("llama", "f32"), ("gemma3", "q8"), ("gpt2", "f16")])
def test_unequal_prompts_side_by_side_then_copied_and_dropped(case, kv_cache, rounded):
    model = network(case)
    rounded(kv_cache)
    ours = NativeNetwork(model, kv_cache=kv_cache)
    padding, tokens = torch.tensor([3, 0, 17]), torch.randint(0, 97, (3, 30))
    theirs, mine = model.new_cache(3, 60, padding), ours.new_cache(3, 60, padding)

    def compare(new):
        with torch.no_grad():
            expected = model.next_logits(new, theirs)
        assert_near(ours.next_logits(new, mine), expected, kv_cache)

    compare(tokens)
    theirs.repeat(2)
    mine.repeat(2)
    for _ in range(5):  # copies part ways: none may write where another reads
        compare(torch.randint(0, 97, (6, 1)))
    rows = torch.tensor([5, 0, 1, 1])
    theirs.keep(rows)
    mine.keep(rows)
    for _ in range(20):
        compare(torch.randint(0, 97, (4, 1)))


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_a_sequence_gets_the_same_bits_alone_and_in_company(kv_cache):
    model = network("llama", width=64, mlp_width=96)
    ours = NativeNetwork(model, quantize="q8", kv_cache=kv_cache)
    first, others = torch.randint(0, 97, (1, 40)), torch.randint(0, 97, (6, 40))
    alone = ours.next_logits(first, ours.new_cache(1, 50))
    together = ours.next_logits(torch.cat((others[:4], first, others[4:])), ours.new_cache(7, 50))
    assert torch.equal(alone[0], together[4])


@pytest.mark.parametrize(("threads", "kv_cache"), [(1, "f32"), (2, "f16"), (5, "q8")])
def test_the_number_of_threads_changes_no_bit(threads, kv_cache):
    ours = NativeNetwork(network("gemma3"), kv_cache=kv_cache)
    tokens = torch.randint(0, 97, (1, 600))
    expected = ours.next_logits(tokens, ours.new_cache(1, 600))
    try:
        library.set_threads(threads)
        cache = ours.new_cache(1, 600)
        ours.next_logits(tokens[:, :599], cache)
        assert torch.equal(ours.next_logits(tokens[:, 599:], cache), expected)
    finally:
        library.set_threads(2)


@pytest.mark.parametrize(("quantize", "most"), [("q8", 0.08), ("q4", 0.6)])
def test_own_quantisation_stays_near(quantize, most):
    model = network("llama", width=64, mlp_width=96)
    tokens = torch.randint(0, 97, (1, 60))
    expected = reference(model, tokens)[-1]
    ours = NativeNetwork(model, quantize=quantize)
    got = ours.next_logits(tokens, ours.new_cache(1, 60))[0]
    assert 0 < (got - expected).norm() / expected.norm() < most


def test_losses_equal_those_of_the_modules():
    model = network("llama")
    tokens, targets = torch.randint(0, 97, (2, 150)), torch.randint(0, 97, (2, 150))
    targets[0, 100:] = IGNORED
    targets[1, :20] = IGNORED
    got = NativeNetwork(model).losses(tokens, targets)
    torch.testing.assert_close(got, model.losses(tokens, targets), atol=1e-5, rtol=1e-5)


def test_a_quantisation_that_fits_no_matrix_is_refused():
    """Rows of 48 and 40 numbers are no groups of 32; where some are, the rest is kept and the kinds say so."""
    with pytest.raises(BadInput, match=r"q8 takes rows of a multiple of 32 numbers; .* rows of 40, 48") as caught:
        NativeNetwork(network("llama", width=48, heads=3, kv_heads=1, head_dim=16, mlp_width=40), quantize="q8")
    assert caught.value.remedy == "leave out --quantize"
    mixed = NativeNetwork(network("llama", width=64, mlp_width=40), quantize="q8")
    assert "(F32+Q8_0)" in mixed.decoder.describe()


def test_the_cache_is_as_exact_as_the_weights_and_no_larger():
    """A page has 16 tokens of 2 layers of 2 heads of 16 values, keys and values; 8 bits have a scale for every 32."""
    numbers = 16 * 2 * 2 * 16 * 2
    wide = network("llama", width=64, mlp_width=96)
    for ours, kept, size in (
        (NativeNetwork(wide), "f32", 4 * numbers),
        (NativeNetwork(wide, quantize="q8"), "f16", 2 * numbers),
        (NativeNetwork(wide, quantize="q4", kv_cache="q8"), "q8", numbers + 4 * numbers // 16),
        (NativeNetwork(wide, kv_cache="f16"), "f16", 2 * numbers),
    ):
        assert (ours.runtime.kv_cache, ours.runtime.page_bytes) == (kept, size)


@pytest.mark.parametrize("head_dim", [24, 48, 80])
def test_parts_of_a_head_have_scales_of_their_own(head_dim):
    """Keys are a thousand times smaller behind their first 32 numbers, and the queries as much larger."""
    model = network("llama", head_dim=head_dim, qk_norm="before_rotary", position="none")
    for block in model.blocks:
        block.attention.key_norm.weight.data[32:] *= 1e-3
        block.attention.query_norm.weight.data[32:] *= 1e3
    tokens = torch.randint(0, 97, (1, 100))
    expected = reference(model, tokens)[-1]
    ours = NativeNetwork(model, kv_cache="q8")
    assert ours.runtime.page_bytes == 16 * 2 * 2 * 2 * (head_dim + 4 * -(-head_dim // 32))
    got = ours.next_logits(tokens, ours.new_cache(1, 100))[0]
    assert 1e-5 < (got - expected).norm() / expected.norm() < 3e-2


@pytest.mark.parametrize(("kv_cache", "most"), [("f16", 2e-3), ("q8", 3e-2)])
def test_a_coarser_cache_stays_near(kv_cache, most):
    model = network("llama")
    tokens = torch.randint(0, 97, (1, 200))
    expected = reference(model, tokens)[-1]
    ours = NativeNetwork(model, kv_cache=kv_cache)
    got = ours.next_logits(tokens, ours.new_cache(1, 200))[0]
    assert 1e-5 < (got - expected).norm() / expected.norm() < most


def test_caches_of_two_formats_are_not_copied_into_each_other():
    model = network("llama")
    pages = [Pages(NativeNetwork(model, kv_cache=kv_cache).runtime, 2) for kv_cache in ("f16", "q8")]
    with pytest.raises(ValueError, match="formats"):
        pages[0].copy_from(pages[1], [0], [0])


def test_the_smallest_exact_type_holds_float_weights():
    model = network("llama")
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    kinds = {slot.kind.name for slot in transformer_plan(model, Packing()).matrices}
    assert kinds == {"BF16"}
    assert NativeNetwork(model).runtime.weight_bytes < NativeNetwork(network("llama")).runtime.weight_bytes


def test_what_a_plan_cannot_express_is_said():
    model = network("llama", rope_scaling=RopeScaling("dynamic", 2.0, 64))
    assert "length" in (why_not(model) or "")
    with pytest.raises(Unsupported):
        NativeNetwork(model)
    assert "Linear" in (why_not(torch.nn.Linear(1, 1)) or "")


@pytest.mark.parametrize("changes", [{"cross_width": 8}, {"token_types": 2}])
def test_features_without_an_operation_are_refused_by_name(changes):
    with pytest.raises(Unsupported, match=next(iter(changes))):
        transformer_plan(Transformer(TransformerConfig(**{**BASE, **changes})), Packing())

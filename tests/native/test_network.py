"""Whole networks on the core against the PyTorch modules: logits of every arrangement that a plan can express."""

import pytest
import torch

from zhixing.models.cache import LayerCache
from zhixing.models.config import RopeScaling, TransformerConfig
from zhixing.models.loss import IGNORED
from zhixing.models.transformer import Transformer
from zhixing.native import library
from zhixing.native.network import NativeNetwork, why_not
from zhixing.native.plan import Unsupported, transformer_plan
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
    "positionless": {"position": "none"},
    "vaswani": {
        "norm": "layer", "norm_placement": "residual", "position": "sinusoidal", "gated": False, "activation": "relu",
        "scale_embeddings": True, "head_bias": True, "tied": True, **BIASED,
    },
    "offset": {"position": "learned", "position_offset": 2, "logit_scale": 0.5},
    "relative": {"position": "relative", "attention_scale": 0.3, "relative_buckets": 16, "relative_distance": 100},
}  # fmt: skip


@pytest.fixture(autouse=True)
def half_precision_cache(monkeypatch):
    """The core keeps keys and values in half precision; so does the reference here, that all else can be compared."""
    update = LayerCache.update
    monkeypatch.setattr(
        LayerCache, "update", lambda self, k, v, start: update(self, k.half().float(), v.half().float(), start)
    )


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


def assert_near(got, expected):
    """Within float32 rounding; a key that is rounded the other way to half precision may do a little more, rarely."""
    difference = (got - expected).abs()
    assert difference.mean() < 3e-4
    assert difference.max() < 1.5e-3


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_the_modules(case, kernels):
    model = network(case)
    assert why_not(model) is None
    ours = NativeNetwork(model)
    tokens = torch.randint(0, 97, (1, 50 if kernels == "scalar" else 330))
    expected = reference(model, tokens)
    cache = ours.new_cache(1, tokens.shape[1])
    read = tokens.shape[1] - 9
    assert_near(ours.next_logits(tokens[:, :read], cache)[0], expected[read - 1])
    for place in range(read, tokens.shape[1]):  # one at a time, behind keys of several pages
        got = ours.next_logits(tokens[:, place : place + 1], cache)[0]
        assert_near(got, expected[place])


@pytest.mark.parametrize("case", ["llama", "gemma3", "gpt2"])
def test_unequal_prompts_side_by_side_then_copied_and_dropped(case):
    model = network(case)
    ours = NativeNetwork(model)
    padding, tokens = torch.tensor([3, 0, 17]), torch.randint(0, 97, (3, 30))
    theirs, mine = model.new_cache(3, 60, padding), ours.new_cache(3, 60, padding)

    def compare(new):
        with torch.no_grad():
            expected = model.next_logits(new, theirs)
        assert_near(ours.next_logits(new, mine), expected)

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


def test_a_sequence_gets_the_same_bits_alone_and_in_company():
    model = network("llama", width=64, mlp_width=96)
    ours = NativeNetwork(model, quantize="q8")
    first, others = torch.randint(0, 97, (1, 40)), torch.randint(0, 97, (6, 40))
    alone = ours.next_logits(first, ours.new_cache(1, 50))
    together = ours.next_logits(torch.cat((others[:4], first, others[4:])), ours.new_cache(7, 50))
    assert torch.equal(alone[0], together[4])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads):
    ours = NativeNetwork(network("gemma3"))
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
    torch.testing.assert_close(got, model.losses(tokens, targets), atol=2e-3, rtol=1e-3)


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

"""The fast step against the modules: the same logits for every family, padding, grouped heads and shared weights."""

import dataclasses

import pytest
import torch

from zhixing.families import FAMILIES
from zhixing.models import few_rows
from zhixing.models.config import RopeScaling, TransformerConfig
from zhixing.models.decoding import KNOWN_FIELDS, decode_step, is_fast
from zhixing.models.transformer import Transformer


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Products of a few hundred numbers are slower on two threads, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(family: str, kv_heads: int = 2, **changes: object) -> Transformer:
    heads = 4
    fixed = {**FAMILIES[family].start, **changes}
    config = TransformerConfig(
        vocab_size=53, width=32, layers=2, heads=heads, kv_heads=kv_heads, head_dim=8, mlp_width=40, context=64, **fixed
    )
    model = Transformer(config)
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


CASES = {
    "gpt2": ("gpt2", {"tied": True, "activation": "gelu_tanh"}),
    "llama": ("llama", {}),
    "llama-tied-soft-capped": ("llama", {"tied": True, "logit_softcap": 5.0}),
    "qwen3": ("qwen3", {}),
    "nanochat": ("nanochat", {"logit_softcap": 15.0}),
    "no-positions-biases": (
        "llama", {"position": "none", "attention_bias": True, "mlp_bias": True, "activation": "gelu"},
    ),
    "layer-norm-qk": ("llama", {"norm": "layer", "qk_norm": "before_rotary"}),
    "gemma2": ("gemma2", {"attention_softcap": 3.0, "logit_softcap": 9.0, "window": 6, "window_layers": (True, False),
                          "attention_scale": 0.2, "activation": "gelu_tanh", "tied": True}),
    "gemma3": ("gemma3_text", {"window": 5, "window_layers": (True, False), "local_rope_theta": 30.0,
                               "rope_scaling": RopeScaling("linear", 4.0)}),
    "gpt_neox": ("gpt_neox", {"parallel_residual": True, "rotary_dim": 4, "attention_bias": True,
                              "attention_output_bias": True, "activation": "gelu"}),
    "olmo2": ("olmo2", {}),
    "mistral": ("mistral", {"window": 7}),
    "phi3-longrope": ("phi3", {"window": 9, "rope_scaling": RopeScaling(
        "longrope", 1.0, 14, 1.1, short_factors=(1.0, 1.5, 2.0, 2.5), long_factors=(2.0, 5.0, 8.0, 9.0))}),
    "smollm3-dynamic": ("smollm3", {"rotary_layers": (True, False), "rope_scaling": RopeScaling("dynamic", 4.0, 13)}),
    "layer-norm-offset": ("llama", {"norm": "layer", "norm_offset": 1.0, "qk_norm": "before_rotary",
                                    "qk_norm_scope": "projection"}),
    "layer-norm-weightless": ("llama", {"norm": "layer", "norm_weight": False, "qk_norm": "after_rotary"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_the_fast_step_gives_the_logits_of_the_modules(case, kv_heads, padded):
    family, changes = CASES[case]
    model = make(family, kv_heads, **changes)
    assert is_fast(model)
    tokens = torch.randint(0, 53, (3, 12))
    padding = torch.tensor([0, 4, 2]) if padded else None
    slow, fast = (model.new_cache(3, 30, padding) for _ in range(2))
    model(tokens, cache=slow)
    model(tokens, cache=fast)
    step = decode_step(model, fast)
    for _ in range(5):
        following = torch.randint(0, 53, (3,))
        expected = model(following[:, None], cache=slow)[:, -1]
        torch.testing.assert_close(step(following), expected, atol=2e-5, rtol=1e-4)
    assert fast.length == slow.length == 17


@pytest.mark.parametrize("way", few_rows.WAYS)
@pytest.mark.parametrize("inputs", [16, 15, 7])
@pytest.mark.parametrize("count", [1, 3])
def test_every_way_gives_the_same_product(way, inputs, count):
    rows, weight, bias = torch.randn(count, inputs), torch.randn(7, inputs), torch.randn(7)
    lying = few_rows.joined([weight], way.by_columns)
    expected = rows.double() @ weight.double().t()
    torch.testing.assert_close(way.make(lying, None)(rows).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(way.make(lying, bias)(rows).double(), expected + bias, atol=1e-5, rtol=1e-5)


def test_every_field_of_the_configuration_was_considered():
    # A new field must be computed by the fast step and then listed, or left out so that the modules are used.
    assert {field.name for field in dataclasses.fields(TransformerConfig)} == KNOWN_FIELDS


def test_other_number_types_and_training_go_through_the_modules():
    model = make("llama")
    assert not is_fast(make("llama").to(torch.bfloat16))
    assert not is_fast(make("llama").train())
    half = make("llama").to(torch.bfloat16)
    with torch.inference_mode():
        cache = half.new_cache(1, 8)
        half(torch.tensor([[1, 2]]), cache=cache)
        assert decode_step(half, cache)(torch.tensor([3])).shape == (1, model.config.vocab_size)


def test_sharing_lays_the_weights_out_anew_but_keeps_values_and_trainability():
    model = make("llama", kv_heads=2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tokens = torch.randint(0, 53, (1, 9))
    with torch.inference_mode():
        cache = model.new_cache(1, 16)
        model(tokens, cache=cache)
        decode_step(model, cache, share=True)(torch.tensor([1]))
    attention = model.blocks[0].attention
    assert attention.query.weight.untyped_storage().data_ptr() == attention.value.weight.untyped_storage().data_ptr()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    model.train()
    model.loss_sum(tokens, tokens).backward()
    assert attention.value.weight.grad is not None
    # A second step finds the layout as it is, and sees weights that were changed in place since.
    with torch.no_grad():
        attention.value.weight.zero_()
    parts = (attention.query, attention.key, attention.value)
    joined = few_rows.joined([part.weight.detach() for part in parts], by_columns=False)
    assert joined.data_ptr() == attention.query.weight.data_ptr()
    assert not joined[-1].any()


@pytest.mark.parametrize("case", ["gpt2", "llama-tied-soft-capped", "qwen3", "gemma2", "layer-norm-offset"])
@torch.inference_mode()
def test_weights_that_lie_by_columns_give_the_same_logits(case, monkeypatch):
    family, changes = CASES[case]
    with torch.inference_mode(False):
        model = make(family, 2, **changes)
    way = few_rows.Way(few_rows.split_inputs, by_columns=True)
    monkeypatch.setattr(few_rows, "fastest_way", lambda *shape: way)
    tokens = torch.randint(0, 53, (3, 12))
    slow, fast = model.new_cache(3, 30), model.new_cache(3, 30)
    model(tokens, cache=slow)
    model(tokens, cache=fast)
    with torch.inference_mode(False):
        step = decode_step(model, fast, share=True)
    following = torch.randint(0, 53, (3,))
    expected = make(family, 2, **changes)(torch.cat((tokens, following[:, None]), 1))[:, -1]
    torch.testing.assert_close(step(following), expected, atol=2e-5, rtol=1e-4)
    attention = model.blocks[0].attention
    assert attention.query.weight.stride() == (1, 4 * 8 + 2 * 2 * 8)
    # The modules read the new layout too, without copies: the next prompt, and a second step.
    again = model.new_cache(3, 30)
    torch.testing.assert_close(model(tokens, cache=again)[:, -1], model(tokens)[:, -1], atol=2e-5, rtol=1e-4)
    parts = [attention.query.weight, attention.key.weight, attention.value.weight]
    assert few_rows.joined([part.detach() for part in parts], by_columns=True).data_ptr() == parts[0].data_ptr()
    assert model.output_matrix.stride() == (1, 53)


def test_the_way_is_measured_for_large_matrices_only():
    few_rows._ways.clear()
    assert few_rows.fastest_way(1, 512, 256, True) == few_rows.USUAL
    assert not few_rows._ways
    assert not few_rows.fastest_way(1, 1024, 512).by_columns  # the layout may only change where it was allowed to
    assert few_rows.fastest_way(1, 1024, 512, True) in few_rows.WAYS
    assert set(few_rows._ways) == {(1, 1024, 512, 1, False), (1, 1024, 512, 1, True)}


def test_without_sharing_the_model_is_left_alone():
    model = make("llama")
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    with torch.inference_mode():
        decode_step(model, model.new_cache(1, 8))(torch.tensor([1]))
    assert pointers == [parameter.data_ptr() for parameter in model.parameters()]

"""Adapted maps: the hand-written gradient against automatic differentiation, and training against PEFT's own."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from zhixing.core.errors import BadInput
from zhixing.models import ops
from zhixing.models.adapters import (
    AdaptedLinear,
    LowRankSpec,
    activate,
    adapted,
    attach,
    attach_prompt,
    detach,
    linear_maps,
    merge,
    pack_frozen,
    train_last_layers,
)
from zhixing.models.adapters.products import Term, adapted_linear
from zhixing.models.config import TransformerConfig
from zhixing.models.loss import IGNORED
from zhixing.models.quantized import BlockMatrix
from zhixing.models.transformer import Transformer

CONFIG = TransformerConfig(
    vocab_size=40, width=32, layers=3, heads=4, kv_heads=2, head_dim=8, mlp_width=64, context=64, tied=True
)
TOKENS = torch.randint(0, 40, (2, 21), generator=torch.Generator().manual_seed(5))
TARGETS = torch.where(torch.arange(21) < 9, IGNORED, TOKENS.roll(-1, 1))


@pytest.fixture
def model():
    made = Transformer(CONFIG)
    made.initialise(torch.Generator().manual_seed(0))
    return made.train()


def randomise(model, scale=0.2):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * scale


@pytest.fixture(params=["torch", "onednn"])
def library(request):
    before = ops.matmul_backend()
    ops.set_matmul(request.param)
    yield request.param
    ops.set_matmul(before)


def test_the_gradient_is_that_of_the_formula(library):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 11, 16, generator=generator, requires_grad=True)
    weights = [torch.randn(size, 16, generator=generator) for size in (12, 6, 6)]
    factors = [
        torch.randn(shape, generator=generator, requires_grad=True)
        for shape in ((4, 16), (12, 4), (2, 16), (6, 2), (3, 16), (6, 3))
    ]
    terms = [
        Term(factors[0], factors[1], 0.5, 0),
        Term(factors[2], factors[3], 2.0, 12),
        Term(factors[4], factors[5], -1.0, 12),
    ]
    ours = adapted_linear(x, weights, terms)
    parts = [F.linear(x, weight) for weight in weights]
    for index, term in zip((0, 1, 1), terms, strict=True):
        parts[index] = parts[index] + F.linear(F.linear(x, term.down), term.up) * term.scale
    plain = torch.cat(parts, -1)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
    push = torch.randn(ours.shape, generator=generator)
    inputs = [x, *factors]
    for a, b in zip(
        torch.autograd.grad((ours * push).sum(), inputs), torch.autograd.grad((plain * push).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_a_new_adapter_has_no_effect_and_costs_no_gradient_of_what_is_frozen(model):
    before = model.loss_sum(TOKENS, TARGETS).detach()
    attach(model, LowRankSpec(rank=4))
    loss = model.loss_sum(TOKENS, TARGETS)
    torch.testing.assert_close(loss.detach(), before)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (".adapters." in name), name


@pytest.mark.parametrize("decomposed", [False, True])
def test_the_effective_weight_is_what_the_map_computes(model, decomposed):
    attach(model, LowRankSpec(rank=3, decomposed=decomposed), "one")
    attach(model, LowRankSpec(rank=2, alpha=3.0), "two")
    activate(model, {"one": 0.5, "two": 1.5} if not decomposed else {"one": 1.0})
    for module in adapted(model).values():
        for name in module.adapters:
            torch.nn.init.normal_(module.low_rank(name).up, std=0.3)
    model.eval()
    with torch.no_grad():
        logits = model(TOKENS)
        x = torch.randn(5, 32)
        module = model.get_submodule("blocks.1.attention.query")
        torch.testing.assert_close(module(x), F.linear(x, module.weight), atol=1e-4, rtol=1e-4)
        merge(model)
        torch.testing.assert_close(model(TOKENS), logits, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())


@pytest.mark.parametrize("mixed", [{"one": 1.0, "two": 1.0}, {"one": 0.5, "two": 2.0}])
def test_a_decomposed_adapter_beside_another(model, mixed):
    attach(model, LowRankSpec(rank=3, decomposed=True), "one")
    attach(model, LowRankSpec(rank=2), "two")
    for module in adapted(model).values():
        for name in module.adapters:
            torch.nn.init.normal_(module.low_rank(name).up, std=0.3)
    activate(model, mixed)
    module = model.get_submodule("blocks.0.mlp.down")
    x = torch.randn(4, 64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), F.linear(x, module.weight), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_share_is_a_share_of_what_the_adapter_changes(model, decomposed):
    attach(model, LowRankSpec(rank=3, decomposed=decomposed), "one")
    module = model.get_submodule("blocks.0.mlp.down")
    low = module.low_rank("one")
    torch.nn.init.normal_(low.up, std=0.3)
    if decomposed:
        low.magnitude.data *= 1.5
    x = torch.randn(4, 64)
    with torch.no_grad():
        plain, whole = module.base(x), module(x)
        for share in (0.0, 0.3, -1.0):
            activate(model, {"one": share})
            torch.testing.assert_close(module(x), plain + share * (whole - plain), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(module(x), F.linear(x, module.weight), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_gradients_are_pefts(tmp_path, kind):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    from zhixing.checkpoints.adapters import load_adapter
    from zhixing.checkpoints.folder import load_folder

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    theirs = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=kind == "dora"),
    )
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "a")
    opened = load_folder(tmp_path / "base")
    load_adapter(opened.transformer, opened.family, tmp_path / "a")
    labels = torch.full_like(TOKENS, IGNORED)
    labels[:, 1:] = TARGETS[:, :-1]
    count = int((labels != IGNORED).sum())
    loss = theirs(TOKENS, labels=labels).loss * count
    loss.backward()
    targets = TARGETS.clone()
    targets[:, -1] = IGNORED
    ours = opened.transformer.train().loss_sum(TOKENS, targets)
    ours.backward()
    torch.testing.assert_close(ours, loss, atol=1e-3, rtol=1e-5)
    there = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    kinds = {
        "down": "lora_A.default.weight",
        "up": "lora_B.default.weight",
        "magnitude": "lora_magnitude_vector.default.weight",
    }
    for name, parameter in opened.model.named_parameters():
        if ".adapters." in name:
            path, _, last = name.partition(".adapters.default.")
            published = opened.family.names.to_theirs(f"{path}.weight").removesuffix(".weight")
            torch.testing.assert_close(
                parameter.grad, there[f"base_model.model.{published}.{kinds[last]}"], atol=1e-4, rtol=1e-3
            )


def test_dropout_drops_in_training_only(model):
    attach(model, LowRankSpec(rank=4, dropout=0.5))
    randomise(model)
    torch.manual_seed(0)
    first, second = (float(model.loss_sum(TOKENS, TARGETS).detach()) for _ in range(2))
    assert first != second
    model.eval()
    kept = [float(model.losses(TOKENS, TARGETS).sum()) for _ in range(2)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_packed_base_keeps_no_floats_and_computes_what_its_values_say(model, bits):
    assert pack_frozen(model, bits) == []
    whole = Transformer(CONFIG).train()
    whole.load_state_dict({name: p.data.expanded() if isinstance(p.data, BlockMatrix) else p.data
                           for name, p in model.named_parameters()})  # fmt: skip
    for each in (model, whole):
        attach(each, LowRankSpec(rank=4), generator=torch.Generator().manual_seed(3))
        randomise(each)
    for name, module in linear_maps(model).items():
        assert isinstance(module.base.weight.data, BlockMatrix), name
    assert isinstance(model.embedding.weight.data, BlockMatrix)
    ours, theirs = model.loss_sum(TOKENS, TARGETS), whole.loss_sum(TOKENS, TARGETS)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-5)
    ours.backward()
    theirs.backward()
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-3)
    # What is learned on the packed base is folded into what the packed base says.
    model.eval()
    with torch.no_grad():
        before = model(TOKENS)
        merge(model)
        torch.testing.assert_close(model(TOKENS), before, atol=1e-4, rtol=1e-4)


def test_rows_that_are_no_whole_blocks_are_named(model):
    narrow = Transformer(TransformerConfig(
        vocab_size=40, width=24, layers=1, heads=4, kv_heads=2, head_dim=6, mlp_width=64, context=64, tied=True
    ))  # fmt: skip
    left = pack_frozen(narrow, "int8")
    assert "blocks.0.attention.query" in left
    assert "blocks.0.mlp.down" not in left


def test_the_last_layers_alone(model):
    train_last_layers(model, 1)
    model.loss_sum(TOKENS, TARGETS).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith(("blocks.2.", "final_norm.")), name
    with pytest.raises(BadInput, match="the model has 3"):
        train_last_layers(model, 4)


def test_a_prompt_learns_alone(model):
    table = attach_prompt(model, torch.randn(3, 32) * 0.02)
    tokens = torch.cat((torch.tensor([table.prompt_ids] * 2), TOKENS), dim=1)
    targets = torch.cat((torch.full((2, 3), IGNORED), TARGETS), dim=1)
    model.loss_sum(tokens, targets).backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["embedding.vectors"]
    with pytest.raises(BadInput, match="already"):
        attach_prompt(model, torch.zeros(3, 32))


def test_targets_may_have_the_names_that_peft_gives_them(model):
    attach(model, LowRankSpec(rank=2), targets=["q_proj", "v_proj", "down_proj"])
    own = ("attention.query", "attention.value", "mlp.down")
    assert set(adapted(model)) == {f"blocks.{i}.{name}" for i in range(3) for name in own}
    detach(model)
    attach(model, LowRankSpec(rank=2), targets=["all-linear"])
    everything = set(adapted(model))
    detach(model)
    attach(model, LowRankSpec(rank=2))
    assert everything == set(adapted(model))
    detach(model)
    for wrong in (["all-linear", "nonsense"], [""], ["nonsense"], ["q_proj", "c_projection"]):
        with pytest.raises(BadInput, match=wrong[-1] or "''"):
            attach(model, LowRankSpec(rank=2), targets=wrong)
    with pytest.raises(BadInput, match="gate_up_proj"):
        attach(
            Transformer(dataclasses.replace(model.config, gated=False)), LowRankSpec(rank=2), targets=["gate_up_proj"]
        )


def test_targets_are_named_by_their_endings(model):
    attach(model, LowRankSpec(rank=2), targets=["query", "mlp.down"])
    assert set(adapted(model)) == {f"blocks.{i}.{name}" for i in range(3) for name in ("attention.query", "mlp.down")}
    model.loss_sum(TOKENS, TARGETS).backward()
    detach(model)
    with pytest.raises(BadInput, match="did you mean"):
        attach(model, LowRankSpec(rank=2), targets=["attention.querry"])
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            LowRankSpec(**wrong)

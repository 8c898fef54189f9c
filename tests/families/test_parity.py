"""Every family against `transformers`: tiny random models, both ways, with and without cache, padded, gradients."""

import dataclasses
import json

import pytest
import torch
from benchmarks import family_parity as parity
from benchmarks.family_parity import CASES

from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput
from zhixing.families import FAMILIES, family_for_config
from zhixing.models.decoding import is_fast
from zhixing.models.transformer import Transformer

PLAIN = [name for name, case in CASES.items() if case.scaling is None]
EACH = pytest.mark.parametrize("opened", PLAIN, indirect=True)
MOST = 1e-4


@EACH
def test_their_folder_opens_here_with_the_same_logits(opened):
    _, theirs, ours = opened
    assert parity.loaded(theirs, ours) < MOST


@EACH
def test_our_folder_opens_there_with_the_same_logits(opened, tmp_path):
    _, theirs, ours = opened
    assert parity.saved(theirs, ours, tmp_path / "ours") < MOST


@EACH
def test_token_by_token_through_the_fast_path(opened):
    case, theirs, ours = opened
    assert is_fast(ours.model)
    assert parity.cached(theirs, ours, case) < MOST


@EACH
def test_a_batch_of_unequal_lengths(opened):
    case, theirs, ours = opened
    assert parity.padded(theirs, ours, case) < MOST
    assert parity.padded(theirs, ours, case, fast=False) < MOST


@EACH
def test_gradients_equal_theirs(opened):
    _, theirs, ours = opened
    text, targets = parity.tokens(2, 30), parity.tokens(2, 30, seed=9)
    theirs.zero_grad()
    logits = theirs(text).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    published = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    expected = ours.family.weights_from(published, ours.model.config, "gradients")
    own = dict(ours.model.named_parameters())
    assert own.keys() == expected.keys()
    for training in (True, False):  # either takes operations of its own
        ours.model.train(training).zero_grad()
        ours.model.loss_sum(text, targets).backward()
        for name, parameter in own.items():
            scale = float(expected[name].abs().max())
            assert float((parameter.grad - expected[name]).abs().max()) < 1e-3 * max(scale, 1.0), name
    ours.model.eval()


@EACH
def test_documents_attend_within_themselves_through_windows_too(opened):
    _, _, ours = opened
    first, second = parity.tokens(1, 11), parity.tokens(1, 13, seed=8)
    segments = torch.tensor([[0] * 11 + [1] * 13])
    with torch.no_grad():
        together = ours.model(torch.cat([first, second], 1), segments)
        alone = torch.cat([ours.model(first), ours.model(second)], 1)
    assert parity.greatest(together, alone) < MOST


@EACH
def test_a_saved_configuration_reads_back_equal(opened):
    _, _, ours = opened
    config, family = ours.model.config, ours.family
    values = json.loads(json.dumps(family.config_to(config)))
    assert family_for_config(values, "config.json") is family
    assert family.config_from(values, "config.json") == config
    assert config.parameter_count() == sum(parameter.numel() for parameter in ours.model.parameters())


@EACH
def test_every_tensor_survives_there_and_back(opened):
    _, _, ours = opened
    state = dict(ours.model.named_parameters())
    published = ours.family.weights_to(state, ours.model.config)
    again = ours.family.weights_from(published, ours.model.config, "weights")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_parity_cases_with_a_tied_and_a_separate_head_and_grouped_heads(name):
    configs = [
        FAMILIES[name].config_from(
            getattr(parity.transformers, case.config)(**parity.fresh(case.options)).to_dict(), ""
        )
        for case in CASES.values()
        if case.family == name and case.scaling is None
    ]
    assert {config.tied for config in configs} == {True, False}
    assert any(config.kv_heads < config.heads for config in configs) or name in ("gpt2", "gpt_neox")


NEUTRAL = {
    "rope_scaling": None, "window": None, "attention_softcap": None, "logit_softcap": None, "rotary_dim": None,
    "rotary_layers": (), "local_rope_theta": None, "local_rope_scaling": None, "attention_scale": None,
    "norm_offset": 0.0, "scale_embeddings": False, "parallel_residual": False, "rope_reversed": False,
    "rope_theta": 10_000.0, "activation": "silu",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_mechanism_that_was_left_out_would_be_noticed(name):
    # The comparisons above show something only if each mechanism changes the logits of these tiny models.
    config = config_of(name)
    torch.manual_seed(2)
    whole = Transformer(config).eval()
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, 1.0 - config.norm_offset if parameter.dim() < 2 else 0.0, 0.2)
    tokens = parity.tokens(2, 40)
    with torch.no_grad():
        expected = whole(tokens)
        for field, neutral in NEUTRAL.items():
            if getattr(config, field) == neutral or (field == "rotary_dim" and CASES[name].scaling == "longrope"):
                continue  # longrope's factors are for as many dimensions as they are
            changes = {field: neutral, **({"window_layers": ()} if field == "window" else {})}
            other = Transformer(dataclasses.replace(config, **changes)).eval()
            other.load_state_dict(whole.state_dict())
            assert parity.greatest(other(tokens), expected) > 1e-3, field


def test_a_configuration_that_the_family_cannot_express_is_not_written(tmp_path):
    config = config_of("llama")
    model = Transformer(config)
    for other in FAMILIES.keys() - {"llama", "mistral", "phi3", "smollm3"}:
        with pytest.raises(BadInput, match=f"family '{other}' needs"):
            save_folder(tmp_path / "wrong", model, None, other)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"heads": 3, "kv_heads": 1}, "multiple of the heads"),
        ("llama", {"attention_bias": True}, "on all projections of attention or on none"),
        ("llama", {"window": 4}, "model.window = None"),
        ("phi3", {"head_dim": 10}, "width = heads"),
        ("gpt2", {"kv_heads": 2}, "as many kv_heads as heads"),
        ("gemma2", {"attention_scale": 0.31}, "attention_scale of 1 / sqrt"),
    ],
)
def test_what_would_be_lost_is_refused_before_anything_is_written(family, changes, message):
    with pytest.raises(BadInput, match=message):
        FAMILIES[family].config_to(dataclasses.replace(config_of(family), **changes))


def config_of(name: str):
    case = CASES[name]
    values = getattr(parity.transformers, case.config)(**parity.fresh(case.options)).to_dict()
    return FAMILIES[case.family].config_from(values, "config.json")

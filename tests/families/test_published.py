"""Published folders as they are found: configurations, old names, buffers, wrappers; and what is refused, by name."""

import dataclasses
import json

import pytest
import torch
import transformers
from benchmarks import family_parity as parity
from benchmarks.family_parity import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.families.published_configs import PUBLISHED
from zhixing.checkpoints.folder import load_folder
from zhixing.core.errors import BadInput
from zhixing.core.recipe import ModelRecipe
from zhixing.families import FAMILIES, family_for_config
from zhixing.models.transformer import Transformer
from zhixing.training.networks import model_config


def read(values):
    return family_for_config(values, "config.json").config_from(values, "config.json")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_read_to_the_last_parameter(name):
    values, parameters = PUBLISHED[name]
    config = read(values)
    assert config.parameter_count() == parameters
    if parameters < 2e9:  # builds even the empty modules of transformers in reasonable time
        kind = type(transformers.AutoConfig.for_model(values["model_type"]))
        with torch.device("meta"):
            theirs = transformers.AutoModelForCausalLM.from_config(kind.from_dict(dict(values)))
        assert sum(parameter.numel() for parameter in theirs.parameters()) == parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_written_says_the_same_to_both_versions_of_transformers(name):
    values, _ = PUBLISHED[name]
    config = read(values)
    family = family_for_config(values, "config.json")
    written = json.loads(json.dumps(family.config_to(config)))
    assert read(written) == config
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    assert read(old) == config
    new = {key: value for key, value in written.items() if key not in ("rope_scaling", "rope_theta", "rotary_emb_base")}
    assert read(new) == config
    kind = type(transformers.AutoConfig.for_model(values["model_type"]))
    theirs = {source: kind.from_dict(dict(source_values)).to_dict() for source, source_values in
              (("published", values), ("written", written))}  # fmt: skip
    inert = {"rope_scaling", "rope_parameters", "architectures"}
    if config.window is None:
        inert |= {"sliding_window", "max_window_layers"}
    for key, value in theirs["published"].items():
        if key in written and key not in inert:
            assert theirs["written"][key] == value, key


def test_details_of_well_known_models():
    llama = read(PUBLISHED["llama-3.2-1b"][0])
    assert (llama.rope_scaling.kind, llama.rope_scaling.factor, llama.rope_scaling.original_context) == (
        "llama3", 32.0, 8192,
    )  # fmt: skip
    gemma = read(PUBLISHED["gemma-3-1b"][0])
    assert [gemma.layer_window(layer) for layer in range(7)] == [512] * 5 + [None, 512]
    assert gemma.layer_is_local(0)
    assert not gemma.layer_is_local(5)
    assert (gemma.rope_theta, gemma.local_rope_theta) == (1_000_000.0, 10_000.0)
    assert read(PUBLISHED["qwen2.5-0.5b"][0]).window is None
    assert read(PUBLISHED["mistral-7b-v0.1"][0]).layer_window(31) == 4096
    assert read(PUBLISHED["pythia-70m"][0]).rotary_dim == 16
    assert read(PUBLISHED["phi-4-mini"][0]).rotary_dim == 96
    phi = read(PUBLISHED["phi-3-mini-128k"][0]).rope_scaling
    scaling = {**PUBLISHED["phi-3-mini-128k"][0]["rope_scaling"], "type": "su"}  # as it was called at first
    assert read({**PUBLISHED["phi-3-mini-128k"][0], "rope_scaling": scaling}).rope_scaling == phi
    assert phi.attention_factor == pytest.approx(1.190238, abs=1e-6)
    smollm3 = read(PUBLISHED["smollm3-3b"][0])
    assert [smollm3.layer_rotates(layer) for layer in range(5)] == [True, True, True, False, True]
    assert read({**PUBLISHED["gemma-2-2b"][0], "query_pre_attn_scalar": 144}).attention_scale == pytest.approx(1 / 12)


def test_absent_and_null_differ_where_they_do_in_transformers():
    mistral = {**parity.SMALL, "model_type": "mistral"}
    assert read(mistral).window == 4096
    assert read({**mistral, "sliding_window": None}).window is None
    mistral = {**mistral, "num_attention_heads": 16}
    del mistral["num_key_value_heads"]
    assert read(mistral).kv_heads == 8
    assert read({**mistral, "num_key_value_heads": None}).kv_heads == 16
    gemma = {**parity.SMALL, "model_type": "gemma2"}
    assert (read(gemma).logit_softcap, read(gemma).attention_softcap) == (30.0, 50.0)
    assert read({**gemma, "final_logit_softcapping": None}).logit_softcap is None


def renamed(folder, change):
    """Rewrites the names of the weights in a folder."""
    file = folder / "model.safetensors"
    weights = {change(name): tensor for name, tensor in load_file(file).items()}
    return weights, lambda: save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(("name", "prefix"), [("gpt2", "transformer."), ("gpt_neox-sequential", "gpt_neox."),
                                              ("llama-tied", "model."), ("gemma3_text", "model.")])  # fmt: skip
def test_weights_saved_without_the_outer_class_are_read(name, prefix, tmp_path):
    theirs = parity.published(CASES[name], tmp_path)
    _, save = renamed(tmp_path, lambda old: old.removeprefix(prefix))
    save()
    assert parity.loaded(theirs, load_folder(tmp_path)) < 1e-4


@pytest.mark.parametrize(("name", "buffers"), [
    ("gpt_neox", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.1.attention.masked_bias",
                  "gpt_neox.layers.0.attention.rotary_emb.inv_freq"]),
    ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
    ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]),
])  # fmt: skip
def test_buffers_of_old_versions_are_passed_over(name, buffers, tmp_path):
    theirs = parity.published(CASES[name], tmp_path)
    weights, save = renamed(tmp_path, str)
    weights |= {buffer: torch.ones(1) for buffer in buffers}
    save()
    assert parity.loaded(theirs, load_folder(tmp_path)) < 1e-4


def test_both_names_of_the_head_of_gpt_neox_are_read(tmp_path):
    theirs = parity.published(CASES["gpt_neox"], tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    for head in ("embed_out.weight", "lm_head.weight"):
        _, save = renamed(
            tmp_path, lambda old, head=head: head if old in ("embed_out.weight", "lm_head.weight") else old
        )
        save()
        assert parity.loaded(theirs, load_folder(tmp_path)) < 1e-4
    assert names & {"embed_out.weight", "lm_head.weight"}


def test_fused_tensors_of_the_wrong_size_and_strange_tensors_are_refused_by_name(tmp_path):
    wrongs = {
        "gpt2": "transformer.h.0.attn.c_attn.bias",
        "phi3": "model.layers.0.mlp.gate_up_proj.weight",
        "gpt_neox": "gpt_neox.layers.1.attention.query_key_value.weight",
    }
    for name, wrong in wrongs.items():
        parity.published(CASES[name], tmp_path / name)
        weights, save = renamed(tmp_path / name, str)
        weights[wrong] = torch.ones(7, 3)
        save()
        with pytest.raises(BadInput, match=wrong):
            load_folder(tmp_path / name)
    parity.published(CASES["llama"], tmp_path / "llama")
    weights, save = renamed(tmp_path / "llama", str)
    weights["model.layers.0.self_attn.q_proj.lora_A"] = torch.ones(2)
    save()
    with pytest.raises(BadInput, match="lora_A"):
        load_folder(tmp_path / "llama")


@pytest.mark.parametrize(
    ("case", "field", "value"),
    [
        ("llama", "hidden_act", "quick_gelu"),
        ("llama", "some_new_mechanism", 4),
        ("llama", "some_new_mechanism", 0),
        ("llama", "rope_interleaved", True),
        ("llama", "attention_multiplier", 0.5),
        ("mistral", "layer_types", ["full_attention", "sliding_attention"]),
        ("qwen2", "layer_types", ["chunked_attention"] * 2),
        ("qwen2", "layer_types", ["full_attention"] * 3),
        ("qwen2", "layer_types", ["sliding_attention"] * 2),
        ("qwen2", "max_window_layers", "all"),
        ("qwen2", "use_mrope", True),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt_neox", "rotary_pct", 0.5),
        ("gpt_neox", "rope_theta", 3.0),
        ("gemma2", "use_bidirectional_attention", True),
        ("gemma2", "query_pre_attn_scalar", 0),
        ("gemma2", "sliding_window", None),
        ("gemma3_text", "attn_logit_softcapping", 50.0),
        ("gemma3_text", "rope_parameters", {"rope_type": "default", "rope_theta": 1.0}),
        ("phi3", "lm_head_bias", True),
        ("phi3", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("smollm3", "no_rope_layers", [1]),
        ("smollm3", "no_rope_layers", [1, 2]),
        ("olmo2", "clip_qkv", 8.0),
        ("nanochat", "final_logit_softcapping", -1.0),
    ],
)  # fmt: skip
def test_a_field_that_would_change_the_result_is_refused_by_name(case, field, value):
    values = getattr(transformers, CASES[case].config)(**parity.fresh(CASES[case].options)).to_dict()
    if field == "rope_scaling":
        del values["rope_parameters"]
    values[field] = value
    named = {"rotary_pct": "rotated share", "final_logit_softcapping": "logit_softcap", "rope_scaling": "linear",
             "layer_types": "layer_types|sliding_attention"}  # fmt: skip
    with pytest.raises(BadInput, match=named.get(field, field)) as caught:
        read(values)
    assert "config.json" in str(caught.value)


INNER = [
    "rope_theta", "rope_type", "type", "factor", "full_attention", "sliding_attention", "truncate", "mscale",
    "original_max_position_embeddings", "short_factor", "long_factor", "mscale_all_dim", "partial_rotary_factor",
    "low_freq_factor", "high_freq_factor", "beta_fast", "attention_factor",
]  # fmt: skip
FIELDS = sorted({key for values, _ in PUBLISHED.values() for key in values} - {"model_type"})
FIELDS += ["rope_parameters", "rope_scaling", "use_sliding_window", "layer_types", "no_rope_layers", "dtype"]
LEAVES = st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats() | st.sampled_from(
    ["default", "linear", "dynamic", "yarn", "llama3", "longrope", "su", "silu", "sliding_attention", "x", ""]
)  # fmt: skip
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=6),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(PUBLISHED)),
    changes=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, min_size=1, max_size=2),
)
def test_any_values_give_a_configuration_or_a_message(name, changes):
    try:
        config = read({**PUBLISHED[name][0], **changes})
    except BadInput as error:
        assert "config.json" in str(error)
        return
    family = FAMILIES[PUBLISHED[name][0]["model_type"]]
    try:
        written = json.loads(json.dumps(family.config_to(config)))
    except BadInput:  # what transformers does not open either
        return
    assert read(written) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mamba"}, "unknown architecture 'mamba'"),
        ({"model_type": "mixtral"}, "did you mean 'mistral'"),
        ({"model_type": "qwen2_moe"}, "did you mean 'qwen2'"),
        ({"model_type": "gemma"}, "did you mean 'gemma2'"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClas"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}},
         "Gemma3ForConditionalGeneration reads more than text"),
        ({"model_type": "llava", "vision_config": {}}, "llava reads more than text"),
        ({}, "no 'model_type'"),
    ],
)  # fmt: skip
def test_other_architectures_are_refused_by_name(values, message):
    with pytest.raises(BadInput, match=message):
        read(values)


def test_the_way_that_is_named_out_of_a_multi_modal_wrapper_works(tmp_path):
    text = {**parity.SMALL_GEMMA, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=60, boi_token_index=59,
        eoi_token_index=58,
    )  # fmt: skip
    torch.manual_seed(1)
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(BadInput, match=r"model\.language_model\.save_pretrained"):
        load_folder(tmp_path / "whole")
    whole.model.language_model.save_pretrained(tmp_path / "text")
    ours, tokens = load_folder(tmp_path / "text").model, parity.tokens(2, 20) % 58
    with torch.no_grad():
        assert parity.greatest(ours(tokens), whole(input_ids=tokens).logits) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_model_can_start_from_every_family(name):
    config = model_config(ModelRecipe(family=name, depth=2), vocab_size=300)
    values = FAMILIES[name].config_to(config)
    again = read(json.loads(json.dumps(values)))
    start = {"init_std": config.init_std, "zero_init_outputs": config.zero_init_outputs}  # of no use once trained
    assert dataclasses.replace(again, **start) == config
    with torch.device("meta"):
        assert sum(p.numel() for p in Transformer(config).parameters()) == config.parameter_count()

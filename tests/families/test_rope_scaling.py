"""Every rope scaling of every family against `transformers`, beyond the original length, with and without cache."""

import dataclasses
import math

import pytest
import torch
from benchmarks import family_parity as parity
from benchmarks.family_parity import CASES, ORIGINAL, Case, published
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from zhixing.checkpoints.folder import load_folder
from zhixing.core.errors import BadInput
from zhixing.families import FAMILIES
from zhixing.models.config import RopeScaling
from zhixing.models.rotary import frequencies_at, scaled_frequencies

SCALED = [name for name, case in CASES.items() if case.scaling is not None]
MOST = 1e-4


@pytest.mark.parametrize("opened", SCALED, indirect=True)
def test_scaled_frequencies_give_the_same_logits(opened, tmp_path):
    case, theirs, ours = opened
    assert ours.model.config.rope_scaling is not None
    assert ours.model.config.rope_scaling.kind == case.scaling
    assert parity.loaded(theirs, ours) < MOST
    assert parity.saved(theirs, ours, tmp_path / "ours") < MOST
    assert parity.cached(theirs, ours, case) < MOST


@pytest.mark.parametrize("opened", [f"llama-{kind}" for kind in parity.scalings(4)] + ["phi3-longrope"], indirect=True)
def test_scaled_frequencies_in_a_padded_batch_and_through_the_modules(opened):
    case, theirs, ours = opened
    assert parity.cached(theirs, ours, case, fast=False) < MOST
    assert parity.padded(theirs, ours, case) < MOST
    assert parity.padded(theirs, ours, case, fast=False) < MOST


@pytest.mark.parametrize("opened", ["phi3-longrope"], indirect=True)
def test_longrope_writes_what_generate_of_transformers_writes_across_the_bound(opened):
    _, theirs, ours = opened
    text = parity.tokens(1, ORIGINAL - 4)
    expected = theirs.generate(text, max_new_tokens=12, min_new_tokens=12, do_sample=False)[0, text.shape[1] :]
    with torch.no_grad():
        cache, written = ours.model.new_cache(1, 40), []
        logits = ours.model.next_logits(text, cache)
        for _ in range(12):
            logits[:, 1] = -math.inf  # the end of text, which min_new_tokens forbids
            written.append(int(logits.argmax()))
            logits = ours.model.next_logits(torch.tensor([[written[-1]]]), cache)
    assert written == expected.tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_fast": 20.0, "beta_slow": 2.0},
        {"truncate": False},
        {"attention_factor": 1.3},
        {"mscale": 0.707, "mscale_all_dim": 1.1},
        {"factor": 0.5},
        {"original_max_position_embeddings": None},
    ],
    ids=str,
)
def test_options_of_yarn(changes, tmp_path):
    values = {**parity.scalings(4)["yarn"], **changes}
    values = {key: value for key, value in values.items() if value is not None}
    case = Case("llama", "LlamaConfig", {**parity.SMALL, "rope_parameters": values}, "yarn")
    theirs = published(case, tmp_path)
    assert parity.loaded(theirs, load_folder(tmp_path)) < MOST


@settings(max_examples=30, deadline=None)
@given(
    dim=st.sampled_from([4, 8, 16, 64]),
    theta=st.floats(10.0, 1e6),
    factor=st.floats(1.0, 64.0),
    original=st.integers(4, 8192),
    more=st.integers(1, 10_000),
)
def test_frequencies_equal_theirs_for_any_sizes(dim, theta, factor, original, more):
    fields = {"rope_theta": theta, "factor": factor, "original_max_position_embeddings": original}
    lists = {"short_factor": [1.0 + i for i in range(dim // 2)], "long_factor": [2.0 + i for i in range(dim // 2)]}
    own = {
        "linear": RopeScaling("linear", factor),
        "dynamic": RopeScaling("dynamic", factor, original),
        "yarn": RopeScaling("yarn", factor, original),
        "llama3": RopeScaling("llama3", factor, original),
        "longrope": RopeScaling(
            "longrope", 1.0, original, short_factors=tuple(lists["short_factor"]),
            long_factors=tuple(lists["long_factor"]),
        ),
    }  # fmt: skip
    for kind, scaling in own.items():
        extra = lists if kind == "longrope" else {"low_freq_factor": 1.0, "high_freq_factor": 4.0}

        class Config:
            head_dim, hidden_size, num_attention_heads, max_position_embeddings = dim, dim, 1, original
            rope_parameters = {**fields, **(extra if kind in ("longrope", "llama3") else {})}  # noqa: RUF012

            def standardize_rope_params(self):
                pass

        for length in (original, original + more):
            expected, _ = ROPE_INIT_FUNCTIONS[kind](Config(), "cpu", seq_len=torch.tensor(length))
            if scaling.depends_on_length:
                result = frequencies_at(theta, dim, scaling, torch.tensor(length))
            else:
                result = scaled_frequencies(theta, dim, scaling)
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_type": "llama4"}, "'llama4' is not supported"),
        ({"rope_type": "linear"}, "has no field 'factor'"),
        ({"rope_type": "linear", "factor": "x"}, "'factor' must be a number"),
        ({"rope_type": "linear", "factor": -1.0}, "factor must be above 0"),
        ({"rope_type": "linear", "factor": 2.0, "mrope_section": [1]}, "unknown field 'mrope_section'"),
        ({"rope_type": "dynamic", "factor": 0.5}, "factor of at least 1"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}, "low_freq_factor"),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}, "must be 4 numbers above 0"),
        ({"rope_type": "longrope", "short_factor": 3, "long_factor": [1.0]}, "must be a list"),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}, "betas above 0"),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": "x"}, "truncate must be true or false"),
        ({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}, "rope_theta above 1"),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}, "original context"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scalings_that_give_no_frequencies_are_refused(values, message):
    config = {**parity.SMALL, "model_type": "llama", "rope_scaling": values}
    with pytest.raises(BadInput, match=message):
        FAMILIES["llama"].config_from(config, "config.json")


def test_contradictions_are_refused():
    linear, dynamic = ({"rope_type": kind, "factor": 2.0} for kind in ("linear", "dynamic"))
    llama = FAMILIES["llama"]
    with pytest.raises(BadInput, match="contradict"):
        llama.config_from({**parity.SMALL, "rope_scaling": linear, "rope_parameters": dynamic}, "config.json")
    with pytest.raises(BadInput, match=r"is given as 5\.0 and as 6\.0"):
        llama.config_from({**parity.SMALL, "rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, "config.json")


def test_dynamic_scaling_reaches_beyond_the_published_length():
    llama = FAMILIES["llama"]
    config = llama.config_from({**parity.SMALL, "rope_scaling": {"type": "dynamic", "factor": 2.5}}, "config.json")
    assert (config.context, config.rope_scaling.original_context) == (160, 64)
    written = llama.config_to(config)
    assert (written["max_position_embeddings"], written["rope_scaling"]["rope_type"]) == (64, "dynamic")
    assert FAMILIES["olmo2"].config_to(
        dataclasses.replace(config, norm_placement="post", qk_norm="before_rotary", qk_norm_scope="projection")
    )["rope_scaling"] == {"type": "dynamic", "factor": 2.5}
    gemma = FAMILIES["gemma3_text"]
    local = RopeScaling("dynamic", 2.0, 128)
    config = gemma.config_from({**parity.SMALL_GEMMA, "model_type": "gemma3_text"}, "config.json")
    with pytest.raises(BadInput, match="starts from the published context"):
        gemma.config_to(dataclasses.replace(config, local_rope_scaling=local))

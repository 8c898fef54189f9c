"""generation_config.json: every field that changes the text is followed or named in a note."""

import json

import pytest
import torch
from oracle import save

import zhixing
from zhixing.core.errors import BadInput
from zhixing.generation import SamplingOptions, options_from_config, options_named
from zhixing.generation.published import ELSEWHERE, REFUSED, TAKEN
from zhixing.models import ops

transformers = pytest.importorskip("transformers")

CHANGED = {
    "temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5, "top_h": 0.5, "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1, "repetition_penalty": 1.5, "encoder_repetition_penalty": 1.5, "presence_penalty": 0.5,
    "frequency_penalty": 0.5, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2,
    "sequence_bias": [[[1, 2], 0.5]], "bad_words_ids": [[1, 2]], "suppress_tokens": [1], "begin_suppress_tokens": [1],
    "exponential_decay_length_penalty": [3, 1.1], "forced_bos_token_id": 3, "forced_eos_token_id": [3],
    "remove_invalid_values": True, "renormalize_logits": True, "min_new_tokens": 3, "min_length": 5,
    "max_new_tokens": 9, "max_length": 99, "max_time": 3.5, "stop_strings": ["x"], "eos_token_id": [3, 4],
    "num_return_sequences": 2, "num_beams": 4, "length_penalty": 0.5, "early_stopping": "never",
    "num_beam_groups": 2, "diversity_penalty": 0.5, "penalty_alpha": 0.5, "guidance_scale": 1.5,
    "whole_characters": True,
}  # fmt: skip
COMPANIONS = {"num_beam_groups": {"num_beams": 4, "diversity_penalty": 0.5}, "penalty_alpha": {"top_k": 4}}


def test_every_field_of_transformers_is_in_one_list():
    fields = set(transformers.GenerationConfig().__dict__) - {"generation_kwargs"}
    known = [set(TAKEN), set(ELSEWHERE), set(REFUSED)]
    assert not fields - set.union(*known)
    assert sum(map(len, known)) == len(set.union(*known))
    assert set(CHANGED) == set(TAKEN)


@pytest.mark.parametrize("field", TAKEN)
def test_a_field_that_is_taken_changes_its_option_and_needs_no_note(field):
    values = {field: CHANGED[field], **COMPANIONS.get(field, {})}
    options, notes = options_from_config(values, "file")
    assert getattr(options, TAKEN[field]) != getattr(SamplingOptions(), TAKEN[field])
    assert not notes
    assert TAKEN[field] in options_named(values)


@pytest.mark.parametrize("field", [*REFUSED, "something_new"])
def test_a_field_that_is_not_followed_is_named(field):
    _, notes = options_from_config({field: {"a": 1}}, "some/file")
    assert len(notes) == 1
    assert notes[0].startswith(f"some/file: {field} = ")
    assert not options_from_config({field: None}, "some/file")[1]


def test_transformers_defaults_change_nothing_and_need_no_note():
    values = transformers.GenerationConfig()._get_default_generation_params()
    options, notes = options_from_config(values, "file")
    assert options == SamplingOptions(temperature=0.0, top_k=50)
    assert not notes


def test_lengths_rule_each_other_as_in_transformers():
    assert options_from_config({"max_length": 20}, "f")[0] == SamplingOptions()
    both = options_from_config({"max_length": 500, "max_new_tokens": 9, "min_length": 3, "min_new_tokens": 2}, "f")[0]
    assert both == SamplingOptions(max_tokens=9, min_tokens=2)
    long = options_from_config({"max_length": 500, "min_length": 3}, "f")[0]
    assert (long.max_tokens, long.max_length) == (500, 500)
    given = long.replace(max_tokens=7, min_tokens=1)
    assert (given.max_tokens, given.max_length, given.min_length) == (7, None, 0)


def test_whether_something_is_drawn():
    assert options_from_config({"do_sample": False, "temperature": 0.6}, "f")[0].greedy
    beams = options_from_config({"do_sample": True, "num_beams": 3}, "f")[0]
    assert beams.beam_sampling
    assert not options_from_config({"do_sample": False, "num_beams": 3}, "f")[0].beam_sampling
    options, notes = options_from_config({"do_sample": True, "penalty_alpha": 0.6, "top_k": 4}, "f")
    assert not options.contrastive
    assert "penalty_alpha has no effect beside do_sample" in notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_p": 3}, r"here/generation_config\.json: top_p must be above 0, up to 1, got 3"),
        ({"bad_words_ids": [[]]}, "bad_words must be made of lists"),
        ({"sequence_bias": [[[1], "much"]]}, "logit_bias must be a number"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "4 beams cannot be shared out evenly"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(values, message):
    with pytest.raises(BadInput, match=message):
        options_from_config(values, "here/generation_config.json")


FILES = {
    "greedy": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "max_new_tokens": 15},
    "lengths": {"do_sample": False, "max_length": 18, "min_length": 12, "eos_token_id": [7, 31, 4]},
    "words": {"do_sample": False, "max_new_tokens": 15, "bad_words_ids": [[17], [3, 4]], "suppress_tokens": [21, 22],
              "begin_suppress_tokens": [4, 27], "sequence_bias": [[[4], -3.0], [[9, 5], 4.0]]},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.3, "max_new_tokens": 9,
              "early_stopping": True, "eos_token_id": [7, 12, 20], "renormalize_logits": True},
    "ends": {"do_sample": False, "max_new_tokens": 9, "forced_eos_token_id": 5, "eos_token_id": 5,
             "exponential_decay_length_penalty": [2, 1.05], "min_new_tokens": 3},
    "guided": {"do_sample": False, "max_new_tokens": 9, "guidance_scale": 1.8, "encoder_repetition_penalty": 1.4},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_folder_writes_what_transformers_writes_with_its_file(name, tmp_path, monkeypatch):
    monkeypatch.setattr(ops, "select_matmul", lambda: None)
    save(tmp_path)
    values = {"pad_token_id": 0, **FILES[name]}
    (tmp_path / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours = zhixing.load(tmp_path)
    assert not ours.notes
    for prompt in ([5, 4, 22, 3, 9, 5, 9], [9, 5]):
        expected = theirs.generate(torch.tensor([prompt])).tolist()
        answers = ours.complete(prompt)
        assert len(answers) == len(expected) == FILES[name].get("num_return_sequences", 1)
        for answer, tokens in zip(answers, expected, strict=True):
            assert answer.tokens == tokens[len(prompt) : len(prompt) + len(answer.tokens)]
            ended = answer.tokens[-1] in (ours.options.end_tokens or ())
            assert ended or len(prompt) + len(answer.tokens) == len(tokens)

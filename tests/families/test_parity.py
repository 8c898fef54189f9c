"""Every family against `transformers`: logits of a tiny random model, both ways, and refusal of what is not known."""

import json

import pytest
import torch

from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.core.errors import BadInput
from zhixing.families import FAMILIES, family_for_config
from zhixing.models.transformer import Transformer

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 100.0}  # fmt: skip
CASES = {
    "gpt2": ("GPT2Config", {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
                            "bos_token_id": 0, "eos_token_id": 1}),
    "gpt2-untied": ("GPT2Config", {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
                                   "n_inner": 40, "tie_word_embeddings": False, "activation_function": "relu",
                                   "bos_token_id": 0, "eos_token_id": 1}),
    "llama": ("LlamaConfig", SMALL),
    "llama-tied": ("LlamaConfig", {**SMALL, "tie_word_embeddings": True, "head_dim": 10, "rms_norm_eps": 1e-3,
                                   "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama-biases-llama3": ("LlamaConfig", {**SMALL, "attention_bias": True, "mlp_bias": True,
                                           "hidden_act": "gelu", "rope_parameters": LLAMA3}),
    "llama-linear": ("LlamaConfig", {**SMALL, "rope_parameters": {"rope_type": "linear", "factor": 3.0}}),
    "llama-yarn": ("LlamaConfig", {**SMALL, "rope_parameters": {"rope_type": "yarn", "factor": 4.0,
                                                                "original_max_position_embeddings": 16}}),
    "llama-dynamic": ("LlamaConfig", {**SMALL, "max_position_embeddings": 16,
                                      "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}),
    "llama-longrope": ("LlamaConfig", {**SMALL, "rope_parameters": {
        "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 4.0, 8.0, 9.0]}}),
    "mistral": ("MistralConfig", {**SMALL, "sliding_window": 9}),
    "mistral-full": ("MistralConfig", {**SMALL, "sliding_window": None}),
    "qwen2": ("Qwen2Config", SMALL),
    "qwen2-windows": ("Qwen2Config", {**SMALL, "use_sliding_window": True, "sliding_window": 7,
                                      "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {**SMALL, "head_dim": 16}),
    "nanochat": ("NanoChatConfig", SMALL),
    "nanochat-uncapped": ("NanoChatConfig", {**SMALL, "final_logit_softcapping": None, "num_key_value_heads": 4,
                                             "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
}  # fmt: skip


@pytest.fixture(params=CASES)
def published(request, tmp_path):
    """A tiny random model saved by `transformers`, and the model itself."""
    kind, options = CASES[request.param]
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "published")
    return tmp_path / "published", model


def test_their_folder_opens_here_with_the_same_logits(published):
    folder, theirs = published
    ours = load_folder(folder).model
    tokens = torch.randint(0, 61, (3, 40))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_our_folder_opens_there_with_the_same_logits(published, tmp_path):
    folder, theirs = published
    opened = load_folder(folder)
    save_folder(tmp_path / "ours", opened.model, None, opened.family.name)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokens = torch.randint(0, 61, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(tokens).logits, theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_gradients_equal_theirs(published):
    folder, theirs = published
    opened = load_folder(folder)
    tokens, targets = torch.randint(0, 61, (2, 30)), torch.randint(0, 61, (2, 30))
    opened.model.loss_sum(tokens, targets).backward()
    logits = theirs(tokens).logits
    torch.nn.functional.cross_entropy(logits.view(-1, 61), targets.view(-1), reduction="sum").backward()
    published_gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    expected = opened.family.weights_from(published_gradients, opened.model.config, "gradients")
    own = dict(opened.model.named_parameters())
    assert own.keys() <= expected.keys()
    for name, parameter in own.items():
        torch.testing.assert_close(parameter.grad, expected[name], atol=2e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_parity_case(name):
    assert name in CASES


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("llama", "hidden_act", "quick_gelu"),
        ("llama", "rope_scaling", {"rope_type": "llama4", "factor": 8.0}),
        ("llama", "some_new_mechanism", 4),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
    ],
)
def test_a_field_that_would_change_the_result_is_refused_by_name(family, field, value):
    kind, options = CASES[family]
    values = getattr(transformers, kind)(**options).to_dict()
    values[field] = value
    with pytest.raises(BadInput, match="rope scaling" if field == "rope_scaling" else field):
        family_for_config(values, "config.json").config_from(values, "config.json")


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(BadInput, match="mamba"):
        family_for_config({"model_type": "mamba"}, "config.json")


def test_a_configuration_that_the_family_cannot_express_is_not_written(tmp_path, published):
    opened = load_folder(published[0])
    other = "gpt2" if opened.family.name != "gpt2" else "llama"
    with pytest.raises(BadInput, match=f"family '{other}' needs"):
        save_folder(tmp_path / "wrong", opened.model, None, other)
    assert not (tmp_path / "wrong").exists()


def test_saved_config_is_plain_json(published, tmp_path):
    opened = load_folder(published[0])
    save_folder(tmp_path / "ours", opened.model, None, opened.family.name)
    values = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert values["model_type"] == opened.family.name
    with torch.device("meta"):
        Transformer(opened.family.config_from(values, "config.json"))

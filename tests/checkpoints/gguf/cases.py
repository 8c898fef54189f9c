"""Tiny models of every family that GGUF can hold, as configurations of `transformers`."""

import torch
import transformers

from zhixing.checkpoints.folder import ModelFolder
from zhixing.families import family_for_config
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

VOCABULARY = 288
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 128, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip
GEMMA = {**SMALL, "head_dim": 32, "sliding_window": 7, "pad_token_id": 0, "query_pre_attn_scalar": 32}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0 + i / 8 for i in range(8)],
            "long_factor": [2.0 + i for i in range(8)]}  # fmt: skip

CASES = {
    "llama": ("LlamaConfig", SMALL),
    "llama-tied": ("LlamaConfig", {**SMALL, "tie_word_embeddings": True, "head_dim": 32, "rms_norm_eps": 1e-3}),
    "llama-biases": ("LlamaConfig", {**SMALL, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("LlamaConfig", {**SMALL, "rope_parameters": LLAMA3}),
    "llama-linear": ("LlamaConfig", {**SMALL, "rope_parameters": LINEAR}),
    "llama-yarn": ("LlamaConfig", {**SMALL, "rope_parameters": YARN}),
    "mistral": ("MistralConfig", {**SMALL, "sliding_window": None}),
    "mistral-window": ("MistralConfig", {**SMALL, "sliding_window": 7}),
    "qwen2": ("Qwen2Config", {**SMALL, "tie_word_embeddings": True}),
    "qwen2-yarn": ("Qwen2Config", {**SMALL, "rope_parameters": YARN}),
    "qwen3": ("Qwen3Config", {**SMALL, "head_dim": 32}),
    "gemma2": ("Gemma2Config", {**GEMMA, "num_hidden_layers": 3}),
    "gemma3": ("Gemma3TextConfig", {**GEMMA, "num_hidden_layers": 7}),
    "gemma3-linear": ("Gemma3TextConfig", {**GEMMA, "num_hidden_layers": 6, "rope_parameters": {
        "full_attention": {**LINEAR, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}),
    "phi3": ("Phi3Config", {**SMALL, "pad_token_id": 0}),
    "phi3-window": ("Phi3Config", {**SMALL, "sliding_window": 7, "pad_token_id": 0, "tie_word_embeddings": True}),
    "phi3-partial": ("Phi3Config", {**SMALL, "pad_token_id": 0, "partial_rotary_factor": 0.75}),
    "phi3-longrope": ("Phi3Config", {**SMALL, "pad_token_id": 0, "rope_parameters": LONGROPE,
                                     "original_max_position_embeddings": 32}),
    "olmo2": ("Olmo2Config", {**SMALL, "pad_token_id": 0}),
    "smollm3": ("SmolLM3Config", {**SMALL, "num_hidden_layers": 4}),
    "gpt2": ("GPT2Config", GPT2),
    "gpt2-separate": ("GPT2Config", {**GPT2, "n_inner": 96, "tie_word_embeddings": False}),
    "gpt_neox": ("GPTNeoXConfig", NEOX),
    "gpt_neox-sequential": ("GPTNeoXConfig", {**NEOX, "use_parallel_residual": False, "tie_word_embeddings": True}),
}  # fmt: skip
"""Name -> configuration class and its arguments."""

REFUSED = {
    "upper windows": ("Qwen2Config", {**SMALL, "use_sliding_window": True, "sliding_window": 7,
                                      "max_window_layers": 1}, "sliding_window = 7"),
    "dynamic scaling": ("LlamaConfig", {**SMALL, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
                        "dynamic"),
    "an activation": ("LlamaConfig", {**SMALL, "hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    "another activation": ("GPT2Config", {**GPT2, "activation_function": "relu"}, "activation_function = 'relu'"),
    "biases": ("Qwen3Config", {**SMALL, "attention_bias": True}, "attention_bias = True"),
    "a scale": ("Gemma2Config", {**GEMMA, "query_pre_attn_scalar": 24}, "query_pre_attn_scalar = 24"),
    "no caps": ("Gemma2Config", {**GEMMA, "attn_logit_softcapping": None}, "has no caps"),
    "another pattern": ("Gemma3TextConfig", {**GEMMA, "layer_types": ["full_attention", "sliding_attention"]},
                        "layer_types"),
    "a family": ("NanoChatConfig", SMALL, "'nanochat' cannot be written"),
}  # fmt: skip
"""What GGUF cannot express, with a part of the message."""


def fresh(value):
    """A deep copy: the configuration classes write into the mappings that they are given."""
    if isinstance(value, dict):
        return {key: fresh(item) for key, item in value.items()}
    return [fresh(item) for item in value] if isinstance(value, list) else value


def published_config(name, table=CASES):
    kind, options = table[name][:2]
    values = getattr(transformers, kind)(**fresh(options)).to_dict()
    return {key: value for key, value in values.items() if key not in ("dtype", "architectures")}


def byte_tokenizer(rows=VOCABULARY):
    return train_tokenizer([], "byte").tokenizer


def model_folder(name, tmp_path, table=CASES, tokenizer=None, seed=0):
    """A model of one case with random weights, norms and biases included."""
    values = published_config(name, table)
    family = family_for_config(values, name)
    model = Transformer(family.config_from(values, name)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15, generator=generator)
            else:
                middle = 0.0 if key.endswith("bias") or family.name.startswith("gemma") else 1.0
                parameter.uniform_(middle - 0.5, middle + 0.5, generator=generator)
    return ModelFolder(model, tokenizer, family, tmp_path / name, {"eos_token_id": [1]})


def texts(batch=2, length=40, seed=4):
    """Random tokens, more of them than the windows and original lengths hold."""
    return torch.randint(2, VOCABULARY - 30, (batch, length), generator=torch.Generator().manual_seed(seed))

"""Tiny random models of every family, and how far their logits here are from those of `transformers`.

The tests ask for the differences to be small; `benchmarks/families.py` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from zhixing.checkpoints.folder import ModelFolder, save_folder
from zhixing.models.decoding import decode_step

VOCABULARY = 61
ORIGINAL = 16
"""Context that the scaled rotary frequencies were made for; the texts below are longer."""

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 64, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
SMALL_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0,
    "eos_token_id": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
SMALL_NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
SMALL_GEMMA = {**SMALL, "num_hidden_layers": 3, "head_dim": 16, "sliding_window": 7, "pad_token_id": 0}


@dataclass(frozen=True)
class Case:
    """One tiny model.

    Attributes:
        family: Its `model_type`.
        config: Its configuration class in `transformers`.
        options: What the class is called with.
        scaling: Kind of rope scaling, if any.
    """

    family: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scaling: str | None = None


def scalings(half: int) -> dict[str, dict[str, Any]]:
    """Returns rotary fields of every kind of scaling, for heads that rotate `2 * half` dimensions."""
    original = {"original_max_position_embeddings": ORIGINAL}
    return {
        "linear": {"rope_type": "linear", "factor": 3.0},
        "dynamic": {"rope_type": "dynamic", "factor": 4.0},
        "yarn": {"rope_type": "yarn", "factor": 4.0, **original},
        "llama3": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **original},
        "longrope": {
            "rope_type": "longrope", "factor": 4.0, **original,
            "short_factor": [1.0 + 0.25 * i for i in range(half)], "long_factor": [2.0 + i for i in range(half)],
        },
    }  # fmt: skip


def _cases() -> dict[str, Case]:
    cases = {
        "gpt2": Case("gpt2", "GPT2Config", SMALL_GPT2),
        "gpt2-separate-head": Case("gpt2", "GPT2Config", {
            **SMALL_GPT2, "n_inner": 48, "tie_word_embeddings": False, "activation_function": "relu"}),
        "gpt_neox": Case("gpt_neox", "GPTNeoXConfig", {**SMALL_NEOX, "hidden_size": 64}),
        "gpt_neox-sequential": Case("gpt_neox", "GPTNeoXConfig", {
            **SMALL_NEOX, "use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}}),
        "llama": Case("llama", "LlamaConfig", {**SMALL, "num_key_value_heads": 1}),
        "llama-tied": Case("llama", "LlamaConfig", {
            **SMALL, "tie_word_embeddings": True, "head_dim": 10, "rms_norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        "llama-biases": Case("llama", "LlamaConfig", {
            **SMALL, "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
        "mistral": Case("mistral", "MistralConfig", {**SMALL, "sliding_window": 7}),
        "mistral-no-window": Case("mistral", "MistralConfig", {
            **SMALL, "sliding_window": None, "tie_word_embeddings": True, "head_dim": 12}),
        "qwen2": Case("qwen2", "Qwen2Config", {**SMALL, "tie_word_embeddings": True}),
        "qwen2-windows": Case("qwen2", "Qwen2Config", {
            **SMALL, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
        "qwen3": Case("qwen3", "Qwen3Config", {**SMALL, "head_dim": 16, "tie_word_embeddings": True}),
        "qwen3-windows": Case("qwen3", "Qwen3Config", {
            **SMALL, "head_dim": 8, "use_sliding_window": True, "sliding_window": 7, "attention_bias": True,
            "layer_types": ["sliding_attention", "full_attention"]}),
        "gemma2": Case("gemma2", "Gemma2Config", {**SMALL_GEMMA, "query_pre_attn_scalar": 24}),
        "gemma2-uncapped": Case("gemma2", "Gemma2Config", {
            **SMALL_GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None,
            "tie_word_embeddings": False, "num_key_value_heads": 4}),
        "gemma3_text": Case("gemma3_text", "Gemma3TextConfig", {
            **SMALL_GEMMA, "num_key_value_heads": 1, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}),
        "gemma3_text-separate-head": Case("gemma3_text", "Gemma3TextConfig", {
            **SMALL_GEMMA, "tie_word_embeddings": False, "query_pre_attn_scalar": 9, "final_logit_softcapping": 5.0,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        "phi3": Case("phi3", "Phi3Config", {**SMALL, "sliding_window": 7, "pad_token_id": 0}),
        "phi3-partial": Case("phi3", "Phi3Config", {
            **SMALL, "num_key_value_heads": 4, "pad_token_id": 0, "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75}),
        "olmo2": Case("olmo2", "Olmo2Config", {**SMALL, "pad_token_id": 0}),
        "olmo2-tied": Case("olmo2", "Olmo2Config", {
            **SMALL, "tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 4}),
        "smollm3": Case("smollm3", "SmolLM3Config", {**SMALL, "no_rope_layers": [1, 0]}),
        "smollm3-windows": Case("smollm3", "SmolLM3Config", {
            **SMALL, "num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 7,
            "tie_word_embeddings": False}),
        "nanochat": Case("nanochat", "NanoChatConfig", SMALL),
        "nanochat-uncapped": Case("nanochat", "NanoChatConfig", {
            **SMALL, "final_logit_softcapping": None, "num_key_value_heads": 4, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    }  # fmt: skip
    for name in ("gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3",
                 "nanochat"):  # fmt: skip
        base = cases[name]
        width, heads = base.options["hidden_size"], base.options["num_attention_heads"]
        head_dim = base.options.get("head_dim", width // heads)
        for kind, values in scalings(head_dim // 8 if name == "gpt_neox" else head_dim // 2).items():
            if name == "phi3" and kind != "longrope":
                continue  # the family has no other
            options = {**base.options, "rope_parameters": values}
            if kind == "dynamic":
                options["max_position_embeddings"] = ORIGINAL
            if name == "gemma3_text":
                options["rope_parameters"] = {
                    "full_attention": values,
                    "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
                }
            if name == "phi3":
                del values["factor"]
                options["original_max_position_embeddings"] = ORIGINAL
            cases[f"{name}-{kind}"] = Case(name, base.config, options, kind)
    return cases


CASES = _cases()


def fresh(values: Any) -> Any:
    """A deep copy: the configuration classes write into the mappings that they are given."""
    if isinstance(values, Mapping):
        return {key: fresh(value) for key, value in values.items()}
    return [fresh(value) for value in values] if isinstance(values, list) else values


def published(case: Case, folder: Path, seed: int = 3) -> Any:
    """Builds the model in `transformers` with every weight random, saves it into the folder and returns it."""
    torch.manual_seed(seed)
    config = getattr(transformers, case.config)(**fresh(case.options))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
        else:  # norms and biases, far from their neutral values; Gemma's norms are distances from one
            neutral = 0.0 if case.family.startswith("gemma") else 1.0
            torch.nn.init.uniform_(parameter, neutral - 0.5, neutral + 0.5)
    model.save_pretrained(folder)
    return model


def reopened(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Opens a folder in `transformers`; returns the model and the report about missing and unexpected weights."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    return model.eval(), report


def tokens(*shape: int, seed: int = 4) -> Tensor:
    """Random tokens."""
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def greatest(ours: Tensor, theirs: Tensor) -> float:
    """Returns the greatest difference; infinite where a number is missing."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: {tuple(ours.shape)} and {tuple(theirs.shape)}")
    return float((ours - theirs).abs().nan_to_num(nan=float("inf")).max())


@torch.no_grad()
def loaded(theirs: Any, ours: ModelFolder) -> float:
    """Difference over a text longer than the windows and the original context."""
    text = tokens(2, 40)
    return greatest(ours.model(text), theirs(text).logits)


@torch.no_grad()
def saved(theirs: Any, ours: ModelFolder, folder: Path) -> float:
    """The same after the model was saved here and opened there; infinite where weights were missing or left over."""
    save_folder(folder, ours.model, None, ours.family.name)
    again, report = reopened(folder)
    if report["missing_keys"] or report["unexpected_keys"]:
        return float("inf")
    text = tokens(2, 40)
    return greatest(again(text).logits, theirs(text).logits)


def _steps(theirs: Any, text: Tensor, prompt: int, mask: Tensor | None = None) -> Tensor:
    """Logits of the last `time - prompt + 1` positions, token by token through the cache of `transformers`."""
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp_min(0)
    cache, logits, start = None, [], 0
    for end in range(prompt, text.shape[1] + 1):
        step = theirs(
            text[:, start:end], past_key_values=cache, use_cache=True,
            attention_mask=None if mask is None else mask[:, :end],
            position_ids=None if positions is None else positions[:, start:end],
        )  # fmt: skip
        cache, start = step.past_key_values, end
        logits.append(step.logits[:, -1])
    return torch.stack(logits, 1)


def _reading_anew(theirs: Any, text: Tensor, prompt: int) -> Tensor:
    """The same without a cache: what `generate` gives for LongRoPE, which reads anew beyond the original context."""
    return torch.stack([theirs(text[:, :end]).logits[:, -1] for end in range(prompt, text.shape[1] + 1)], 1)


def _our_steps(ours: ModelFolder, text: Tensor, prompt: int, padding: Tensor | None, fast: bool) -> Tensor:
    model = ours.model
    cache = model.new_cache(len(text), text.shape[1], padding)
    logits = [model.next_logits(text[:, :prompt], cache)]
    step = decode_step(model, cache) if fast else None
    for index in range(prompt, text.shape[1]):
        column = text[:, index]
        logits.append(model.next_logits(column[:, None], cache) if step is None else step(column))
    return torch.stack(logits, 1)


@torch.no_grad()
def cached(theirs: Any, ours: ModelFolder, case: Case, fast: bool = True) -> float:
    """Difference token by token with a cache, through the fast path or through the modules, from 12 tokens to 24."""
    text, prompt = tokens(2, 24, seed=5), 12
    expected = (_reading_anew if case.scaling == "longrope" else _steps)(theirs, text, prompt)
    return greatest(_our_steps(ours, text, prompt, None, fast), expected)


@torch.no_grad()
def padded(theirs: Any, ours: ModelFolder, case: Case, fast: bool = True) -> float:
    """Difference in a batch of prompts of 14, 5 and 9 tokens that goes on for 6; padded on the left with a cache.

    Where frequencies depend on the length, each sequence is compared with itself alone: here a sequence's length is its
    own, there it is the longest one's.
    """
    lengths, prompt, more = (14, 5, 9), 14, 6
    text = tokens(3, prompt + more, seed=6)
    padding = torch.tensor([prompt - length for length in lengths])
    result = _our_steps(ours, text, prompt, padding, fast)
    if case.scaling in ("dynamic", "longrope"):
        steps = _reading_anew if case.scaling == "longrope" else _steps
        rows = [steps(theirs, text[i : i + 1, prompt - n :], n) for i, n in enumerate(lengths)]
        return greatest(result, torch.cat(rows))
    mask = (torch.arange(prompt + more)[None] >= padding[:, None]).long()
    return greatest(result, _steps(theirs, text, prompt, mask))

"""Real models from their GGUF files: the greedy answers of transformers on the same weights, turn by turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zhixing
from zhixing.api import LanguageModel
from zhixing.checkpoints.catalogue import catalogue
from zhixing.checkpoints.folder import save_folder
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve

pytestmark = [pytest.mark.model, pytest.mark.slow]

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain gravity to a child.",
    "List three uses of salt.",
    "Translate 'good morning' into Spanish.",
    "def fibonacci(n):",
    "What is 17 + 25?",
    "Who wrote Hamlet, and when?",
    "Give me a recipe with rice and eggs.",
    "知行合一是什么意思？",
]
TOKENS = 64


def opened(name: str, folder: Path) -> tuple[LanguageModel, Any, Any]:
    """Returns a model of the catalogue here, and the same weights in transformers."""
    transformers = pytest.importorskip("transformers")
    if catalogue()[name].cached() is None:
        pytest.skip(f"{name} is not fetched: zhixing models pull {name}")
    read = open_model(resolve(name), torch.float32, compact=False)
    save_folder(folder, read.model, read.tokenizer, read.family.name)
    del read
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    return zhixing.load(folder, engine="torch"), theirs, tokenizer


def their_tokens(model: Any, prompt: list[int], ends: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS, eos_token_id=ends
        )
    return [int(token) for token in out[0, len(prompt) :]]


def test_smollm2_answers_ten_prompts_as_transformers_does(tmp_path: Path) -> None:
    model, theirs, tokenizer = opened("smollm2-135m", tmp_path / "model")
    for text in PROMPTS:
        messages = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert model.chat_format.encode(messages, add_generation_prompt=True).tokens == prompt
        ends = list(model.chat_format.end_tokens(model.options.end_tokens or ()))
        reply = model.chat(messages, temperature=0, max_tokens=TOKENS)
        assert reply.generation.tokens == their_tokens(theirs, prompt, ends), text


def test_turns_over_one_memory_are_those_of_reading_anew(tmp_path: Path) -> None:
    model, theirs, tokenizer = opened("smollm2-135m", tmp_path / "model")
    chat = model.conversation(temperature=0, max_tokens=24)
    ends = list(model.chat_format.end_tokens(model.options.end_tokens or ()))
    for text in PROMPTS[:4]:
        stream = chat.say(text)
        for _ in stream:
            pass
        prompt = tokenizer.apply_chat_template(chat.messages[:-1], add_generation_prompt=True, return_dict=False)
        expected = their_tokens(theirs, prompt, ends)[:24]
        assert stream.reply.generation.tokens == expected
        assert len(chat.messages) == 2 or stream.reply.reused > 40


def test_gemma_writes_on_as_transformers_does(tmp_path: Path) -> None:
    model, theirs, tokenizer = opened("gemma3-270m", tmp_path / "model")
    ends = list(model.options.end_tokens or [model.tokenizer.end_of_text_id if model.tokenizer else 1])
    for text in PROMPTS:
        prompt = tokenizer(text).input_ids
        answer = model.complete(text, temperature=0, max_tokens=TOKENS)[0]
        assert answer.prompt_tokens == len(prompt)
        assert answer.tokens == their_tokens(theirs, prompt, ends), text

"""transformers is the oracle: it must open what we save, with the same ids and the same text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zhixing.tokenization import Tokenizer

from .conftest import SAMPLES

transformers = pytest.importorskip("transformers")

CONFIGS = {
    "none": None,
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    "nanochat": {"model_type": "nanochat", "architectures": ["NanoChatForCausalLM"]},
}


@pytest.mark.parametrize("beside", CONFIGS)
@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece", "character", "byte"])
def test_auto_tokenizer_agrees(kind: str, beside: str, tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizer = tokenizers[kind]
    tokenizer.save(tmp_path)
    if CONFIGS[beside] is not None:
        (tmp_path / "config.json").write_text(json.dumps(CONFIGS[beside]))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == tokenizer.end_of_text_id
    assert theirs.bos_token_id == tokenizer.begin_id
    assert theirs.pad_token_id == tokenizer.pad_id
    for text in SAMPLES:
        ids = theirs(text).input_ids
        assert ids == tokenizer.encode(text, special=True, parse_special=True)
        assert theirs.decode(ids) == tokenizer.decode(ids)
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special=True)


def test_what_transformers_saves_opens_here(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizers["byte-bpe"].save(tmp_path / "ours", {"chat_template": "{{ messages[0].content }}"})
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "ours"))
    theirs.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    theirs.save_pretrained(str(tmp_path / "theirs"))
    opened = Tokenizer.load(tmp_path / "theirs")
    assert opened.special_tokens["<|im_start|>"] == tokenizers["byte-bpe"].vocab_size
    assert opened.chat_template == "{{ messages[0].content }}"
    assert opened.end_of_text_id == tokenizers["byte-bpe"].end_of_text_id
    for text in SAMPLES:
        assert opened.encode(text) == tokenizers["byte-bpe"].encode(text)

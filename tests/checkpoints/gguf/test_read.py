"""Opening GGUF files as models: the same numbers and tokens as `transformers` gets from the same file."""

import re

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.checkpoints.gguf.support import llama_metadata, llama_tensors, write
from zhixing.api import load
from zhixing.checkpoints.gguf import read
from zhixing.checkpoints.gguf.read import load_gguf
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.quantized import BlockMatrix

TEXTS = ["hello world", "  two\n\nlines 123 ", "知行合一 é 👩‍👧", "def f(x):\n\treturn x"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))


def quantised(tensors, kind="Q8_0"):
    return {name: kind for name, array in tensors.items() if array.ndim == 2}


def reference(path):
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.mark.parametrize("kinds", ["F32", "F16", "Q8_0", "Q4_0"])
def test_a_llama_gives_the_logits_of_transformers(tmp_path, kinds):
    tensors = llama_tensors()
    path = write(tmp_path / "m.gguf", llama_metadata(), tensors, quantised(tensors, kinds))
    theirs, _ = reference(path)
    tokens = torch.randint(0, 260, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(tokens).logits
        for compact in (False, True):
            opened = load_gguf(path, compact=compact)
            torch.testing.assert_close(opened.model(tokens), expected, rtol=1e-4, atol=1e-4)
            assert isinstance(opened.model.embedding.weight, BlockMatrix) == compact


def test_tokens_and_end_tokens(tmp_path):
    path = write(tmp_path / "m.gguf", llama_metadata(**{"tokenizer.chat_template": "{{ messages }}"}), llama_tensors())
    opened = load_gguf(path)
    _, theirs = reference(path)
    for text in TEXTS:
        ids = opened.tokenizer.encode(text)
        assert ids == theirs.encode(text)
        assert opened.tokenizer.decode(ids) == text
    assert opened.tokenizer.chat_template == "{{ messages }}"
    assert opened.generation["eos_token_id"] == [258, 259]  # the file's own, and <|im_end|> by its name
    assert opened.tokenizer.encode("a<|im_end|>", parse_special=True)[-1] == 259


def test_through_the_front_door(tmp_path):
    path = write(tmp_path / "m.gguf", llama_metadata(**{"general.sampling.temp": 0.5}), llama_tensors())
    # What is said of the weights is PyTorch's part; where the core computes, its own sentence takes that place.
    model = load(path, engine="torch")
    assert model.options.temperature == 0.5
    assert model.options.end_tokens == (258, 259)
    assert "expanded" in model.details[0]
    assert isinstance(model.generate("hello", max_tokens=3, temperature=0.0), str)


def test_little_memory_keeps_a_model_packed(tmp_path, monkeypatch):
    tensors = llama_tensors()
    path = write(tmp_path / "m.gguf", llama_metadata(), tensors, quantised(tensors))
    monkeypatch.setattr(read, "free_memory_bytes", lambda: 1000)
    opened = load_gguf(path)
    assert isinstance(opened.model.embedding.weight, BlockMatrix)
    assert "stay in their blocks" in opened.details[0]
    assert "1000 B of memory free" in opened.details[0].replace("1.0 KB", "1000 B")


def test_weights_in_other_number_types(tmp_path):
    path = write(tmp_path / "m.gguf", llama_metadata(), llama_tensors())
    whole = load_gguf(path).model.state_dict()
    half = load_gguf(path, torch.bfloat16, compact=False).model.state_dict()
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, "unknown architecture 'mamba'"),
        ({"general.type": "adapter"}, "type 'adapter', not a model"),
        ({"llama.block_count": None}, "'block_count' is missing|'llama.block_count' is missing"),
        ({"llama.block_count": 3}, "missing tensors"),
        ({"llama.block_count": 1}, "unknown tensors"),
        ({"llama.block_count": 1 << 31}, "whole number from 1"),
        ({"llama.embedding_length": 64, "llama.rope.dimension_count": None}, "has shape"),
        ({"llama.attention.head_count": 3, "llama.rope.dimension_count": None}, "must be a multiple"),
        ({"llama.attention.head_count": 3}, "rope.dimension_count"),
        ({"llama.attention.value_length": 4}, "different lengths"),
        ({"llama.expert_count": 8}, "'llama.expert_count' = 8"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count"),
        ({"llama.rope.freq_base": float("nan")}, "must be a number"),
        ({"llama.vocab_size": 99}, "99, but token_embd.weight has 260"),
        ({"llama.feed_forward_length": [64, 32]}, "differs from layer to layer"),
        ({"tokenizer.ggml.model": "wordpiece"}, "'wordpiece' are not supported"),
        ({"tokenizer.ggml.pre": "gpt-22"}, "unknown pre-tokenizer 'gpt-22'.*cut.*gpt-2"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "2 tokens, but token_embd.weight has 260"),
        ({"tokenizer.ggml.tokens": ["a"] * 260}, "'a' occurs twice"),
        ({"tokenizer.ggml.tokens": None}, "no list of tokens"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "2 entries for 260 tokens"),
        ({"tokenizer.ggml.merges": ["h e", "x yz"]}, "'x yz' needs a token"),
        ({"tokenizer.ggml.merges": None}, "without a list of merges"),
        ({"tokenizer.ggml.eos_token_id": 5000}, "5000, outside of the vocabulary"),
        ({"tokenizer.ggml.add_bos_token": 7}, "not true or false"),
        ({"tokenizer.ggml.add_bos_token": True}, "names no bos_token"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(tmp_path, changes, message):
    metadata = llama_metadata(**changes)
    tensors = llama_tensors()
    path = write(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(BadInput) as caught:
        load_gguf(path)
    assert "m.gguf" in str(caught.value)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_tensors_that_do_not_belong_are_refused(tmp_path):
    for change, message in (
        ({"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}, "no place in the architecture 'llama'"),
        ({"output_norm.weight": None}, "missing tensors: final_norm.weight"),
        ({"token_embd.weight": None}, "'token_embd.weight' is missing"),
        ({"output.weight": np.zeros((9, 32), np.float32)}, "has shape"),
        ({"output_norm.weight": np.zeros((3, 3, 32), np.float32)}, "has shape"),
    ):
        tensors = {name: array for name, array in (llama_tensors() | change).items() if array is not None}
        with pytest.raises(BadInput, match=message):
            load_gguf(write(tmp_path / "m.gguf", llama_metadata(), tensors))


def test_a_number_format_that_is_not_read_is_named(tmp_path):
    path = tmp_path / "m.gguf"
    write(path, llama_metadata(), llama_tensors())
    content = path.read_bytes()
    place = content.index(b"blk.0.attn_norm.weight") + len(b"blk.0.attn_norm.weight") + 4 + 8
    changed = content[:place] + int(GGMLQuantizationType.I32).to_bytes(4, "little") + content[place + 4 :]
    path.write_bytes(changed)
    with pytest.raises(BadInput, match="stored as I32, which is not read"):
        load_gguf(path)


def test_a_file_without_a_tokenizer(tmp_path):
    metadata = {key: value for key, value in llama_metadata().items() if not key.startswith("tokenizer.")}
    assert load_gguf(write(tmp_path / "m.gguf", metadata, llama_tensors())).tokenizer is None


def in_parts(tmp_path, count=3):
    """A model whose tensors are spread over several files, as llama.cpp's gguf-split writes them."""
    tensors = list(llama_tensors().items())
    paths = []
    for number in range(count):
        extra = {"split.no": number, "split.count": count, "split.tensors.count": len(tensors)}
        metadata = llama_metadata() if number == 0 else {"general.architecture": "llama"}
        path = tmp_path / f"m-{number + 1:05}-of-{count:05}.gguf"
        paths.append(write(path, metadata | extra, dict(tensors[number::count])))
    return paths


def test_a_model_in_several_files(tmp_path):
    paths = in_parts(tmp_path)
    whole = load_gguf(write(tmp_path / "whole.gguf", llama_metadata(), llama_tensors())).model.state_dict()
    for path in paths:
        parts = load_gguf(path, compact=False)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in parts.model.state_dict().items())
        assert parts.tokenizer.vocab_size == 260


def test_parts_that_do_not_belong_together(tmp_path):
    first, second, third = in_parts(tmp_path)
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(MissingResource, match="m-00002-of-00003"):
        load_gguf(first)
    second.write_bytes(third.read_bytes())
    with pytest.raises(BadInput, match="not part 2 of 3"):
        load_gguf(first)
    write(second, {"general.architecture": "llama", "split.no": 1, "split.count": 3}, {})
    with pytest.raises(BadInput, match="tensors, 20 are announced"):
        load_gguf(first)
    doubled = {"general.architecture": "llama", "split.no": 1, "split.count": 3}
    write(
        second,
        doubled,
        {"output_norm.weight": np.ones(32, np.float32), "token_embd.weight": np.zeros((2, 32), np.float32)},
    )
    with pytest.raises(BadInput, match="in an earlier part too"):
        load_gguf(first)
    second.write_bytes(kept)
    first.rename(tmp_path / "other.gguf")
    with pytest.raises(BadInput, match="one of 3 files"):
        load_gguf(tmp_path / "other.gguf")

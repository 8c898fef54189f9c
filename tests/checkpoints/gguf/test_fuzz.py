"""Damaged and lying GGUF files: whatever the bytes, a model or one clear message; never a crash, never much memory."""

import re
import struct
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.checkpoints.gguf.support import llama_metadata, llama_tensors, raw_file, tiny_tokens, write
from zhixing.api import load
from zhixing.checkpoints.gguf.read import load_gguf
from zhixing.core.errors import ZhixingError

SECONDS = 5.0
"""Far above what any of these files takes, so that a busy machine fails no test."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "m.gguf"


@pytest.fixture(scope="module")
def whole(place):
    tensors = llama_tensors(width=32, hidden=32, layers=1)
    metadata = llama_metadata(**{"llama.block_count": 1, "llama.feed_forward_length": 32})
    kinds = {name: "Q8_0" for name, array in tensors.items() if array.ndim == 2}
    content = write(place, metadata, tensors, kinds).read_bytes()
    load_gguf(place, compact=True)  # whatever is loaded on first use is not what is measured
    return content


def outcome(path, content):
    """Opens a file; returns the model, or the message that refuses it. Anything else is a failure."""
    path.write_bytes(content)
    started = time.monotonic()
    tracemalloc.start()
    try:
        opened = load_gguf(path, compact=True)
        with torch.inference_mode():
            assert opened.model(torch.tensor([[1, 2, 3]])).shape[-1] == opened.model.config.vocab_size
        return opened
    except ZhixingError as error:
        assert str(path) in str(error)
        assert len(str(error)) < 2000
        return str(error)
    finally:
        assert time.monotonic() - started < SECONDS
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


HUGE = [0, 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1]
MANY = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
@MANY
def test_any_byte_may_be_wrong(place, whole, changes):
    content = bytearray(whole)
    header = content.index(b"blk.0.ffn_down.weight") + 64  # behind it are numbers, of which all are allowed
    for where, value in changes:
        content[int(where * header)] = value
    outcome(place, bytes(content))


@given(
    where=st.floats(0, 1, exclude_max=True),
    value=st.sampled_from(HUGE),
)
@MANY
def test_any_number_may_be_huge(place, whole, where, value):
    content = bytearray(whole)
    start = int(where * (content.index(b"blk.0.ffn_down.weight") + 64))
    content[start : start + 8] = struct.pack("<Q", value)
    outcome(place, bytes(content))


@given(cut=st.floats(0, 1, exclude_max=True), filler=st.binary(max_size=40))
@example(cut=0.0, filler=b"GGUF\3\0\0\0")
@MANY
def test_any_end_may_be_missing(place, whole, cut, filler):
    assert isinstance(outcome(place, whole[: int(cut * len(whole))] + filler), str)


@given(where=st.floats(0, 1, exclude_max=True), size=st.integers(1, 40), again=st.booleans())
@MANY
def test_bytes_may_be_lost_or_doubled(place, whole, where, size, again):
    start = int(where * (whole.index(b"blk.0.ffn_down.weight") + 64))
    piece = whole[start : start + size]
    outcome(place, whole[:start] + (piece * 2 if again else b"") + whole[start + size :])


def test_the_unchanged_file_opens(place, whole):
    assert not isinstance(outcome(place, whole), str)


def crafted(metadata=None, tensors=None, **changes):
    """A file written by hand: the tiny Llama with some entries changed or taken out, and given tensors."""
    values = llama_metadata(**{"llama.block_count": 1, **changes})
    values.update(metadata or {})
    given = llama_tensors(layers=1) if tensors is None else tensors
    return raw_file(list(values.items()), list(given.items()))


def changed(**tensors):
    """The same with some tensors exchanged or added."""
    names = {name.replace("__", "."): array for name, array in tensors.items()}
    return crafted(tensors=llama_tensors(layers=1) | names)


def with_tensor(name, shape, kind, content):
    tensors = llama_tensors(layers=1)
    tensors[name] = (shape, kind, content)
    return crafted(tensors=tensors)


def inf_scales():
    """A Q8_0 matrix whose scales are infinite."""
    block = struct.pack("<e", float("inf")) + bytes(32)
    return with_tensor("blk.0.attn_k.weight", (16, 32), 8, block * 16)


NAMES, MERGES, TYPES = tiny_tokens()
LIES = {
    "no tensors at all": (crafted(tensors={}), "'token_embd.weight' is missing"),
    "an embedding of one dimension": (
        changed(token_embd__weight=np.zeros(260, np.float32)), "shape"),
    "a matrix of three dimensions": (
        changed(blk__0__attn_q__weight=np.zeros((2, 16, 32), np.float32)), "shape"),
    "a transposed matrix": (
        changed(blk__0__ffn_up__weight=np.zeros((32, 64), np.float32)), "shape"),
    "more tokens than rows": (crafted(**{"tokenizer.ggml.tokens": [*NAMES, "x"]}), "261 tokens, but .* has 260"),
    "fewer tokens than rows": (crafted(tokens=9), "9 tokens, but .* has 260 rows"),
    "types that are texts": (crafted(**{"tokenizer.ggml.token_type": ["a"]}), "token_type has no entries"),
    "tokens that are numbers": (crafted(**{"tokenizer.ggml.tokens": [1] * 260}), "no list of tokens"),
    "a token that is not UTF-8": (
        crafted({"tokenizer.ggml.tokens": struct.pack("<IIQ", 9, 8, 260) + (struct.pack("<Q", 1) + b"\xff") * 260}),
        "not UTF-8"),
    "a merge of itself": (crafted(**{"tokenizer.ggml.merges": ["he he"]}), "'he he' needs a token"),
    "a merge without a right side": (crafted(**{"tokenizer.ggml.merges": ["he"]}), "needs a token"),
    "merges that go round": (crafted(**{"tokenizer.ggml.merges": ["h e", "he ll", "l l", "h e"]}), "needs a token"),
    "scores that are not numbers": (
        crafted(**{"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [float("nan")] * 260,
                   "tokenizer.ggml.add_bos_token": False}), "not a number"),
    "half of the byte tokens": (
        crafted(**{"tokenizer.ggml.model": "llama", "tokenizer.ggml.token_type": [6] + [1] * 259,
                   "tokenizer.ggml.add_bos_token": False}), "256 byte tokens .* not complete"),
    "an end token beyond the vocabulary": (crafted(**{"tokenizer.ggml.eot_token_id": 260}), "outside of the vocab"),
    "a negative head count": (crafted({"llama.attention.head_count": struct.pack("<Ii", 5, -4)}), "whole number"),
    "a head count that is a text": (crafted(**{"llama.attention.head_count": "4"}), "whole number"),
    "a width that is no number": (crafted(**{"llama.embedding_length": 32.5}), "whole number"),
    "a layer count beyond all bounds": (crafted(**{"llama.block_count": 4_000_000_000}), "whole number from 1"),
    "a context of zero": (crafted(**{"llama.context_length": 0}), "whole number"),
    "a base below zero": (crafted(**{"llama.rope.freq_base": -1.0}), "rope_theta must be above 0"),
    "an endless base": (crafted(**{"llama.rope.freq_base": float("inf")}), "must be a number"),
    "an epsilon above one": (crafted(**{"llama.attention.layer_norm_rms_epsilon": 2.0}), "epsilon"),
    "kv heads that do not divide": (crafted(**{"llama.attention.head_count_kv": 3}), "multiple|shape"),
    "an unknown scaling": (crafted(**{"llama.rope.scaling.type": "magic"}), "'magic', which is not supported"),
    "divisors of no known rule": (
        changed(rope_freqs__weight=np.array([1, 9, 2, 7], np.float32)),
        "not those of Llama 3"),
    "divisors of the wrong length": (
        changed(rope_freqs__weight=np.ones(3, np.float32)), "not those of Llama 3"),
    "a window that is a text": (crafted(**{"llama.attention.sliding_window": "all"}), "whole number"),
    "an expert model": (crafted(**{"llama.expert_count": 8}), "'llama.expert_count' = 8"),
    "one file of several": (crafted(**{"split.count": 3, "split.no": 0}), "one of 3 files"),
    "a matrix of integers": (with_tensor("blk.0.attn_k.weight", (16, 32), 26, bytes(2048)), "stored as I32"),
    "an adapter": (crafted(**{"general.type": "adapter"}), "type 'adapter'"),
    "a picture's projector": (crafted(**{"general.type": "mmproj"}), "type 'mmproj'"),
    "no architecture": (crafted(**{"general.architecture": None}), "does not say its architecture"),
    "an architecture that is a number": (crafted(**{"general.architecture": 5}), "does not say its architecture"),
    "a template that is a number": (crafted(**{"tokenizer.chat_template": 5}), "chat_template is 5, not a text"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_is_refused_in_one_message(place, lie):
    content, message = LIES[lie]
    found = outcome(place, content)
    assert isinstance(found, str), "it was opened"
    assert re.search(message, found, re.DOTALL), found


def test_infinite_scales_end_in_no_crash(place):
    place.write_bytes(inf_scales())
    answer = load(place, engine="torch").complete([[1, 2, 3]], max_tokens=2, temperature=0.0)
    assert len(answer[0].tokens) <= 2


def test_a_file_that_changes_while_it_is_open_is_not_needed_any_more(place, whole):
    place.write_bytes(whole)
    opened = load_gguf(place, compact=False)
    place.unlink()
    with torch.inference_mode():
        assert torch.isfinite(opened.model(torch.tensor([[1, 2, 3]]))).all()

"""Safetensors files, held against the format's own library; shards against the hub's."""

import json
import struct
import subprocess
import sys

import pytest
import torch
from huggingface_hub import split_state_dict_into_shards_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from zhixing.checkpoints.tensor_files import INDEX, MOST_HEADER, open_tensors, open_weights
from zhixing.checkpoints.tensors import TensorWriter, plan_shards, read_tensors, write_tensors, write_weights
from zhixing.core.errors import BadInput, MissingResource

ALL = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64,
    torch.complex64,
]  # fmt: skip


def some(dtype, shape):
    return torch.arange(max(1, torch.tensor(shape).prod().item()) * dtype.itemsize, dtype=torch.uint8).remainder(
        2 if dtype == torch.bool else 251
    )[: torch.Size(shape).numel() * dtype.itemsize].view(dtype).reshape(shape)  # fmt: skip


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert tensor.shape == theirs[name].shape
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), theirs[name].reshape(-1).view(torch.uint8))


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensors = st.dictionaries(
    st.text(max_size=6).filter(lambda name: name != "__metadata__"),
    st.builds(some, st.sampled_from(ALL), shapes),
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(tensors)
def test_what_one_writes_the_other_reads(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    write_tensors(path, content, {"format": "pt"})
    same(load_file(path), content)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    same(read_tensors(path), content)
    save_file(content, path)
    same(read_tensors(path), content)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_what_the_library_refuses_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.int8)}, path)
    content = bytearray(path.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for place in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=2)):
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789{}[]":,FIBU -')))
    path.write_bytes(content)
    try:
        theirs = load_file(path)
    except (SafetensorError, ValueError, KeyError):
        theirs = None
    try:
        ours = read_tensors(path)
    except BadInput:
        ours = None
    if theirs is None:
        assert ours is None
    elif ours is not None:
        same(ours, theirs)


def header(**entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def entry(start=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


ONE = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
LIES = {
    "nothing": b"",
    "short": b"\0" * 7,
    "no header": struct.pack("<Q", 0),
    "longer than the file": struct.pack("<Q", 1000) + b"{}",
    "absurdly long": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "not JSON": struct.pack("<Q", 2) + b"ab",
    "not UTF-8": struct.pack("<Q", 2) + b"\xff\xff",
    "a list": struct.pack("<Q", 2) + b"[]",
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "beyond the end": header(a=entry(0, 16, shape=(4,))) + bytes(8),
    "more than said": header(a=entry()) + bytes(9),
    "gap": header(a=entry(), b=entry(12, 20)) + bytes(20),
    "overlap": header(a=entry(), b=entry(4, 12)) + bytes(12),
    "backwards": header(a=entry(8, 0)) + bytes(8),
    "negative": header(a=entry(-8, 0)) + bytes(8),
    "wrong size": header(a=entry(shape=(3,))) + bytes(8),
    "overflow": header(a=entry(shape=(1 << 62, 1 << 62))) + bytes(8),
    "true as a size": header(a=entry(shape=(True, 2))) + bytes(8),
    "unknown type": header(a=entry(dtype="F99")) + bytes(8),
    "no type": header(a={"shape": [2], "data_offsets": [0, 8]}) + bytes(8),
    "no mapping": header(a=3) + bytes(8),
    "twice": struct.pack("<Q", 126) + b"{%b,%b}".replace(b"%b", ONE).ljust(126) + bytes(4),
    "metadata is a number": header(__metadata__=3, a=entry()) + bytes(8),
    "metadata of numbers": header(__metadata__={"a": 3}, a=entry()) + bytes(8),
}  # fmt: skip


@pytest.mark.parametrize("content", LIES.values(), ids=LIES)
def test_a_lying_header_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        open_tensors(path)


def test_a_huge_header_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MOST_HEADER + 1))
        file.truncate(MOST_HEADER + 100)  # takes no room on the disk
    with pytest.raises(BadInput, match="at most"):
        open_tensors(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(1000)})
    opened = open_tensors(path)
    with path.open("r+b") as file:
        file.truncate(500)
    from zhixing.checkpoints.tensors import stream

    with pytest.raises(BadInput, match="became shorter"):
        list(stream(opened))


def test_tensors_may_be_written_in_any_order_but_all_of_them(tmp_path):
    path = tmp_path / "x.safetensors"
    specs = {"a": (torch.float32, (2,)), "b": (torch.int8, (3,))}
    with TensorWriter(path, specs, None) as writer:
        writer.write("b", torch.ones(3, dtype=torch.int8))
        writer.write("a", torch.ones(2))
    same(load_file(path), {"a": torch.ones(2), "b": torch.ones(3, dtype=torch.int8)})
    with pytest.raises(ValueError, match="never written: b"), TensorWriter(path, specs, None) as writer:
        writer.write("a", torch.ones(2))
    with pytest.raises(ValueError, match="announced"), TensorWriter(path, specs, None) as writer:
        writer.write("a", torch.ones(3))


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 60))
def test_shards_are_divided_as_the_hub_does(sizes, limit):
    named = {f"t{number:02d}": size for number, size in enumerate(sizes)}
    theirs = split_state_dict_into_shards_factory(
        named, get_storage_size=lambda size: size, filename_pattern="x{suffix}", max_shard_size=limit
    )
    ours = plan_shards(named, limit)
    large = [name for name, size in named.items() if size > limit]
    if not large:  # the hub puts these before the others
        assert ours == list(theirs.filename_to_tensors.values())
    assert [name for names in ours for name in names] == list(named)
    assert all(sum(named[name] for name in names) <= limit for names in ours if len(names) > 1)


def test_sharded_weights(tmp_path):
    content = {f"t{number}": torch.full((100,), float(number)) for number in range(7)}
    write_weights(tmp_path, content, max_shard_size=1000)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)
    ]
    files, notes = open_weights(tmp_path)
    assert not notes
    same({name: tensor for file in files for name, tensor in read_tensors(file.path).items()}, content)
    assert json.loads((tmp_path / INDEX).read_text())["metadata"] == {"total_size": 2800}
    with pytest.raises(BadInput, match="must be positive"):
        write_weights(tmp_path, content, max_shard_size=0)


def index(folder, change):
    path = folder / INDEX
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


FIRST, SECOND = "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"
WRONG = {
    "not there": (lambda v: v["weight_map"].update(t9=FIRST), BadInput, "no shard has it"),
    "elsewhere": (lambda v: v["weight_map"].update(t0=SECOND), BadInput, "it is in model-00001"),
    "not listed": (lambda v: v["weight_map"].pop("t1"), BadInput, f"'t1' is in {FIRST}, but not in"),
    "missing shards": (
        lambda v: v["weight_map"].update(a="model-00008-of-00009.safetensors", b="model-00009-of-00009.safetensors"),
        MissingResource,
        r"'model-00008-of-00009.safetensors' and 1 more is missing \(of 6",
    ),
    "outside": (lambda v: v["weight_map"].update(a="../model.safetensors"), BadInput, "outside"),
    "a pickle": (lambda v: v["weight_map"].update(a="x.bin"), BadInput, "no safetensors file"),
    "a number": (lambda v: v["weight_map"].update(a=3), BadInput, "no safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_an_index_that_lies(tmp_path, kind):
    content = {f"t{number}": torch.full((100,), float(number)) for number in range(7)}
    write_weights(tmp_path, content, max_shard_size=1000)
    change, error, words = WRONG[kind]
    index(tmp_path, change)
    with pytest.raises(error, match=words):
        open_weights(tmp_path)


def test_a_tensor_in_two_shards(tmp_path):
    write_weights(tmp_path, {f"t{number}": torch.ones(100) for number in range(4)}, max_shard_size=1000)
    write_tensors(tmp_path / "model-00002-of-00002.safetensors", {name: torch.ones(100) for name in ("t0", "t2", "t3")})
    with pytest.raises(BadInput, match="'t0' is in two shards"):
        open_weights(tmp_path)


@pytest.mark.parametrize("total", [1, 10**30, -5])
def test_a_wrong_total_is_said(tmp_path, total):
    write_weights(tmp_path, {f"t{number}": torch.ones(100) for number in range(4)}, max_shard_size=1000)
    index(tmp_path, lambda values: values["metadata"].update(total_size=total))
    assert open_weights(tmp_path)[1] == [f"the index says that the weights have {total} bytes; the shards hold 1600"]


PROBE = """
import sys
import torch
from pathlib import Path
from zhixing.checkpoints.folder import load_folder
def peak():  # not getrusage, which also counts the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
load_folder(Path(sys.argv[1]))
before = peak()
load_folder(Path(sys.argv[2]), getattr(torch, sys.argv[3]))
print((peak() - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_takes_little_more_memory_than_the_model(tmp_path, dtype):
    from zhixing.checkpoints.folder import save_folder
    from zhixing.families import family_named
    from zhixing.models.config import TransformerConfig
    from zhixing.models.transformer import Transformer

    sizes = {"heads": 2, "kv_heads": 2, "head_dim": 32, "context": 16}
    for name, width, layers in (("small", 64, 1), ("large", 512, 16)):
        shape = TransformerConfig(
            vocab_size=100, width=width, layers=layers, mlp_width=4 * width, **sizes, **family_named("llama").fixed
        )
        model = Transformer(shape)
        model.initialise(torch.Generator().manual_seed(0))
        save_folder(tmp_path / name, model, None, "llama")
    weights = sum(parameter.numel() for parameter in model.parameters()) * getattr(torch, dtype).itemsize
    assert weights > 20_000_000
    words = [sys.executable, "-c", PROBE, str(tmp_path / "small"), str(tmp_path / "large"), dtype]
    taken = int(subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert weights / 2 < taken < 1.2 * weights  # a file that stays mapped beside the model would double it

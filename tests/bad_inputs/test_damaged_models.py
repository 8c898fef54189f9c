"""Damaged model folders: whatever is wrong, one message that says what and where, within bounded memory and time."""

import json
import shutil
import struct
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.bad_inputs.support import make_models
from zhixing.checkpoints.folder import load_folder
from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.tokenization.train import train_tokenizer

WEIGHTS, INDEX, GENERATION = "model.safetensors", "model.safetensors.index.json", "generation_config.json"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12\n"
FIRST = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("whole"))


def change_json(folder, name, change):
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    change(values)
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def change_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def cut(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])


def huge(folder, name):
    with (folder / name).open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk


def raw_header(folder, **values):
    """Writes weights whose header is made up: 64 bytes of one tensor."""
    entry = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} | values
    text = json.dumps({FIRST: entry}).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


def pickle_only(folder):
    (folder / WEIGHTS).unlink()
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model.bin")


def config(**values):
    return lambda folder: change_json(folder, "config.json", lambda old: old.update(values))


def tokenizer_of_another_model(folder):
    train_tokenizer(["many different words " * 50, "知行合一"], "byte-bpe", vocab_size=300).tokenizer.save(folder)


def weights(change):
    return lambda folder: change_tensors(folder, change)


def text(name, content):
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def index(change):
    return lambda folder: change_json(folder, INDEX, change)


def shard(folder, number):
    return sorted(folder.glob("model-*.safetensors"))[number]


def as_type(dtype):
    return weights(lambda tensors: tensors.update({FIRST: tensors[FIRST].to(dtype)}))


NOT_WHOLE = "not a whole safetensors file"
DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), 3, "it has no config.json"),
    "empty config": (text("config.json", ""), 2, r"config.json:1: not valid JSON"),
    "config cut": (lambda f: cut(f, "config.json", 0.5), 2, "not valid JSON"),
    "config is a list": (text("config.json", "[]"), 2, "config.json is not a mapping"),
    "config is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), 2, "not UTF-8"),
    "config is a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()), 2, "a folder is in the place of a file"
    ),
    "config is deep": (text("config.json", "[" * 100_000), 2, "nested beyond all bounds"),
    "config is huge": (lambda f: huge(f, "config.json"), 2, "a JSON file of 1048576 MiB is not read"),
    "no model_type": (config(model_type=None), 2, "no 'model_type' field"),
    "unknown family": (config(model_type="lama"), 2, r"unknown architecture 'lama'\n *did you mean 'llama'"),
    "code of its own": (config(auto_map={"AutoModel": "a.b"}, model_type="evil"), 2, "unknown architecture 'evil'"),
    "a value that would change the result": (config(hidden_act="mystery"), 2, "'hidden_act'.*'mystery'"),
    "an unknown field": (config(secret_sauce=3), 2, "unknown configuration field 'secret_sauce' = 3"),
    "absurd width": (config(hidden_size=1 << 29), 2, "hidden_size|shape|width"),
    "absurd layers": (config(num_hidden_layers=1 << 40), 2, "num_hidden_layers"),
    "text for a number": (config(num_attention_heads="two"), 2, "'num_attention_heads' must be a whole number"),
    "zero heads": (config(num_attention_heads=0), 2, "num_attention_heads"),
    "quantised": (config(quantization_config={"quant_method": "gptq"}), 2, "quantised in a format"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), 3, "no model.safetensors"),
    "pickled weights": (pickle_only, 2, r"pickled weights.*\n.*zhixing models convert \S+ \S+"),
    "weights empty": (lambda f: (f / WEIGHTS).write_bytes(b""), 2, NOT_WHOLE),
    "weights cut in the header": (lambda f: cut(f, WEIGHTS, 0.05), 2, NOT_WHOLE),
    "weights cut in the middle": (lambda f: cut(f, WEIGHTS, 0.5), 2, NOT_WHOLE),
    "weights without the last byte": (lambda f: cut(f, WEIGHTS, 0.99999), 2, NOT_WHOLE),
    "a web page instead of weights": (text(WEIGHTS, "<!doctype html><p>Not found"), 2, NOT_WHOLE),
    "a pointer instead of weights": (text(WEIGHTS, LFS_POINTER), 2, r"Git LFS pointer.*\n.*git lfs pull"),
    "weights huge": (lambda f: huge(f, WEIGHTS), 2, NOT_WHOLE),
    "offsets beyond the file": (lambda f: raw_header(f, data_offsets=[0, 1 << 40]), 2, NOT_WHOLE),
    "offsets backwards": (lambda f: raw_header(f, data_offsets=[64, 0]), 2, NOT_WHOLE),
    "shape that does not fill": (lambda f: raw_header(f, shape=[1 << 40]), 2, NOT_WHOLE),
    "unknown type": (lambda f: raw_header(f, dtype="Q4"), 2, "unknown type 'Q4'"),
    "float8": (as_type(torch.float8_e4m3fn), 2, rf"'{FIRST}' has the type F8_E4M3, which is not read"),
    "int8": (as_type(torch.int8), 2, "has the type I8, which is not read"),
    "a tensor is missing": (weights(lambda t: t.pop(FIRST)), 2, "missing tensors: blocks.0.attention"),
    "a tensor too many": (weights(lambda t: t.update(more=torch.ones(2))), 2, "'(model.)?more' has no place"),
    "another shape": (weights(lambda t: t.update({FIRST: torch.ones(3, 3)})), 2, r"\(3, 3\), config.json asks"),
    "layers of another model": (config(num_hidden_layers=3), 2, "missing tensors: blocks.2"),
    "vocabulary of another model": (config(vocab_size=999), 2, r"config.json asks for \(999, 16\)"),
    "tokenizer of another model": (tokenizer_of_another_model, 2, "the tokenizer belongs to another model"),
    "tokenizer cut": (lambda f: cut(f, "tokenizer.json", 0.5), 2, r"tokenizer.json:\d+: not valid JSON"),
    "tokenizer empty": (text("tokenizer.json", "{}"), 2, "tokenizer.json"),
    "tokenizer huge": (lambda f: huge(f, "tokenizer.json"), 2, "tokenizer.json: .*MB"),
    "tokenizer_config is a list": (text("tokenizer_config.json", "[]"), 2, "tokenizer_config.json"),
    "generation_config is a list": (text(GENERATION, "[]"), 2, "generation_config.json is not a mapping"),
    "generation_config cut": (lambda f: cut(f, GENERATION, 0.5), 2, "generation_config.json:.*not valid JSON"),
}  # fmt: skip

SHARDS = {
    "no index": (lambda f: (f / INDEX).unlink(), 3, "their index .* is missing"),
    "index cut": (lambda f: cut(f, INDEX, 0.5), 2, "index.json:.*not valid JSON"),
    "index without a table": (text(INDEX, "{}"), 2, "no 'weight_map'"),
    "index leads outside": (index(lambda v: v["weight_map"].update(x="/etc/passwd")), 2, "outside the folder"),
    "index without a tensor": (index(lambda v: v["weight_map"].pop(FIRST)), 2, "but not in the index"),
    "index with a tensor too many": (
        index(lambda v: v["weight_map"].update(x=v["weight_map"][FIRST])),
        2,
        "no shard has it",
    ),
    "a shard is missing": (lambda f: shard(f, 1).unlink(), 3, "the shard 'model-00002-of-.*' is missing"),
    "a shard cut": (lambda f: cut(f, shard(f, 1).name, 0.7), 2, "model-00002-of-.*not a whole"),
    "a shard twice": (lambda f: shutil.copy(shard(f, 0), shard(f, 1)), 2, "is in two shards"),
}


def damaged(whole, place, kind):
    source, table = (whole, DAMAGE) if kind in DAMAGE else (whole.with_name("sharded"), SHARDS)
    folder = shutil.copytree(source, place / "model")
    damage, code, words = table[kind]
    damage(folder)
    return folder, code, words


@pytest.mark.parametrize("kind", [*DAMAGE, *SHARDS])
def test_one_clear_message(whole, tmp_path, kind):
    folder, code, words = damaged(whole, tmp_path, kind)
    start = time.process_time()
    with pytest.raises((BadInput, MissingResource), match=rf"(?s){words}") as error:
        load_folder(folder)
    assert time.process_time() - start < 2
    assert error.value.exit_code == code
    assert str(folder) in str(error.value)


def test_the_whole_ones_open(whole):
    ours, sharded = load_folder(whole), load_folder(whole.with_name("sharded"))
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), sharded.model.parameters(), strict=True))


def test_double_precision_is_converted_and_said(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "model")
    change_tensors(folder, lambda tensors: tensors.update({FIRST: tensors[FIRST].double()}))
    opened = load_folder(folder)
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.float32}
    assert "1 tensors of float64 were converted" in opened.notes


LIMITED = """
import resource, sys
from pathlib import Path
from zhixing.checkpoints.folder import load_folder
from zhixing.core.errors import ZhixingError
load_folder(Path(sys.argv[1]))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
for folder in sys.argv[2:]:
    try:
        load_folder(Path(folder))
        print("opened", folder)
    except ZhixingError as error:
        print(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_all_of_it_within_200_megabytes(whole, tmp_path):
    kinds = [*DAMAGE, *SHARDS]
    cases = []
    for number, kind in enumerate(kinds):
        (tmp_path / str(number)).mkdir()
        cases.append(damaged(whole, tmp_path / str(number), kind))
    words = [sys.executable, "-c", LIMITED, str(whole), *(str(folder) for folder, _, _ in cases)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == [str(code) for _, code, _ in cases], ended.stderr


def test_every_prefix_of_the_weights_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "model")
    content = (folder / WEIGHTS).read_bytes()
    for length in [*range(0, len(content), 997), len(content) - 1]:
        (folder / WEIGHTS).write_bytes(content[:length])
        with pytest.raises(ZhixingError):
            load_folder(folder)

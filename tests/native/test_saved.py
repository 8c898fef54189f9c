"""Packed decoders on disk: the same texts from them, and a model opens whatever is wrong with its file."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

import zhixing
from zhixing import native
from zhixing.checkpoints.folder import save_folder
from zhixing.checkpoints.gguf.write import write_gguf
from zhixing.checkpoints.opening import open_model
from zhixing.core.errors import BadInput
from zhixing.families.llama import FIXED
from zhixing.generation.opening import open_for_writing
from zhixing.models.config import RopeScaling, TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native import saved
from zhixing.tokenization.train import train_tokenizer

SIZES = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp_width": 64, "context": 256}
GREEDY = {"max_tokens": 20, "temperature": 0.0, "end_tokens": ()}

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the C++ core is not built")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(saved.MOST_VARIABLE, str(1 << 30))
    yield tmp_path / "cache" / "packed"
    saved.wait()


@pytest.fixture
def folder(tmp_path):
    tokenizer = train_tokenizer([], "byte").tokenizer
    model = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES, **FIXED))
    model.initialise(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 8  # logits far apart
    save_folder(tmp_path / "model", model.eval(), tokenizer, "llama")
    return tmp_path / "model"


def load(path, **options):
    model = zhixing.load(path, **options)
    saved.wait()
    return model, any("packed weights taken from" in line for line in model.details)


@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_the_second_start_is_from_the_cache_and_writes_the_same(folder, form, tmp_path):
    path = folder
    if form == "gguf":
        path = tmp_path / "model.gguf"
        write_gguf(path, open_model(folder), "q8_0")
    (first, from_first), (second, from_second) = load(path), load(path)
    assert (from_first, from_second) == (False, True)
    assert first.details[-1] == second.details[-1]
    assert (first.config, first.options, first.notes) == (second.config, second.options, second.notes)
    for options in (
        GREEDY,
        {"max_tokens": 20, "seed": 3, "temperature": 0.8, "top_k": 30, "top_p": 0.9},
        {"max_tokens": 20, "seed": 3, "temperature": 1.0, "whole_characters": False},
        {"max_tokens": 8, "num_beams": 3, "temperature": 0.0},
        {"max_tokens": 8, "seed": 2, "repetition_penalty": 1.3, "temperature": 0.7},
        {"max_tokens": 8, "penalty_alpha": 0.6, "top_k": 4},
    ):
        assert first.generate("Once upon", **options) == second.generate("Once upon", **options)
    assert "".join(second.stream("Once upon", **GREEDY)) == first.generate("Once upon", **GREEDY)
    assert isinstance(second.model, Transformer)
    scores = [model.evaluate(["some text"]).bits_per_byte for model in (first, second)]
    assert scores[0] == scores[1]


def test_no_torch_is_imported_for_a_second_start(folder):
    load(folder)
    code = f"""
import sys, zhixing
model = zhixing.load({str(folder)!r})
options = dict(max_tokens=9)
text = model.generate("abc", temperature=0.0, **options) + "".join(model.stream("abc", seed=1, top_k=9, **options))
text += "".join(model.conversation(plain=True, temperature=0.0, **options).say("abc"))
print("torch" in sys.modules, text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("False"), done.stdout + done.stderr


def test_every_quantisation_has_a_file_of_its_own(folder, cache):
    for quantize in (None, "q8", "q4"):
        assert not load(folder, quantize=quantize)[1]
    assert len(list(cache.iterdir())) == 3
    for quantize, name in ((None, "BF16"), ("q8", "Q8_0"), ("q4", "Q4_1")):
        model, found = load(folder, quantize=quantize)
        assert found
        assert name in model.details[-1] or quantize is None


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == "cut":
        content = content[:-1]
    elif how == "longer":
        content += b"x"
    elif how == "empty":
        content = bytearray()
    elif how == "foreign":
        content[:8] = b"GGUF    "
    elif how == "head":
        content[saved.HEADER.size + 40] ^= 1
    elif how == "numbers":
        start = content.index(b"\n", saved.HEADER.size)
        content[start + 24] ^= 1
    elif how == "sizes":
        content[41] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "longer", "empty", "foreign", "head", "numbers", "sizes"])
def test_a_damaged_file_is_written_anew(folder, cache, how):
    expected = load(folder)[0].generate("abc", **GREEDY)
    (file,) = cache.iterdir()
    damage(file, how)
    again, found = load(folder)
    assert not found
    assert again.generate("abc", **GREEDY) == expected
    assert load(folder)[1]


def test_every_byte_of_the_head_counts(folder, cache):
    load(folder)
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    length = saved.HEADER.size + saved.HEADER.unpack(sound[: saved.HEADER.size])[2]
    for place in range(0, length, 61):
        changed = bytearray(sound)
        changed[place] ^= 0x40
        file.write_bytes(changed)
        assert saved.find(folder, None) is None, place


def test_another_model_in_the_same_place_is_read_anew(folder, cache):
    load(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes())  # the same bytes: only the time is another
    os.utime(weights, ns=(1, 1))
    assert not load(folder)[1]
    assert load(folder)[1]
    assert len(list(cache.iterdir())) == 1


def test_the_code_that_packs_is_part_of_the_name(folder, monkeypatch):
    load(folder)
    monkeypatch.setattr(saved, "CODE", ("native",))
    assert not load(folder)[1]


def test_the_files_used_longest_ago_make_room(folder, cache, monkeypatch):
    for quantize in (None, "q8", "q4"):
        load(folder, quantize=quantize)
    files = {quantize: saved.place_of(folder, quantize) for quantize in (None, "q8", "q4")}
    for age, quantize in enumerate((None, "q4", "q8")):
        os.utime(files[quantize], (1000 + age, 1000 + age))
    assert load(folder)[1]  # used now
    left = cache / ".gone.1.part"
    left.write_bytes(b"half")
    os.utime(left, (1000, 1000))
    sizes = {quantize: file.stat().st_size for quantize, file in files.items()}
    monkeypatch.setenv(saved.MOST_VARIABLE, str(sizes[None] + 2 * sizes["q8"]))
    files["q8"].unlink()
    assert not load(folder, quantize="q8")[1]
    assert sorted(cache.iterdir()) == sorted(files.values())
    monkeypatch.setenv(saved.MOST_VARIABLE, str(max(2 * sizes["q8"], sizes[None] + sizes["q8"])))
    files["q8"].unlink()
    load(folder, quantize="q8")
    assert sorted(cache.iterdir()) == sorted([files[None], files["q8"]])


def test_nothing_is_kept_where_nothing_may_be(folder, cache, monkeypatch):
    monkeypatch.setenv(saved.MOST_VARIABLE, "0")
    load(folder)
    assert not cache.exists()
    monkeypatch.setenv(saved.MOST_VARIABLE, "much")
    with pytest.raises(BadInput, match="not a number of bytes: 'much'"):
        zhixing.load(folder)


def test_without_a_place_for_it_the_model_opens_all_the_same(folder, cache):
    cache.parent.mkdir()
    cache.write_text("a file in the place of the folder")
    assert load(folder)[0].generate("abc", **GREEDY) == load(folder)[0].generate("abc", **GREEDY)


def test_adapters_are_not_kept(folder, cache):
    opened = open_for_writing(folder)
    saved.wait()
    for file in cache.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert opened.decoder is not None
    saved.keep(folder, None, opened.decoder)
    saved.wait()
    assert not list(cache.iterdir())


def test_configurations_survive():
    yarn = RopeScaling("yarn", factor=4.0, original_context=64, attention_factor=1.1385)
    config = TransformerConfig(
        vocab_size=97, **{**SIZES, "layers": 3}, rope_scaling=yarn, local_rope_theta=1e4, window=8,
        window_layers=(True, False, True), rotary_layers=(True, True, False), attention_scale=0.3, norm_eps=1e-5,
        local_rope_scaling=RopeScaling("linear", factor=8.0),
    )  # fmt: skip
    assert saved._config_from(json.loads(json.dumps(dataclasses.asdict(config)))) == config

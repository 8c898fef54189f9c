"""Writing GGUF files: what was written reads back as it was, in every family, and the `gguf` package reads it too."""

import dataclasses
import json
import os
import subprocess

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from tests.checkpoints.gguf.cases import (
    CASES,
    REFUSED,
    SMALL,
    VOCABULARY,
    byte_tokenizer,
    model_folder,
    texts,
)
from zhixing.checkpoints.gguf import write
from zhixing.checkpoints.gguf.read import load_gguf
from zhixing.checkpoints.gguf.write import write_gguf
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.block_kinds import Q4_K
from zhixing.models.quantized import BlockMatrix


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", CASES)
def test_every_family_reads_back_as_it_was(name, tmp_path):
    folder = model_folder(name, tmp_path)
    write_gguf(tmp_path / "m.gguf", folder, "f32")
    tokens = texts()
    with torch.no_grad():
        expected = folder.model(tokens)
        for compact in (False, True):
            again = load_gguf(tmp_path / "m.gguf", compact=compact)
            torch.testing.assert_close(again.model(tokens), expected, rtol=1e-4, atol=1e-4)
    config = folder.model.config
    found = dataclasses.replace(
        again.model.config, dropout=config.dropout, attention_dropout=config.attention_dropout, rope_scaling=None
    )
    if name == "gpt_neox-sequential":  # llama.cpp wants the shared table twice
        found = dataclasses.replace(found, tied=True)
    assert found == dataclasses.replace(config, rope_scaling=None)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2"])
def test_transformers_opens_it_with_the_same_logits(name, tmp_path):
    folder = model_folder(name, tmp_path)
    write_gguf(tmp_path / "m.gguf", folder, "f32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(folder.model(texts()), theirs(texts()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", REFUSED)
def test_what_gguf_cannot_express_is_refused_before_anything_is_written(case, tmp_path):
    with pytest.raises(BadInput) as caught:
        write_gguf(tmp_path / "m.gguf", model_folder(case, tmp_path, REFUSED), "f32")
    assert REFUSED[case][2] in str(caught.value)
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize("kind", write.KINDS)
def test_every_format_stays_within_its_own_error(kind, tmp_path):
    folder = model_folder("llama-tied", tmp_path)
    result = write_gguf(tmp_path / "m.gguf", folder, kind)
    again = load_gguf(tmp_path / "m.gguf", compact=False).model
    with torch.no_grad():
        expected, found = folder.model(texts()), again(texts())
    share = float((found - expected).square().mean() / expected.square().mean()) ** 0.5
    assert share < {"f32": 1e-6, "f16": 2e-3, "bf16": 2e-2, "q8_0": 3e-2}.get(kind, 0.5)
    assert result.size == (tmp_path / "m.gguf").stat().st_size
    assert result.peak_memory > 0
    assert sum(result.kinds.values()) == len(GGUFReader(tmp_path / "m.gguf").tensors)


def test_which_tensors_are_stored_how(tmp_path):
    folder = model_folder("llama", tmp_path)
    written = write_gguf(tmp_path / "m.gguf", folder, "q4_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["blk.0.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"
    assert kinds["output.weight"] == "Q8_0"  # it chooses the tokens
    assert kinds["token_embd.weight"] == kinds["blk.1.ffn_down.weight"] == "Q4_0"
    assert written.kinds == {"F32": 5, "Q8_0": 1, "Q4_0": 15}
    assert not written.notes[1:]
    long_blocks = write_gguf(tmp_path / "m.gguf", folder, "q4_k")  # rows of 64 do not hold blocks of 256
    assert long_blocks.kinds["Q8_0"] == 16
    assert "rows that Q4_K cannot hold" in long_blocks.notes[0]


def test_packed_weights_keep_their_bytes(tmp_path):
    write_gguf(tmp_path / "a.gguf", model_folder("phi3", tmp_path), "q8_0", name="x")
    again = load_gguf(tmp_path / "a.gguf", compact=True)
    assert isinstance(again.model.blocks[0].attention.query.weight, BlockMatrix)
    write_gguf(tmp_path / "b.gguf", again, "q8_0", name="x")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_metadata(tmp_path):
    tokenizer = byte_tokenizer()
    folder = model_folder("gemma3", tmp_path, tokenizer=tokenizer)
    folder.generation |= {"temperature": 0.7, "top_k": 20, "do_sample": True}
    write_gguf(tmp_path / "m.gguf", folder, "f16")
    entries = {key: field.contents() for key, field in GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert entries["general.architecture"] == "gemma3"
    assert entries["general.file_type"] == 1
    assert entries["gemma3.attention.sliding_window"] == 7
    assert entries["general.sampling.temp"] == pytest.approx(0.7)
    assert entries["general.sampling.top_k"] == 20
    assert len(entries["tokenizer.ggml.tokens"]) == VOCABULARY
    assert entries["tokenizer.ggml.tokens"][VOCABULARY - 1] == f"[PAD{VOCABULARY - 1}]"
    assert entries["tokenizer.ggml.token_type"][VOCABULARY - 1] == 5
    again = load_gguf(tmp_path / "m.gguf")
    assert again.generation["temperature"] == pytest.approx(0.7)
    assert again.tokenizer.encode("héllo 知行") == tokenizer.encode("héllo 知行")


def test_an_unknown_format_and_a_place_that_cannot_be_written(tmp_path):
    folder = model_folder("llama", tmp_path)
    written = write_gguf(tmp_path / "upper.gguf", folder, "Q8_0")  # as everybody else writes it
    assert written.kinds == write_gguf(tmp_path / "lower.gguf", folder, "q8_0").kinds
    with pytest.raises(BadInput, match=r"unknown GGUF format 'q3_k'"):
        write_gguf(tmp_path / "m.gguf", folder, "q3_k")
    (tmp_path / "file").write_text("x")
    with pytest.raises(MissingResource, match="file is in the place of a folder"):
        write_gguf(tmp_path / "file" / "m.gguf", folder, "f32")


def test_a_broken_weight_is_refused_and_leaves_the_old_file(tmp_path):
    folder = model_folder("llama", tmp_path)
    write_gguf(tmp_path / "m.gguf", folder, "f16")
    before = (tmp_path / "m.gguf").read_bytes()
    folder.model.blocks[1].mlp.up.weight.data[3, 3] = float("nan")
    with pytest.raises(BadInput, match="not a number"):
        write_gguf(tmp_path / "m.gguf", folder, "f16")
    folder.model.blocks[1].mlp.up.weight.data[3, 3] = 1e6
    with pytest.raises(BadInput, match="beyond the range of 16-bit"):
        write_gguf(tmp_path / "m.gguf", folder, "f16")
    assert (tmp_path / "m.gguf").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["m.gguf"]


def test_large_tensors_are_written_in_pieces(tmp_path, monkeypatch):
    folder = model_folder("gpt2", tmp_path)
    write_gguf(tmp_path / "a.gguf", folder, "q8_0", name="x")
    monkeypatch.setattr(write, "ROWS_AT_ONCE", 200)
    write_gguf(tmp_path / "b.gguf", folder, "q8_0", name="x")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_wide_rows_take_q4_k(tmp_path, monkeypatch):
    wide = {**SMALL, "hidden_size": 256, "intermediate_size": 256}
    folder = model_folder("wide", tmp_path, {"wide": ("LlamaConfig", wide)})
    result = write_gguf(tmp_path / "m.gguf", folder, "q4_k")
    assert not any("cannot hold" in note for note in result.notes)
    again = load_gguf(tmp_path / "m.gguf", compact=True)
    assert again.model.blocks[0].mlp.up.weight.parts[0].kind == Q4_K
    original, found = folder.model.blocks[0].mlp.up.weight.detach(), again.model.blocks[0].mlp.up.weight.expanded()
    assert float((found - original).square().mean() / original.square().mean()) ** 0.5 < 0.1


PEER = """
import json, sys, numpy, llama_cpp
job = json.load(sys.stdin)
model = llama_cpp.Llama(job["path"], n_ctx=128, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0)
model.eval(job["tokens"])
numpy.save(job["out"], numpy.array(model.scores[: len(job["tokens"])]))
"""


@pytest.mark.model
@pytest.mark.parametrize("name", [name for name in CASES if "window" not in name])
def test_llama_cpp_computes_the_same_logits(name, tmp_path):
    python = os.environ.get("ZHIXING_LLAMA_CPP_PYTHON")
    if not python:
        pytest.skip("ZHIXING_LLAMA_CPP_PYTHON names no Python with llama-cpp-python")
    folder = model_folder(name, tmp_path, tokenizer=byte_tokenizer())
    write_gguf(tmp_path / "m.gguf", folder, "f32", name="tiny")
    tokens = texts(1)
    job = {"path": str(tmp_path / "m.gguf"), "tokens": tokens[0].tolist(), "out": str(tmp_path / "out.npy")}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, "-c", PEER], input=json.dumps(job), text=True, check=True, env=environment)
    with torch.no_grad():
        ours = folder.model(tokens)[0].numpy()
    # llama.cpp looks GELU up in a table of 16-bit numbers.
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), ours, atol=5e-3 if name[0] == "g" else 1e-4)

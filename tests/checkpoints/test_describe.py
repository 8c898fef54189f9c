"""What a model is, said from headers alone: true, quick, and without torch."""

import json
import struct
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from zhixing.checkpoints.catalogue import catalogue
from zhixing.checkpoints.describe import describe
from zhixing.checkpoints.opening import check_model
from zhixing.core.errors import BadInput
from zhixing.core.files import hash_file

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "vocab_size": 100,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    content = {"a": torch.ones(10, 4), "b": torch.ones(6, dtype=torch.bfloat16), "ids": torch.arange(3)}
    save_file(content, tmp_path / "model.safetensors")
    tokenizer = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
        "added_tokens": [{"content": "<s>"}, {"content": "a"}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: 'mit'\n---\n# Tiny\nlicense: other\n")
    return tmp_path


def test_a_folder(folder):
    facts = describe(folder)
    assert (facts.family, facts.parameters, facts.context, facts.licence) == ("llama", 46, 64, "mit")
    assert facts.types == {"F32": 160, "I64": 24, "BF16": 12}
    assert facts.sizes == {"layers": 2, "width": 8, "heads": 2, "vocab_size": 100}
    assert (facts.tokenizer, facts.template) == ("BPE, 3 tokens", 14)
    assert facts.files["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    json.dumps(facts.to_json())


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlicense: apache-2.0\n---", "apache-2.0"),
        ("license: mit", "see LICENSE.txt"),
        ("---\ntitle: x\n---\nlicense: mit\n", "see LICENSE.txt"),
    ],
)
def test_licences(folder, card, licence):
    (folder / "README.md").write_text(card)
    (folder / "LICENSE.txt").write_text("...")
    assert describe(folder).licence == licence


def test_templates_in_every_place(folder):
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "default", "template": "12345"}]})
    )
    assert describe(folder).template == 5
    (folder / "chat_template.jinja").write_text("123")
    assert describe(folder).template == 3


def test_a_large_tokenizer_is_searched_and_not_parsed(folder, monkeypatch):
    monkeypatch.setattr("zhixing.checkpoints.describe.WHOLE_TOKENIZER", 10)
    assert describe(folder).tokenizer == "BPE"
    (folder / "tokenizer.json").write_text("no tokenizer at all")
    assert describe(folder).tokenizer == "unknown kind"


def test_what_is_damaged_beside_the_weights_is_a_note(folder):
    (folder / "tokenizer_config.json").write_text("{")
    assert "not valid JSON" in describe(folder).notes[0]
    (folder / "config.json").write_text("[]")
    with pytest.raises(BadInput, match="not a mapping"):
        describe(folder)


def test_looking_needs_no_torch(folder):
    code = f"""
import sys
from pathlib import Path
from zhixing.checkpoints.describe import describe
describe(Path({str(folder)!r}))
assert not any(name == "torch" or name.startswith("torch.") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_size_does_not_matter(folder):
    size = 1 << 40  # a sparse file, which takes no room on the disk
    text = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    start = time.process_time()
    assert describe(folder).parameters == size // 4
    assert time.process_time() - start < 0.5


@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m", "minilm"])
def test_models_of_the_catalogue(name):
    entry = catalogue()[name]
    record = entry.cached()
    if record is None:
        pytest.skip(f"not fetched: zhixing models pull {name}")
    for source in entry.sources:
        if (there := source.cached()) is not None:
            top = there.path if there.path.is_dir() else there.path.parent
            assert all(hash_file(top / file) == wanted for file, wanted in source.sha256.items())
    facts = describe(record.path)
    assert abs(facts.parameters - entry.parameters) < 1000
    assert check_model(record.path) == []

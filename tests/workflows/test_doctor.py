"""What the doctor says, with the core and without it, and that limits of containers are seen."""

import importlib.metadata
import json

import pytest
import torch
from tests.command_line import app
from typer.testing import CliRunner

from zhixing.checkpoints.folder import save_folder
from zhixing.core.device import processor_quota
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native import library
from zhixing.workflows.doctor import examine


@pytest.fixture
def folder(tmp_path):
    sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp_width": 16, "context": 64}
    model = Transformer(TransformerConfig(vocab_size=50, **sizes, **FIXED))
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(tmp_path / "model", model.eval(), None, "llama")
    return tmp_path / "model"


def test_everything_is_measured(folder):
    found = examine(str(folder))
    lines = "\n".join(found.lines())
    assert found.processor["usable"] >= 1
    assert 0 < found.memory["free"] <= found.memory["total"]
    assert all(rate > 0 for rate in found.rates.values())
    assert "GGUF" in lines
    if library.is_available():
        assert 1e9 < found.memory["bandwidth"] < 1e13
        assert library.kernels() in lines
        assert found.model is not None
        assert found.model.endswith("computed by the C++ core")


def test_without_the_core_it_says_what_that_costs_and_how_to_get_it(folder, monkeypatch):
    monkeypatch.setattr(library, "_load", lambda: "the C++ core is not built")
    found = examine(str(folder), measured=False)
    lines = "\n".join(found.lines())
    assert "not built" in lines
    assert "times slower" in lines
    assert "C++17 compiler" in lines
    assert found.paths["decoders from GGUF files"].startswith("PyTorch")
    assert "computed by PyTorch: the C++ core is not built" in (found.model or "")


def test_missing_packages_are_named_by_extra(monkeypatch):
    requires = [
        "torch>=2",
        'pyarrow>=18; extra == "data"',
        "no-such-thing>=1; extra == 'track'",
        'pytest; extra == "test"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    assert examine(measured=False).extras == {"data": [], "track": ["no-such-thing"]}


def test_the_command_prints_json():
    done = CliRunner().invoke(app, ["doctor", "--quick", "--json"])
    assert done.exit_code == 0, done.output
    assert {"processor", "core", "paths"} <= json.loads(done.stdout).keys()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_the_limits_of_a_container_are_seen(files, expected, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert processor_quota(tmp_path) == expected

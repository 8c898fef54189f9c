"""docs/generation.md: every block of Python runs, every command works, every option is named."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import zhixing
from zhixing.checkpoints.folder import save_folder
from zhixing.cli import generate
from zhixing.families.llama import FIXED
from zhixing.generation import SamplingOptions
from zhixing.models import ops
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "generation.md").read_text(encoding="utf-8")
EXAMPLES = [*re.findall(r"\| `(--[^|]+)` \|", PAGE)]
COMMANDS = re.findall(r"^\$ zhixing generate runs/quickstart (.+)$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch):
    """Which library multiplies faster does not matter here, and measuring it takes longer than the test."""
    monkeypatch.setattr(ops, "select_matmul", lambda: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("model") / "model"
    tokenizer = train_tokenizer(["to know is to act, to act is to know. 知行合一 " * 9], "byte-bpe", 300)[0]
    sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp_width": 16, "context": 64}
    model = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, **sizes, **FIXED))
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(where, model.eval(), tokenizer, "llama")
    return where


def run(folder, arguments):
    app = typer.Typer()
    app.command()(generate.command)
    return CliRunner().invoke(app, [str(folder), *shlex.split(arguments)])


def test_the_python_blocks_run_one_after_the_other(folder, monkeypatch, capsys):
    load = zhixing.load
    monkeypatch.setattr(zhixing, "load", lambda ref: load(folder))
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(set(names["answer"].tokens)) == len(names["answer"].tokens)
    assert names["best"][0].score == -len(names["best"][0].text)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_table_work(folder, example):
    length = "" if "max-tokens" in example else " --max-tokens 6"
    result = run(folder, f"'To know' {example}{length}")
    assert result.exit_code == 0, result.exception


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_work(folder, command):
    result = run(folder, command + " --max-tokens 6")
    assert result.exit_code == 0, result.exception


def test_every_option_is_on_the_page_and_every_flag_is_an_option():
    names = {field.name for field in dataclasses.fields(SamplingOptions)} - {"end_tokens", "n", "seed"}
    assert not {name for name in names if f"`{name}`" not in PAGE and f"{name}=" not in PAGE}
    flags = set(re.findall(r"--([a-z-]+)", " ".join([*EXAMPLES, *COMMANDS]))) - {"samples"}
    assert {flag.replace("-", "_") for flag in flags} <= names | {"seed"}
    assert len(EXAMPLES) == 19
    assert len(COMMANDS) == 6

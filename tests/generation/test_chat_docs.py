"""docs/chat.md: the Python runs, the commands of the shell work, those of the terminal are named."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from tests.generation.chat_model import chat_network, chat_tokenizer
from typer.testing import CliRunner

import zhixing
from zhixing.checkpoints.folder import save_folder
from zhixing.cli import chat
from zhixing.cli.chat_commands import Session
from zhixing.models import ops

PAGE = (Path(__file__).parents[2] / "docs" / "chat.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(ops, "select_matmul", lambda: None)  # measuring it takes longer than the test
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = chat_tokenizer("qwen2.5-tools")
    where = tmp_path_factory.mktemp("model") / "model"
    save_folder(where, chat_network(tokenizer, 2000), tokenizer, "llama")
    return where


def test_the_python_blocks_run_one_after_the_other(folder, monkeypatch, capsys):
    load = zhixing.load
    monkeypatch.setattr(zhixing, "load", lambda ref: load(folder))
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["said"] == ["2<|im_end|>", "4<|im_end|>"]
    assert names["learned"] == sum(
        len(names["model"].tokenizer.encode(text, parse_special=True)) for text in names["said"]
    )
    assert names["stream"].reply.reused > 0 and names["reply"].message in names["messages"]


def test_the_commands_of_the_shell_work(folder):
    commands = re.findall(r"^\$ (?:echo (\".*?\") \| )?zhixing chat smollm2-135m (--.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    app = typer.Typer()
    app.command()(chat.command)
    for said, arguments in commands:
        result = CliRunner().invoke(app, [str(folder), *shlex.split(arguments)], input=said.strip('"') or None)
        assert result.exit_code == 0, (arguments, result.output, result.exception)


def test_the_commands_of_the_terminal_are_named(folder):
    model = zhixing.load(folder)
    known = set(Session(model.conversation(), name="x", model=model).commands)
    named = set(re.findall(r"`/(\w+)", PAGE))
    assert named <= known
    assert known - named == {"help"}

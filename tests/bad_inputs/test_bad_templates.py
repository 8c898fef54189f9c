"""Model folders whose chat template is damaged or hostile: one clear message, soon; all else still works."""

import json
import os
import shutil
import sys

import pytest

from tests.bad_inputs.support import check
from tests.generation.chat_model import chat_network, chat_tokenizer
from tests.tokenization.test_template_sandbox import BOMBS
from zhixing.checkpoints.folder import save_folder

SOME_BOMBS = [
    "multiplied text",
    "loops in loops",
    "format width",
    "doubling list",
    "macro that calls itself",
    "long source",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    tokenizer = chat_tokenizer()
    save_folder(folder, chat_network(tokenizer, 600), tokenizer, "llama")
    return folder


@pytest.fixture
def model(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zhixing.models.ops.select_matmul", lambda: None)  # measuring takes longer than all the rest
    return shutil.copytree(whole, tmp_path / "model")


def set_template(folder, template):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))


def say(call, *arguments):
    return call("chat", "model", "--greedy", "--max-tokens", 4, "-m", "Hi", *arguments)


def test_the_folder_is_whole_to_begin_with(model, call):
    assert say(call).code == 0


@pytest.mark.parametrize("name", SOME_BOMBS)
def test_a_bomb_is_one_message(model, call, name):
    set_template(model, BOMBS[name])
    check(say(call), 2, "chat template")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% if x %}", ["broken: line 1"]),
        ("{{ messages[7].content }}", ["fails (line 1)"]),
        ("\n{{ raise_exception('only poems') }}", ["refuses these messages: only poems"]),
        ("{{ ''.__class__.__mro__ }}", ["may not"]),
        ("{% include '/etc/passwd' %}", ["no loader"]),
        ("\ud800", ["half a character"]),
        (7, ["neither a text nor templates by name"]),
        ([{"name": "a"}], ["neither a text nor templates by name"]),
        ([{"name": "a", "template": "x"}, {"name": "b", "template": "y"}], ["none is the default", "a, b"]),
        ({str(number): "x" for number in range(99)}, ["99 chat templates"]),
    ],
)
def test_a_damaged_template_is_one_message(model, call, template, words):
    set_template(model, template)
    check(say(call), 2, *words)
    assert call("generate", "model", "Hi", "--greedy", "--max-tokens", 2).code == 0  # which needs no template


def test_damaged_template_files(model, call):
    file = model / "chat_template.jinja"
    file.write_bytes(b"{{ messages }}\xff")
    check(say(call), 2, "not UTF-8 text (byte 14)", "chat_template.jinja")
    file.write_text("")
    check(say(call), 2, "the file is empty")
    file.unlink()
    more = model / "additional_chat_templates"
    more.mkdir()
    for number in range(99):
        (more / f"t{number}.jinja").write_text("x")
    check(say(call), 2, "99 chat templates")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_template_that_may_not_be_read(model, call):
    (model / "chat_template.jinja").write_text("x")
    (model / "chat_template.jinja").chmod(0)
    check(say(call), 3, "no permission")


def test_text_that_cannot_be_said(model, call, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    check(call("chat", "model", "-m", "half a \ud83d character"), 2, "half a character")
    check(call("chat", "model", "-m", "word " * 900), 2, "the model's context is 600")

"""The READMEs say the same in both languages, and every command in them works."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.command_line import app
from zhixing.core.comparison_recipe import load_comparison
from zhixing.core.recipe import load_recipe

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(path, language):
    return [body for kind, body in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands(path):
    lines = [line for body in blocks(path, "sh") for line in body.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_both_languages_have_the_same_code_and_outline():
    for language in ("sh", "python", "text"):
        assert blocks(ENGLISH, language) == blocks(CHINESE, language)
    for pattern in (r"^#+ ", r"^\| "):
        counts = [
            len(re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)) for path in (ENGLISH, CHINESE)
        ]
        assert counts[0] == counts[1] > 0


def test_linked_files_exist():
    for path in (ENGLISH, CHINESE):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), target


def test_every_zhixing_command_is_one_that_exists():
    group = typer.main.get_command(app)
    found = 0
    for words in commands(ENGLISH):
        if Path(words[0]).name != "zhixing":
            continue
        command, arguments = group, words[1:]
        while hasattr(command, "commands"):
            assert arguments[0] in command.commands, words
            command, arguments = command.commands[arguments[0]], arguments[1:]
        command.make_context(words[1], list(arguments))  # refuses unknown options and missing arguments
        found += 1
    assert found >= 8


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [words[1] for words in commands(ENGLISH) if words[0] == "make"]
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_python_example_compiles():
    (example,) = blocks(ENGLISH, "python")
    compile(example, "README.md", "exec")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    load = load_comparison if "variants:" in path.read_text(encoding="utf-8") else load_recipe
    assert load(path).name == path.stem


@pytest.mark.slow
def test_every_zhixing_command_runs_as_printed(tmp_path):
    """Runs them in order, in a folder with a little text; only the two minutes of training are shortened."""
    (tmp_path / "my-texts").mkdir()
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ENGLISH, tmp_path)
    for number, path in enumerate(sorted((ROOT / "src").rglob("*.py"))[:40]):
        shutil.copy(path, tmp_path / "my-texts" / f"{number}.py")
    first = [sys.executable, "-m", "zhixing.cli.main"]
    subprocess.run([*first, "quickstart", "--minutes", "0.05"], cwd=tmp_path, check=True)
    for words in commands(ENGLISH):
        if words[0] == "zhixing":
            shorter = ["--minutes", "0.05"] if words[1] == "quickstart" else []
            done = subprocess.run([*first, *words[1:], *shorter], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, (words, done.stderr)
    (example,) = blocks(ENGLISH, "python")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "M parameters" in done.stdout
    assert "bits per byte" in done.stdout

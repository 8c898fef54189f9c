"""The help of every command: each example on a line of its own, and each can be given as it stands."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.command_line import app
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from zhixing.cli.commands import ENTRIES, called_in, command_line

ROOT = get_command(app)


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every command with the words that call it."""
    if not isinstance(group, TyperGroup):
        yield before, group
        return
    for name in sorted(group.commands):
        yield from commands(group.commands[name], (*before, name))


ALL = dict(commands(ROOT))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_example_has_a_line_of_its_own_and_parses(words: tuple[str, ...]) -> None:
    command = ALL[words]
    shown = CliRunner().invoke(app, [*words, "--help"]).output
    lines = [line.strip() for line in shown.splitlines() if "Example:" in line]
    written = [line for line in (command.help or "").splitlines() if line.startswith("Example: ")]
    assert written, "no example"
    assert lines == written
    for line in lines:
        example = shlex.split(line.removeprefix("Example: "))
        given = example[example.index("zhixing") + 1 :]
        assert tuple(given[: len(words)]) == words
        command.make_context(" ".join(words), given[len(words) :])  # parses, and calls nothing


def test_the_lines_of_help_are_those_of_the_commands() -> None:
    assert [entry.name for entry in ENTRIES] == list(ROOT.commands)  # type: ignore[attr-defined]
    for entry in ENTRIES:
        assert ROOT.commands[entry.name].get_short_help_str(300) == entry.summary  # type: ignore[attr-defined]
    shown = [CliRunner().invoke(command_line(called), ["--help"]).output for called in (None, "", "train", "models")]
    assert shown[0] == shown[1] == shown[2]
    assert sorted(shown[0].splitlines()) == sorted(shown[3].splitlines())  # a group comes after all commands


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], ""),
        (["--help"], ""),
        (["-q", "train", "x.yaml"], "train"),
        (["models", "list"], "models"),
        (["trian"], "trian"),
    ],
)
def test_the_command_that_is_called_is_found_before_its_code_is_read(arguments, called, monkeypatch) -> None:
    monkeypatch.delenv("_ZHIXING_COMPLETE", raising=False)
    assert called_in(arguments) == called
    monkeypatch.setenv("_ZHIXING_COMPLETE", "complete_bash")
    assert called_in(arguments) is None


def test_options_before_the_command_take_no_values() -> None:
    """Else the first word that is no option could be a value."""
    assert all(option.is_flag or option.name.endswith("_completion") for option in ROOT.params)


def test_only_the_code_of_the_called_command_is_read() -> None:
    code = (
        "import sys; sys.argv = ['zhixing', 'runs', '--help']\n"
        "from zhixing.cli.main import main\n"
        "try: main()\nexcept SystemExit as ended: assert not ended.code\n"
        "read = {name for name in sys.modules if name.startswith('zhixing.cli.')}\n"
        "assert read == {'zhixing.cli.main', 'zhixing.cli.commands', 'zhixing.cli.runs'}, read\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "runs" in done.stdout


def test_a_misspelt_command_is_answered_with_the_right_one() -> None:
    done = subprocess.run([sys.executable, "-m", "zhixing.cli.main", "trian"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "train" in done.stderr

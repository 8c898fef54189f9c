"""Every command in docs/models.md exists with the options it is shown with."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from tests.command_line import app

TEXT = Path(__file__).parents[2].joinpath("docs/models.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_as_shown(line):
    name, *words = shlex.split(line)
    assert name == "zhixing"
    command = get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words, resilient_parsing=False)

"""The help of every command: each example on a line of its own, and each can be given as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from zhixing.cli.main import app

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

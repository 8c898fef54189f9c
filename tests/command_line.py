"""The whole command line, for tests that call commands by it."""

from zhixing.cli.commands import command_line

app = command_line()

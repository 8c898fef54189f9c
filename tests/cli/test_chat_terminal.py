"""`zhixing chat` in a real terminal: a pseudo-terminal types, presses Ctrl-C, and reads what a person would see."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.generation.chat_model import chat_network, chat_tokenizer

from zhixing.checkpoints.folder import save_folder

pty = pytest.importorskip("pty")
pytestmark = pytest.mark.slow


class Terminal:
    """A process behind a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "zhixing.cli.main", *arguments])

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def read_until(self, pattern: str, seconds: float = 60) -> str:
        """Returns what was shown up to and with a pattern; what follows is left for the next time."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} is not in {self.shown!r}"
            if select.select([self._file], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._file, 65536).decode(errors="replace")
                except OSError:  # how Linux says that the other side is closed
                    assert re.search(pattern, self.shown), f"{pattern!r} is not in {self.shown!r}"
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def exit_code(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._file)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    tokenizer = chat_tokenizer()
    save_folder(tmp_path / "model", chat_network(tokenizer, 20_000), tokenizer, "llama")
    opened = Terminal("chat", str(tmp_path / "model"), "--greedy", "--max-tokens", "15000", "--min-tokens", "15000")
    yield opened
    opened.close()


def test_control_c_stops_answers_and_only_twice_the_program(terminal: Terminal) -> None:
    terminal.read_until("> ")
    terminal.type("Hello\r")
    terminal.read_until("Hello\r\n.")
    time.sleep(0.3)
    terminal.type("\x03")
    assert "stopped by the user" in terminal.read_until(r"context [\d,]+ of 20,000\]")
    terminal.read_until("> ")
    terminal.type("/set max_tokens=3 min_tokens=3\r")
    terminal.read_until("max_tokens = 3")
    terminal.type("one\\\rtwo\r")
    terminal.read_until(r"\. two")
    terminal.read_until("/continue goes on")
    terminal.type("/edit\r")
    terminal.read_until("> /edit\r\n> one.*two")  # what was said stands on the line, to be changed
    terminal.type("!\r")
    terminal.read_until("/continue goes on")
    terminal.type("/history\r")
    history = terminal.read_until(r"one\r\ntwo!\r\n\S*assistant:")
    assert "\x1b[1muser:" in history and "\x0b" not in history  # what the model writes does not command the terminal
    terminal.read_until("\n> ")
    terminal.type("\x03")
    terminal.read_until("Ctrl-C again[^>]*> ")
    terminal.type("\x03")
    assert terminal.exit_code() == 0


def test_control_d_ends(terminal: Terminal) -> None:
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0

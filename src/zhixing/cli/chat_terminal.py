"""A person at the terminal: lines, blocks of lines, editing, Ctrl-C and Ctrl-D. And lines that are piped in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zhixing.cli.chat_commands import Session

PROMPT, MORE = "> ", ". "
BLOCK = '"""'


def converse(session: Session) -> None:
    """Reads what a person types and answers it, until /quit, Ctrl-D, or Ctrl-C twice.

    Nothing of it is written to disk but by /save and --save.
    """
    from zhixing.core.errors import ZhixingError

    lines = Lines([f"/{name}" for name in session.commands])
    session.greet()
    warned = False
    while True:
        try:
            text = lines.read()
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            if warned:
                return
            warned = True
            session.say("Ctrl-C again, Ctrl-D or /quit ends")
            continue
        warned = False
        try:
            if text.strip() and not session.take(text, lines):
                return
        except KeyboardInterrupt:  # outside of an answer, which stops by itself
            session.say("stopped")
        except ZhixingError as error:
            session.output.complain(str(error))


class Lines:
    """What is typed, with the history of this session and completion where the system's line editor is there.

    Args:
        words: What can be completed.
    """

    def __init__(self, words: list[str]) -> None:
        self._words = sorted(words)
        self._editor: Any = None
        try:
            import readline
        except ImportError:
            return
        self._editor = readline
        readline.set_completer(self._complete)
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")

    def _complete(self, text: str, state: int) -> str | None:
        fitting = [word for word in self._words if word.startswith(text)] if text.startswith("/") else []
        return fitting[state] if state < len(fitting) else None

    def read(self, begun: str = "") -> str:
        """Returns one message: a line, lines that end in a backslash, or a block between lines of three quotes.

        Args:
            begun: What stands on the line already, to be edited.

        Raises:
            EOFError: Ctrl-D.
        """
        if begun and self._editor is not None:
            self._editor.set_startup_hook(lambda: self._editor.insert_text(begun.replace("\n", "\\n")))
        try:
            line = input(PROMPT)
        finally:
            if self._editor is not None:
                self._editor.set_startup_hook(None)
        return read_more(line, lambda: input(MORE))

    def edit(self, begun: str) -> str:
        """Lets a text be edited: on the line where that is possible, else typed anew."""
        text = self.read(begun)
        return text.replace("\\n", "\n") if begun and self._editor is not None else text


def read_more(line: str, following: Any) -> str:
    """Returns a message that begins with a line, reading on where the line says so."""
    if line.startswith(BLOCK):
        rest = line[len(BLOCK) :]
        if rest.endswith(BLOCK) and len(rest) >= len(BLOCK):
            return rest.removesuffix(BLOCK)
        lines = [rest] if rest else []
        while not (line := following()).endswith(BLOCK):
            lines.append(line)
        last = line.removesuffix(BLOCK)
        return "\n".join([*lines, last] if last else lines)
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        line = following()
    return "\n".join([*lines, line])


def piped_lines() -> Iterator[str]:
    """Yields the messages of standard input, one per line, continued as in the terminal; empty lines are none.

    Raises:
        BadInput: A line is not UTF-8 text.
    """
    from zhixing.core.errors import BadInput

    def decoded() -> Iterator[str]:
        for number, line in enumerate(sys.stdin.buffer, start=1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise BadInput(
                    f"not UTF-8 text (byte {error.start})",
                    where=f"standard input, line {number}",
                    remedy="convert it with iconv",
                ) from error

    lines = decoded()

    def following() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise BadInput(
                "the input ends inside a message", where="standard input", remedy='close the block with """'
            ) from None

    for line in lines:
        text = read_more(line, following)
        if text.strip():
            yield text

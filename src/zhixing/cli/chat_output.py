"""What `zhixing chat` shows: answers on standard output, all else on standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from zhixing.generation.reply import Reply, ReplyStream


VISIBLE = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
VISIBLE |= {0x7F: "\u2421", **dict.fromkeys(range(0x80, 0xA0), "\ufffd")}
"""Control characters as signs: a model, or whoever wrote what it quotes, shall not command the terminal."""


def show(text: str, end: str = "") -> None:
    """Writes text to standard output; to a terminal without control characters."""
    print(text.translate(VISIBLE) if sys.stdout.isatty() else text, end=end, flush=True)


class Output:
    """The two streams of the terminal.

    Args:
        as_json: Print one JSON object per answer, when it is whole.
    """

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json

    def say(self, message: str) -> None:
        """Writes a note."""
        from zhixing.core.progress import is_quiet

        if not is_quiet():
            typer.secho(message, err=True, dim=sys.stderr.isatty())

    def complain(self, message: str) -> None:
        """Writes what went wrong."""
        typer.secho(f"zhixing: {message}", err=True)

    def answer(self, stream: ReplyStream, context: int) -> Reply:
        """Shows an answer as it is written, and then how fast; Ctrl-C ends it.

        Args:
            stream: The answer.
            context: Tokens that the model can read.
        """
        try:
            for piece in stream:
                self._print(piece)
        except KeyboardInterrupt:  # while printing; inside the model it is the stream that ends
            self._print(stream.stop())
        reply = stream.reply
        print(json.dumps(reply.to_json(), ensure_ascii=False) if self._as_json else "", flush=True)
        self._say_facts(reply, context)
        return reply

    def _print(self, piece: str) -> None:
        if not self._as_json:
            show(piece)

    def _say_facts(self, reply: Reply, context: int) -> None:
        for note in reply.notes:
            self.say(note)
        for call in reply.tool_calls:
            function = call["function"]
            self.say(f"calls {function['name']}({function['arguments']}); give its result with /result TEXT")
        answer = reply.generation
        speed = f", {answer.tokens_per_second:.1f} tokens/s" if answer.tokens_per_second else ""
        read = answer.prompt_tokens - reply.reused
        facts = f"{len(answer.tokens)} tokens{speed}; read {read} in {answer.prompt_seconds:.2f} s"
        if answer.finish_reason == "length":
            facts += f"; {answer.detail}, /continue goes on"
        elif answer.finish_reason != "stop":
            facts += f"; {answer.detail}" + ("" if answer.tokens else ", /regenerate answers")
        self.say(f"[{facts}; context {answer.prompt_tokens + len(answer.tokens):,} of {context:,}]")

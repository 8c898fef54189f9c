"""Fences around data: how a text that looks like a special token goes through a chat template and stays text.

Code points that no text uses are put around such parts of messages. In what the template then writes, everything
outside of the fences is its own. For encoding it is turned around: the template's tokens get fences, and a tokenizer
that knows them by these names only (`definition.with_renamed_tokens`) reads nothing else as a token.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.tokenization.chat_template import NONCHARACTERS, Mark
from zhixing.tokenization.chat_turns import Span


@dataclass(frozen=True)
class Prepared:
    """A rendered text in which only the template's tokens have fenced names.

    Attributes:
        text: The text.
        borders: Places in the rendering, and where they are in `text`.
        control: How many tokens the template wrote.
    """

    text: str
    borders: tuple[Span, ...]
    control: int

    def place(self, rendered: int) -> int:
        """Returns where a place of the rendering is now."""
        index = bisect_right(self.borders, rendered, key=lambda border: border[0]) - 1
        begin, moved = self.borders[index]
        limit = self.borders[index + 1][1] if index + 1 < len(self.borders) else len(self.text)
        return min(moved + rendered - begin, limit)


@dataclass(frozen=True)
class Fences:
    """Two code points that no text here uses, to tell data from what the template writes."""

    opening: str
    closing: str

    @classmethod
    def outside(cls, used: set[str]) -> Fences:
        """Returns fences that are not among these characters."""
        free = [character for character in NONCHARACTERS if character not in used]
        if len(free) < 2:
            raise BadInput(
                "the messages use the code points that are reserved for no use",
                remedy="remove U+FDD0 to U+FDEF from them",
            )
        return cls(*free[:2])

    def named(self, token: str) -> str:
        """Returns a token in fences: as data before rendering, as a token's name afterwards."""
        return f"{self.opening}{token}{self.closing}"

    def around(self, pattern: Any) -> Mark:
        """Returns what puts fences around everything in a message that looks like a control token."""
        return lambda text, role: pattern(role).sub(lambda found: self.named(found[0]), text)

    def without(self, text: str) -> str:
        """Returns a text without any fences."""
        return text.replace(self.opening, "").replace(self.closing, "")

    def prepare(self, rendered: str, control: re.Pattern[str]) -> Prepared:
        """Takes the fences off the data and puts them around the tokens that the template wrote.

        A fence whose other half the template has cut off is dropped; the texts beside it stay apart, so that no token
        comes together across it.
        """
        pieces: list[str] = []
        borders: list[Span] = []
        length = count = 0

        def add(place: int, piece: str) -> None:
            nonlocal length
            borders.append((place, length))
            pieces.append(piece)
            length += len(piece)

        fence = re.compile(f"{self.opening}({control.pattern}){self.closing}|[{self.opening}{self.closing}]")
        end = 0
        for found in [*fence.finditer(rendered), None]:
            outside = rendered[end : found.start() if found else len(rendered)]
            begin = 0
            for token in control.finditer(outside):
                add(end + begin, outside[begin : token.start()])
                add(end + token.start(), self.named(token[0]))
                begin = token.end()
                count += 1
            add(end + begin, outside[begin:])
            if found:
                add(found.start(), found[1] or "")
                end = found.end()
        return Prepared("".join(pieces), tuple(borders), count)

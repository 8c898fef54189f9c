"""`rewrite`: a text corrected, shortened or in another style, by a chat model; long ones part by part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.tasks.base import TEXT, Row
from zhixing.tasks.texts import Written, open_text_writer, write_parts
from zhixing.tasks.writer import CHAT_MODEL

STYLES = {
    "correct": ("Correct all mistakes of spelling, grammar and punctuation.", "改正所有错别字、语法和标点错误。"),
    "shorten": ("Say the same in fewer words.", "用更少的字说同样的意思。"),
    "formal": ("Write the text in a formal style.", "改写成正式的文体。"),
    "friendly": ("Write the text in a friendly tone.", "改写成亲切的语气。"),
    "simple": ("Write the text in simple words and short sentences.", "用简单的词和短句改写。"),
}
"""Ways to rewrite, as instructions: English, Chinese."""

PART = 384
"""Tokens of a part that is rewritten at once."""


class Rewrite:
    """The task `rewrite`.

    Args:
        ref: A chat model, or an encoder-decoder: one trained to rewrite, or one that is told how by the next three.
        style: One of `STYLES`; None: `instruction` says it.
        instruction: What to do, in your own words.
        prompt: A prompt file.
    """

    name = "rewrite"
    columns = (TEXT,)
    outputs = ("prediction", "parts", "cut")
    chunk = 8

    def __init__(
        self,
        ref: str | Path = CHAT_MODEL,
        style: str | None = None,
        *,
        instruction: str | None = None,
        prompt: str | Path | None = None,
    ) -> None:
        if style is not None and instruction is not None:
            raise BadInput("a style and an instruction were given: choose one", remedy="leave one out")
        told = style is not None or instruction is not None
        style = style or "correct"
        if style not in STYLES:
            raise unknown_name("style", style, STYLES)
        words = (instruction, instruction) if instruction else STYLES[style]
        values = {language: {"instruction": text} for language, text in zip(("en", "zh"), words, strict=True)}
        self.writer = open_text_writer(ref, "rewrite", values, prompt=prompt, most=PART, instructed=told)

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return self.writer.identity()

    def run(self, rows: Sequence[Row]) -> list[Written]:
        """See `Task.run`."""
        return write_parts(self.writer, [row["text"] for row in rows], small=False)

"""`summarize`: by a trained encoder-decoder or by a chat model; long texts part by part, then the sums of the parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.tasks.base import Column, Row
from zhixing.tasks.texts import PromptWriter, Written, open_text_writer
from zhixing.tasks.writer import CHAT_MODEL

LENGTHS = {
    "title": ("a title of at most twelve words", "一个标题"),
    "sentence": ("one sentence", "一句话"),
    "short": ("two or three sentences", "两三句话"),
    "long": ("one paragraph", "一段话"),
}
"""How long a summary is to be, in the words of the prompts: English, Chinese."""

DOCUMENT = Column(
    "text", ("text", "article", "document", "dialogue", "content", "body", "abst", "abstract", "正文", "摘要", "全文")
)
ROUNDS = 6
"""How often the sums of parts are summarised again, at most: of what does not get shorter, all sums stay."""


class Summarize:
    """The task `summarize`.

    Args:
        ref: An encoder-decoder trained on summaries, or a chat model.
        length: "title", "sentence", "short" or "long"; a trained model has its own.
        prompt: A prompt file for a chat model.
        beams: Beams of an encoder-decoder.
        quantize: "q8" or "q4": let the native core quantise weights that are not quantised yet.
        kv_cache: "f16", "q8" or "f32": how the core keeps keys and values.
    """

    name = "summarize"
    columns = (DOCUMENT,)
    outputs = ("prediction", "parts", "cut")

    def __init__(
        self,
        ref: str | Path = CHAT_MODEL,
        length: str = "short",
        *,
        prompt: str | Path | None = None,
        beams: int | None = None,
        quantize: str | None = None,
        kv_cache: str | None = None,
    ) -> None:
        if length not in LENGTHS:
            raise unknown_name("length", length, LENGTHS)
        values = {language: {"length": LENGTHS[length][index]} for index, language in enumerate(("en", "zh"))}
        self.writer = open_text_writer(
            ref, "summarize", values, prompt=prompt, max_tokens=160, beams=beams, quantize=quantize, kv_cache=kv_cache
        )
        if length != "short" and not isinstance(self.writer, PromptWriter):
            raise BadInput(
                "an encoder-decoder that was trained on summaries has its own length",
                where="--length",
                remedy="leave it out; one that follows instructions is told with --prompt (zhixing prompts copy)",
            )
        self.chunk = 8 if isinstance(self.writer, PromptWriter) else 32

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return self.writer.identity()

    def run(self, rows: Sequence[Row]) -> list[Written]:
        """See `Task.run`."""
        texts = [row["text"] for row in rows]
        parts, cut = [0] * len(texts), [0] * len(texts)
        open_ = list(range(len(texts)))
        for round_ in range(ROUNDS):
            pieces = {index: [part for part in self.writer.cut(texts[index], False) if part.strip()] for index in open_}
            written = iter(self.writer.write([part.strip() for index in open_ for part in pieces[index]]))
            for index in open_:
                sums = [next(written) for _ in pieces[index]]
                texts[index] = "\n".join(text for text, _ in sums if text)
                cut[index] += sum(long for _, long in sums)
                if round_ == 0:
                    parts[index] = len(sums)
            open_ = [index for index in open_ if len(pieces[index]) > 1 and texts[index].strip()]
            if not open_:
                break
        return [Written(text, count, full) for text, count, full in zip(texts, parts, cut, strict=True)]

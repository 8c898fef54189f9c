"""`translate`: by an encoder-decoder trained for a pair of languages, or by a chat model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.tasks.base import TEXT, Row
from zhixing.tasks.texts import PromptWriter, Written, open_text_writer, write_parts
from zhixing.tasks.writer import CHAT_MODEL

LANGUAGES = {
    "en": ("English", "英文"), "zh": ("Chinese", "中文"), "lzh": ("Classical Chinese", "文言文"),
    "de": ("German", "德文"), "fr": ("French", "法文"), "es": ("Spanish", "西班牙文"), "ja": ("Japanese", "日文"),
    "ko": ("Korean", "韩文"), "ru": ("Russian", "俄文"), "it": ("Italian", "意大利文"),
    "pt": ("Portuguese", "葡萄牙文"),
    "ar": ("Arabic", "阿拉伯文"), "nl": ("Dutch", "荷兰文"), "pl": ("Polish", "波兰文"), "vi": ("Vietnamese", "越南文"),
}  # fmt: skip
"""Languages by their codes, in the words of the prompts: English, Chinese."""

PART = 256
"""Tokens of a part that a chat model translates at once."""


def code_of(name: str) -> str:
    """Returns the code of a language, by its code or its name in English or Chinese.

    Raises:
        BadInput: It is not known.
    """
    wanted = name.strip().casefold()
    for code, names in LANGUAGES.items():
        forms = {code, *(one.casefold() for one in names), names[1].removesuffix("文") + "语"}
        if wanted in forms or (wanted.partition("-")[0] == code and "-" in wanted):
            return code
    if wanted in ("汉语", "中国话", "chinese (simplified)", "chinese (traditional)"):
        return "zh"
    raise unknown_name("language", name, (*LANGUAGES, *(english for english, _ in LANGUAGES.values())))


class Translate:
    """The task `translate`.

    Args:
        ref: An encoder-decoder for the two languages, or a chat model.
        source: Code or name of the text's language, for a chat model.
        target: Code or name of the language wanted, for a chat model.
        prompt: A prompt file for a chat model.
        beams: Beams of an encoder-decoder; None: its own.
        quantize: "q8" or "q4": let the native core quantise weights that are not quantised yet.
        kv_cache: "f16", "q8" or "f32": how the core keeps keys and values.
    """

    name = "translate"
    columns = (TEXT,)
    outputs = ("prediction", "parts", "cut")

    def __init__(
        self,
        ref: str | Path = CHAT_MODEL,
        source: str | None = None,
        target: str | None = None,
        *,
        prompt: str | Path | None = None,
        beams: int | None = None,
        quantize: str | None = None,
        kv_cache: str | None = None,
    ) -> None:
        source, target = (None if name is None else code_of(name) for name in (source, target))
        if source is not None and source == target:
            raise BadInput(f"from {source} to {target} there is nothing to translate", where="--to")
        names = [
            (LANGUAGES[source or _other(target or "en")][index], LANGUAGES[target or _other(source or "zh")][index])
            for index in (0, 1)
        ]
        values = {
            language: {"source": pair[0], "target": pair[1]} for language, pair in zip(("en", "zh"), names, strict=True)
        }
        self.writer = open_text_writer(
            ref, "translate", values, prompt=prompt, most=PART, beams=beams, quantize=quantize, kv_cache=kv_cache
        )
        if isinstance(self.writer, PromptWriter):
            if target is None:
                raise BadInput(
                    "into which language?",
                    where=str(ref),
                    remedy="a chat model must be told: --to zh (and --from en); zhixing eval: --option target=zh",
                )
        elif source is not None or target is not None:
            raise BadInput(
                "this model was trained for one pair of languages",
                where=str(ref),
                remedy="leave --from and --to out; one that follows instructions is told with --prompt",
            )
        self.chunk = 16 if isinstance(self.writer, PromptWriter) else 64

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return self.writer.identity()

    def run(self, rows: Sequence[Row]) -> list[Written]:
        """See `Task.run`."""
        return write_parts(self.writer, [row["text"] for row in rows], small=True)


def _other(code: str) -> str:
    return "en" if code != "en" else "zh"

"""`complete`: a text or code gone on with, or filled in between a beginning and an end.

Filling in needs a tokenizer with tokens for it (Bavarian et al. 2022): the model reads the beginning, the end, and then
writes what is between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.generation import SamplingOptions
from zhixing.tasks.base import TEXT, Column, Row
from zhixing.tasks.writer import CHAT_MODEL, ChatWriter

MIDDLE_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)
"""Tokens before the beginning, before the end, and before what is between, of published tokenizers."""


@dataclass(frozen=True)
class Completion:
    """How a text goes on.

    Attributes:
        text: What comes next, or what stands between.
        finish: Why it ended: "stop" or "length".
    """

    text: str
    finish: str

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"prediction": self.text, "finish": self.finish}

    def __str__(self) -> str:
        return self.text


class Complete:
    """The task `complete`.

    Args:
        ref: A model that writes on.
        max_tokens: Longest completion.
        options: Fields of `SamplingOptions`: temperature, stop, seed and so on; greedy when none are given.

    Raises:
        BadInput: An option cannot be.
    """

    name = "complete"
    columns = (TEXT, Column("suffix", ("after", "end"), optional=True))
    outputs = ("prediction", "finish")
    chunk = 16

    def __init__(self, ref: str | Path = CHAT_MODEL, max_tokens: int = 64, **options: Any) -> None:
        SamplingOptions(**{"temperature": 0.0, **options, "max_tokens": max_tokens})  # a wrong one is no row's fault
        self.writer = ChatWriter.open(ref)
        self.max_tokens = max_tokens
        self.options: Mapping[str, Any] = options

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        options = {name: repr(value) for name, value in self.options.items()}
        return {"model": self.writer.fingerprint(), "max_tokens": self.max_tokens, "options": options}

    def middle_tokens(self) -> tuple[int, int, int] | None:
        """Returns the tokens that fill in, if the tokenizer has them."""
        tokenizer = self.writer.tokenizer
        for names in MIDDLE_TOKENS:
            ids = [tokenizer.token_id(name) for name in names]
            if all(token is not None for token in ids):
                return ids[0], ids[1], ids[2]  # type: ignore[return-value]
        return None

    def _prompt(self, row: Row) -> list[int]:
        tokenizer = self.writer.tokenizer
        suffix = row.get("suffix")
        if suffix is None:
            tokens = tokenizer.encode(row["text"], special=True)
        else:
            middle = self.middle_tokens()
            if middle is None:
                raise BadInput(
                    "this model's tokenizer has no tokens for filling in between two texts",
                    where=str(self.writer.path),
                    remedy="leave the suffix out, or use a model for code that has them",
                )
            before, after, between = middle
            tokens = [before, *tokenizer.encode(row["text"]), after, *tokenizer.encode(suffix), between]
        if len(tokens) + self.max_tokens > self.writer.context:
            raise BadInput(
                f"the text has {len(tokens)} tokens, which with {self.max_tokens} more is above the model's context of"
                f" {self.writer.context}",
                remedy="give only its end, or fewer --max-tokens",
            )
        return tokens

    def run(self, rows: Sequence[Row]) -> list[Completion]:
        """See `Task.run`."""
        prompts = [self._prompt(row) for row in rows]
        options = {"end_tokens": None, **self.options}
        middle = self.middle_tokens()
        if middle is not None:
            options["end_tokens"] = (*self.writer.ends, *middle)
        answers = self.writer.write(prompts, max_tokens=self.max_tokens, **options)
        return [Completion(answer.text, answer.finish_reason) for answer in answers]

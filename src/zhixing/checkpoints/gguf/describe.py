"""What a GGUF file is, from its header alone: no weights are read and no torch is needed, whatever its size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.checkpoints.gguf.header import Texts, open_gguf


@dataclass(frozen=True)
class Description:
    """A GGUF file in a few facts.

    Attributes:
        path: Where it is.
        size: Its bytes.
        architecture: What it says of itself; empty where it says nothing.
        name: What it calls the model.
        parameters: Values of all tensors.
        kinds: Bytes of tensors in each number format, the largest first.
        context: Longest sequence in tokens, or None where it does not say.
        vocabulary: Tokens, or 0.
        tokenizer: Its kind with the name of its way to cut words, or empty.
        template: Whether it has a chat template.
        metadata: Every short entry; lists are given by their length.
    """

    path: Path
    size: int
    architecture: str
    name: str
    parameters: int
    kinds: dict[str, int]
    context: int | None
    vocabulary: int
    tokenizer: str
    template: bool
    metadata: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns the facts for JSON."""
        return {**vars(self), "path": str(self.path)}


def describe_gguf(path: Path) -> Description:
    """Reads the header of a GGUF file and says what is in it.

    Raises:
        MissingResource: It is not there.
        BadInput: It is damaged.
    """
    file = open_gguf(path)
    metadata = file.metadata
    bytes_of: Counter[str] = Counter()
    for info in file.tensors.values():
        bytes_of[info.kind.name] += info.size
    architecture = str(metadata.get("general.architecture", ""))
    tokens = metadata.get("tokenizer.ggml.tokens")
    kind, cut = metadata.get("tokenizer.ggml.model", ""), metadata.get("tokenizer.ggml.pre")
    context = metadata.get(f"{architecture}.context_length")
    return Description(
        path=path,
        size=len(file.content),
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        parameters=sum(math.prod(info.shape) for info in file.tensors.values()),
        kinds=dict(bytes_of.most_common()),
        context=context if isinstance(context, int) else None,
        vocabulary=len(tokens) if isinstance(tokens, Texts) else 0,
        tokenizer=f"{kind} ({cut})" if cut else str(kind),
        template=isinstance(metadata.get("tokenizer.chat_template"), str),
        metadata=_short(metadata),
    )


def _short(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str | int | float | bool) else f"{len(value)} items"
        for key, value in metadata.items()
    }

"""Which files of a published model are taken: those that are read here, and nothing that could run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from zhixing.core.errors import BadInput

DESCRIBING = frozenset(
    """config.json generation_config.json model.safetensors.index.json
    tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json merges.txt vocab.txt
    tokenizer.model spiece.model sentencepiece.bpe.model chat_template.jinja chat_template.json
    modules.json config_sentence_transformers.json sentence_bert_config.json
    README.md LICENSE LICENSE.txt LICENSE.md NOTICE""".split()
)
"""Files at the top of a model folder that are read here, or that its licence asks to keep."""

WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
MODULE = re.compile(r"\d+_[A-Za-z]+/(config\.json|model\.safetensors)")
"""The parts of a sentence-transformers model: 1_Pooling/config.json, 2_Dense/model.safetensors."""

PICKLED = re.compile(r".*\.(bin|pt|pth|ckpt|pkl)")


def is_needed(name: str) -> bool:
    """Tells whether a file of a model folder, by its path in it, belongs to what is taken."""
    return name in DESCRIBING or bool(WEIGHTS.fullmatch(name) or MODULE.fullmatch(name))


def is_safe(name: str) -> bool:
    """Tells whether a path that a stranger wrote stays inside the folder it is put in."""
    parts = name.split("/")
    plain = not any(character in name for character in "\\:\0") and not PurePosixPath(name).is_absolute()
    return plain and all(part not in ("", ".", "..") for part in parts)


def choose(names: Iterable[str], inner: str, where: str) -> dict[str, str]:
    """Chooses what to take of a repository.

    Args:
        names: Every file in it.
        inner: A .gguf file or a folder in it that the reference names; empty for the top.
        where: The reference, for messages.

    Returns:
        From the path in the repository to the path in the model folder, for each file to take. A single .gguf file
        keeps its own name.

    Raises:
        BadInput: There is nothing in it that can be loaded; the message says what there is instead.
    """
    known = sorted(name for name in names if is_safe(name))
    if inner.endswith(".gguf"):
        if inner not in known:
            raise BadInput(f"there is no file {inner!r}", where=where, remedy=_alternatives(known, where, inner))
        return {inner: inner}
    prefix = f"{inner}/" if inner else ""
    below = {name: name.removeprefix(prefix) for name in known if name.startswith(prefix)}
    chosen = {name: short for name, short in below.items() if is_needed(short)}
    shorts = set(chosen.values())
    if "config.json" not in shorts or not any(WEIGHTS.fullmatch(name) for name in shorts):
        what = f"in {inner!r} " if inner else ""
        if any(PICKLED.fullmatch(name) for name in below.values()) and "config.json" in shorts:
            raise BadInput(
                f"{what}there are only pickled weights, which can run code; they are not fetched",
                where=where,
                remedy="try the revision with safetensors that the hub offers (@refs/pr/1, see the model's page), or "
                "fetch the folder yourself and: zhixing models convert FOLDER NEW_FOLDER",
            )
        raise BadInput(
            f"{what}there is no model in the Hugging Face layout (config.json, model.safetensors)",
            where=where,
            remedy=_alternatives(known, where, inner),
        )
    return chosen


def _alternatives(known: list[str], where: str, inner: str) -> str | None:
    """Names what could be loaded instead: GGUF files, or folders that hold a model."""
    base = where.partition("@")[0].removesuffix(f"/{inner}") if inner else where.partition("@")[0]
    files = [name for name in known if name.endswith(".gguf")]
    folders = [name.removesuffix("/config.json") for name in known if name.endswith("/config.json")]
    found = [f"{base}/{name}" for name in [*files, *folders]]
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"there are: {', '.join(found[:8])}{more}" if found else None


def check_sizes(sizes: Mapping[str, int | None], where: str) -> int:
    """Returns the bytes of all files together; refuses negative sizes and ones beyond any model.

    Raises:
        BadInput: The listing lies.
    """
    for name, size in sizes.items():
        if size is not None and not 0 <= size <= LARGEST:
            raise BadInput(f"the listing gives {name!r} the size {size}", where=where)
    return sum(size or 0 for size in sizes.values())


LARGEST = 1 << 40
"""Bytes of one file; larger than any published one."""

"""知行 Zhixing: the whole life of a language model, on the machine its user has.

`zhixing.load(ref)` opens a model, `zhixing.train(recipe)` makes one, `zhixing.classify(texts)` and its like put one to
use; the rest is in the packages.
Nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zhixing.version import __version__

if TYPE_CHECKING:
    from zhixing.api import LanguageModel, load, train
    from zhixing.tasks.calls import (
        answer,
        classify,
        complete,
        describe,
        embed,
        extract,
        fill,
        find,
        rewrite,
        summarize,
        tag,
        translate,
    )

__all__ = [
    "LanguageModel", "__version__", "answer", "classify", "complete", "describe", "embed", "extract", "fill", "find",
    "load", "rewrite", "summarize", "tag", "train", "translate",
]  # fmt: skip

_HOMES = {
    **dict.fromkeys(("load", "train", "LanguageModel"), "zhixing.api"),
    **dict.fromkeys(
        (
            "answer",
            "classify",
            "complete",
            "describe",
            "embed",
            "extract",
            "fill",
            "find",
            "rewrite",
            "summarize",
            "tag",
            "translate",
        ),
        "zhixing.tasks.calls",
    ),
}
"""Where the public names are."""


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used: torch alone takes seconds."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zhixing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

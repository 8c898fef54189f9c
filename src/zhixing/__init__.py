"""知行 Zhixing: the whole life of a language model, on the machine its user has.

`zhixing.load(ref)` opens a model, `zhixing.train(recipe)` makes one; the rest is in the packages.
Nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

from zhixing.version import __version__

if TYPE_CHECKING:
    from zhixing.api import LanguageModel, load, train

__all__ = ["LanguageModel", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used: torch alone takes seconds."""
    if name in ("load", "train", "LanguageModel"):
        from zhixing import api

        return getattr(api, name)
    raise AttributeError(f"module 'zhixing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "LanguageModel", "load", "train"])

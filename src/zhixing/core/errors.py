"""The errors that a user can cause, each carrying cause, place and remedy. Internal faults use Python's own types."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class ZhixingError(Exception):
    """A fault whose message is meant for the user.

    Args:
        cause: What is wrong, naming the offending value.
        where: Where it stands: a file, a file and line, a recipe key.
        remedy: A command or an edit that mends it.
    """

    exit_code = 1

    def __init__(self, cause: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.cause = cause
        self.where = where
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        mend = f"\n  {self.remedy}" if self.remedy else ""
        return f"{place}{self.cause}{mend}"


class BadInput(ZhixingError):
    """What the user gave cannot be used: a wrong value, a broken file, an impossible combination."""

    exit_code = 2


class MissingResource(ZhixingError):
    """What the user named is not there or cannot be reached: a path, a package, disk space, a permission."""

    exit_code = 3


class Interrupted(ZhixingError):
    """The user stopped the work; the message says what was saved and how to go on."""

    exit_code = 130


def command(*words: object) -> str:
    """Returns a command as a user can type it: words with spaces and the like are quoted."""
    return shlex.join(str(word) for word in words)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name most like `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> BadInput:
    """Builds the error for a name that is not in a closed list, naming the nearest right one and the whole list."""
    names = sorted(known)
    guess = nearest(name, names)
    hint = f"did you mean {guess!r}? " if guess else ""
    return BadInput(f"unknown {kind} {name!r}", where=where, remedy=f"{hint}known: {', '.join(names)}")


def missing_extra(package: str, extra: str, purpose: str) -> MissingResource:
    """Builds the error for an optional dependency that is not installed."""
    return MissingResource(
        f"{purpose} needs the package {package!r}, which is not installed", remedy=f"pip install 'zhixing[{extra}]'"
    )

"""Progress of long work on the terminal: a live bar where one can be drawn, a line now and then where not.

All of it goes to standard error, so that standard output stays clean for results and JSON.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from zhixing.core.errors import BadInput

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY = 15.0
"""Seconds between two lines when the output is not a terminal."""

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Turns all progress output off (or on again)."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Tells whether progress output is off."""
    return _quiet


def say(message: str) -> None:
    """Prints a note to standard error, unless output is off."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


class Bar(Protocol):
    """What a piece of long work reports to."""

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Adds `amount` to what is done, and shows `note` behind the bar."""

    def say(self, message: str) -> None:
        """Prints a message that stays, above the bar."""


class _Silent:
    def advance(self, amount: float = 1, note: str | None = None) -> None:
        pass

    def say(self, message: str) -> None:
        pass


class _Lines:
    """Plain lines for logs and pipes: at most one every LINE_EVERY seconds."""

    def __init__(self, title: str, total: float | None) -> None:
        self._title, self._total, self._done = title, total, 0.0
        self._last = time.monotonic()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= LINE_EVERY:
            self._last = now
            share = f" {100 * self._done / self._total:.0f} %" if self._total else ""
            print(f"{self._title}{share} {note or ''}".rstrip(), file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class _Live:
    def __init__(self, progress: Progress, title: str, total: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="")

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        if note is None:
            self._progress.update(self._task, advance=amount)
        else:
            self._progress.update(self._task, advance=amount, note=note)

    def say(self, message: str) -> None:
        self._progress.console.print(message, highlight=False, markup=False)


@contextmanager
def progress_bar(title: str, total: float | None = None) -> Iterator[Bar]:
    """Shows the progress of one piece of work.

    Args:
        title: A few words that name the work.
        total: The amount that makes it complete, in whatever unit `advance` is called with; None when unknown.

    Yields:
        A bar to call `advance(amount, note)` on.
    """
    if _quiet:
        yield _Silent()
    elif not sys.stderr.isatty():
        yield _Lines(title, total)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        columns = (
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %" if total else "", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            yield _Live(progress, title, total)


def human_bytes(count: float) -> str:
    """Formats a number of bytes: 1536 -> '1.5 KB' (decimal units)."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < (999.5 if unit == "B" else 999.95):  # what is not rounded up to 1000
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def parse_bytes(text: str) -> int:
    """Reads a number of bytes as people write it: '5GB', '500 MB', '2GiB', '1000'.

    Raises:
        BadInput: It is not of this form.
    """
    units = {"": 1} | {letter: 1000**power for power, letter in enumerate("kmgt", start=1)}
    units |= {f"{letter}i": 1024**power for power, letter in enumerate("kmgt", start=1)}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    if match is None or float(match[1]) == 0:
        raise BadInput(f"not a size: {text!r}", remedy="sizes look like 5GB, 500MB, 2GiB")
    return int(float(match[1]) * units[match[2] or ""])


def human_count(count: float) -> str:
    """Formats a large count: 1234567 -> '1.23 M'."""
    for unit in ("", " k", " M", " B"):
        if abs(count) < 999.5:  # what is not rounded up to 1000
            return f"{count:.0f}" if not unit else f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} T"


def human_time(seconds: float) -> str:
    """Formats a duration: 75 -> '1 min 15 s'."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"

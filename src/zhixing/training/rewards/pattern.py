"""A regular expression that an answer must match, in bounded time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from zhixing.core.errors import BadInput
from zhixing.training.rewards.base import Attempt

SECONDS = 0.2
"""What one match may take: an expression such as (a+)+b takes years on the wrong text."""

MOST_CHARACTERS = 100_000

# Python's matcher looks for signals while it works, in the main thread of a process: so it gets one of its own.
_PROGRAM = """
import json, re, signal, sys
def late(number, frame):
    raise TimeoutError
signal.signal(signal.SIGALRM, late)
order = json.load(sys.stdin)
compiled = re.compile(order["pattern"], re.DOTALL)
find = compiled.fullmatch if order["whole"] else compiled.search
found = []
for text in order["texts"]:
    try:
        signal.setitimer(signal.ITIMER_REAL, order["seconds"])
        matched = find(text) is not None
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeoutError:
        matched = None
    found.append(matched)
json.dump(found, sys.stdout)
"""


class Pattern:
    """1 where the regular expression matches, else 0; a match that takes too long is none.

    Args:
        pattern: Python's `re`; a dot matches newlines as well.
        whole: Whether it must match the whole answer; else it is searched for.
    """

    name = "pattern"

    def __init__(self, pattern: str, *, whole: bool = False) -> None:
        try:
            re.compile(pattern, re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            raise BadInput(f"{pattern!r} is no regular expression: {error}", where="task.rewards") from error
        self.pattern, self.whole = pattern, whole
        self.late = 0
        """Matches that were given up so far."""

    def check(self, attempt: Attempt) -> None:
        """See `Reward`: nothing of a record is compared with."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """See `Reward`."""
        texts = [attempt.completion[:MOST_CHARACTERS] for attempt in attempts]
        order = {"pattern": self.pattern, "whole": self.whole, "seconds": SECONDS, "texts": texts}
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM], input=json.dumps(order).encode(), stdout=subprocess.PIPE,
            check=True, timeout=60 + 2 * SECONDS * len(texts),
        )  # fmt: skip
        found: list[bool | None] = json.loads(ran.stdout)
        self.late += found.count(None)
        return [float(bool(matched)) for matched in found]

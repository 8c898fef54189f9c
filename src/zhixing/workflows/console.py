"""What a workflow tells its user while it works: plain lines on standard error, silent when asked."""

from __future__ import annotations

import sys

from zhixing.core.progress import is_quiet


def say(message: str) -> None:
    """Prints one line for the user, unless output is switched off."""
    if not is_quiet():
        print(message, file=sys.stderr, flush=True)

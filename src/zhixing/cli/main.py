"""The `zhixing` command: turns every error into one clear message and an exit code.

Which commands there are is in `cli.commands`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys

from zhixing.cli.commands import ReaderGone, called_in, command_line
from zhixing.core.errors import MissingResource, ZhixingError


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    # What imports make stays for good: to look through it again and again takes a tenth of the time to a first token.
    gc.set_threshold(100_000, 20, 20)
    try:
        command_line(called_in(sys.argv[1:]))(standalone_mode=True)
    except ReaderGone:
        _discard_output()
        sys.exit(0)
    except Exception as error:
        if os.environ.get("ZHIXING_DEBUG"):
            raise
        if fault := user_fault(error):
            print(f"zhixing: {fault}", file=sys.stderr)
            sys.exit(fault.exit_code)
        print(
            f"zhixing: internal fault: {type(error).__name__}: {error}\n"
            "  this is a defect of Zhixing, not yours; report what it shows with: zhixing --debug COMMAND ...",
            file=sys.stderr,
        )
        sys.exit(1)


def user_fault(error: Exception) -> ZhixingError | None:
    """Returns what an error says to the user; None when it is a fault of this program."""
    from zhixing.core.device import is_memory_fault
    from zhixing.core.files import os_fault

    if isinstance(error, ZhixingError):
        return error
    if is_memory_fault(error):
        return MissingResource(
            "not enough memory",
            remedy="close other programs, or work with a smaller model, batch, context or vocabulary",
        )
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is None:  # a stream, which need not be standard output, but may
            _discard_output()
        return os_fault(
            error, os.fsdecode(error.filename or "output"), "writing" if error.filename is None else "working"
        )
    return None


def _discard_output() -> None:
    """Sends what is left for standard output nowhere: Python would complain once more when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

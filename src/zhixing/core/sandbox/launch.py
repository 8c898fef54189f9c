"""The program that locks itself in and then becomes the code to run: started by `run`, by nobody else.

    python -P -s -S -m zhixing.core.sandbox.launch REPORT STATUS < order.json

It uses the standard library alone. The order says how to isolate, the limits, the files and the program. The program
can write to the descriptor of the report, which becomes number 3. The descriptor of the status closes when it starts;
what goes wrong before is written there, else `STARTED`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
from typing import Any, NoReturn

from zhixing.core.sandbox import landlock, namespaces, seccomp
from zhixing.core.sandbox.limits import STARTED, Limits, apply_limits
from zhixing.core.sandbox.syscalls import PR_CAPBSET_DROP, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

REPORT = 3
"""The descriptor of the program's report."""

STATUS = 4
"""The descriptor that tells a failed start."""

SETUP_FAILED = 125
CAPABILITIES = 64


def main() -> NoReturn:
    """Reads the order, locks this process in, and runs the program below it."""
    report, status = (fcntl.fcntl(int(number), fcntl.F_DUPFD, STATUS + 1) for number in sys.argv[1:3])
    os.dup2(report, REPORT)
    os.dup2(status, STATUS, inheritable=False)
    try:
        order: dict[str, Any] = json.load(sys.stdin.buffer)
        limits = Limits(**order["limits"])
        _only_standard_descriptors()
        code = _start(order, limits)
    except OSError as error:
        _fail(error)
    os._exit(code)


def _start(order: dict[str, Any], limits: Limits) -> int:
    isolation: str = order["isolation"]
    base: str = order["base"]
    if isolation == "namespaces":
        namespaces.enter(base, limits)
        first = os.fork()
        if first == 0:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            prctl(PR_SET_DUMPABLE, 0)
            code = _supervise(order, limits, namespaces.FOLDER)
            os._exit(code)  # with the first process of the namespace all others end
        return _code(os.waitpid(first, 0)[1])
    return _supervise(order, limits, base)


def _supervise(order: dict[str, Any], limits: Limits, folder: str) -> int:
    """Starts the program and waits for it, taking in orphans on the way; returns its exit code."""
    program = os.fork()
    if program == 0:
        try:
            _become(order, limits, folder)
        except OSError as error:
            _fail(error)
    os.close(REPORT)  # the report ends when the program does
    while True:
        ended, status = os.wait()
        if ended == program:
            return _code(status)


def _become(order: dict[str, Any], limits: Limits, folder: str) -> NoReturn:
    """Gives up all rights and becomes the program."""
    os.chdir(folder)
    user: int = order["user"]
    for name, text in order["files"].items():
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
    python = namespaces.interpreter()
    if os.getuid() == 0 and user:
        os.chown(".", user, user)
        for name in order["files"]:
            os.chown(name, user, user)
        _drop_bounding_set()
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        if not os.access(python, os.X_OK):
            raise PermissionError(f"{python} cannot be read by an unprivileged user")
    if order["isolation"] != "limits":
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    shared = order["isolation"] == "landlock"
    apply_limits(limits, others=_tasks(os.getuid()) if order["isolation"] != "namespaces" else 0)
    if shared:
        landlock.restrict(folder)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if order["isolation"] != "limits" and (shared or seccomp.available()):
        seccomp.install(shared=shared)
    os.write(STATUS, STARTED)
    environment = {"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(python, [python, "-I", "-S", "-u", "-X", "utf8", order["program"]], environment)


def _drop_bounding_set() -> None:
    for capability in range(CAPABILITIES):
        with contextlib.suppress(OSError):
            prctl(PR_CAPBSET_DROP, capability)


def _tasks(user: int) -> int:
    """Counts the processes and threads that a user has already: outside of namespaces the kernel counts them all."""
    total = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                total += len(os.listdir(f"/proc/{name}/task"))
    return total


def _only_standard_descriptors() -> None:
    """Leaves standard input (empty), output, error, the report and the status."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.closerange(STATUS + 1, os.sysconf("SC_OPEN_MAX"))


def _fail(error: OSError) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(STATUS, f"{type(error).__name__}: {error}"[:1000].encode())
    os._exit(SETUP_FAILED)


def _code(status: int) -> int:
    """Returns an exit code; 128 and the number for a signal, as shells do."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    main()

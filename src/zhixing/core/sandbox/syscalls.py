"""The few Linux system calls that Python's standard library does not have, through ctypes."""

from __future__ import annotations

import ctypes
import os
import platform

MACHINES = ("x86_64", "aarch64")
"""Processors whose numbers of system calls are known here."""

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

_UNIFIED = {
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
"""System calls since Linux 5.1 have one number on all processors."""

_SEPARATE = {"pivot_root": (155, 41), "unshare": (272, 97), "seccomp": (317, 277)}
"""Older ones: on x86_64, on aarch64."""


def machine() -> str:
    """Returns the processor's name as the kernel gives it."""
    return platform.machine()


def number(name: str) -> int:
    """Returns the number of a system call on this processor.

    Raises:
        OSError: It is not known here.
    """
    if name in _UNIFIED:
        return _UNIFIED[name]
    if machine() not in MACHINES:
        raise OSError(f"system calls of {machine()} are not known")
    return _SEPARATE[name][MACHINES.index(machine())]


def syscall(name: str, *arguments: object) -> int:
    """Calls the kernel.

    Raises:
        OSError: It refused.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(int(library.syscall(ctypes.c_long(number(name)), *converted)), name)


def prctl(option: int, *arguments: int) -> int:
    """Changes a property of this process; see prctl(2)."""
    library = ctypes.CDLL(None, use_errno=True)
    padded = [*arguments, *[0] * (4 - len(arguments))]
    return _checked(int(library.prctl(option, *(ctypes.c_ulong(value) for value in padded))), "prctl")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mounts a file system; see mount(2)."""
    library = ctypes.CDLL(None, use_errno=True)
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    outcome = library.mount(*texts, ctypes.c_ulong(flags), os.fsencode(options) or None)
    _checked(int(outcome), f"mount {target}")


def unmount(target: str, flags: int) -> None:
    """Takes a file system away; see umount2(2)."""
    library = ctypes.CDLL(None, use_errno=True)
    _checked(int(library.umount2(os.fsencode(target), flags)), f"umount {target}")


def _checked(outcome: int, name: str) -> int:
    if outcome == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return outcome

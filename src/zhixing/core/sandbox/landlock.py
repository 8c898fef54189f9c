"""Isolation by Landlock: the kernel's file and network rules for unprivileged processes (Linux 6.2 and later).

For containers that forbid namespaces. It hides contents, not names: code can still see whether a path exists.
"""

from __future__ import annotations

import ctypes
import os

from zhixing.core.sandbox.namespaces import library_paths
from zhixing.core.sandbox.syscalls import syscall

LEAST_VERSION = 3
"""The first that keeps files outside from being emptied."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_SOCKETS, SIGNALS = 1, 2
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
"""Rights that a rule about a single file may give."""


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """Returns the kernel's version of Landlock; 0 when it has none."""
    try:
        return syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def restrict(folder: str) -> None:
    """Keeps this process and its children, for good, from all files but Python's own and those in `folder`.

    Raises:
        OSError: The kernel cannot.
    """
    known = version()
    if known < LEAST_VERSION:
        raise OSError(f"Landlock {known} is too old, {LEAST_VERSION} (Linux 6.2) is needed")
    everything = (TRUNCATE << 1) - 1 | (IOCTL_DEV if known >= 5 else 0)
    attributes = (ctypes.c_uint64 * 3)(
        everything,
        BIND_TCP | CONNECT_TCP if known >= 4 else 0,
        ABSTRACT_SOCKETS | SIGNALS if known >= 6 else 0,
    )
    size = 8 * (3 if known >= 6 else 2 if known >= 4 else 1)
    rules = syscall("landlock_create_ruleset", attributes, size, 0)
    for path in library_paths():
        _allow(rules, path, EXECUTE | READ_FILE | READ_DIR)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        _allow(rules, device, READ_FILE | WRITE_FILE)
    _allow(rules, folder, everything & ~(EXECUTE | IOCTL_DEV))
    syscall("landlock_restrict_self", rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if os.path.isdir(path) else rights & FILE_RIGHTS
        syscall("landlock_add_rule", rules, 1, ctypes.byref(_PathRule(allowed, handle)), 0)
    finally:
        os.close(handle)

"""How much sandboxed code may take, and the kernel's resource limits that say so."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

STARTED = b"+"
"""What the launcher says of a program that has started, and nothing behind it."""


@dataclass(frozen=True)
class Limits:
    """What one sandboxed program may take.

    Attributes:
        cpu_seconds: Processor time of each process.
        wall_seconds: Time until everything is killed.
        memory: Bytes of address space of each process, and of resident memory of all together.
        processes: Processes and threads at once.
        file_bytes: Bytes of one file, and of all files together.
        files: Files and folders that may exist, and descriptors that may be open.
        output: Bytes of standard output and error together.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 10.0
    memory: int = 512 << 20
    processes: int = 16
    file_bytes: int = 16 << 20
    files: int = 64
    output: int = 64 << 10


def apply_limits(limits: Limits, others: int = 0) -> None:
    """Lowers the resource limits of this process for good; the supervisor watches what the kernel does not sum up.

    Args:
        limits: What to allow.
        others: Processes and threads of the same user that the kernel counts as well.
    """
    import resource

    # A process that catches the signal of the soft limit is killed at the hard one.
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_NPROC, limits.processes + others),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        with contextlib.suppress(OSError):  # macOS refuses RLIMIT_AS
            hard = resource.getrlimit(kind)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (bound, bound))
    if hasattr(resource, "RLIMIT_MSGQUEUE"):
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))

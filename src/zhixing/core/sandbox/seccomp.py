"""A filter of system calls: what sandboxed code has no business with fails with "operation not permitted".

The filter is a program of the kernel's classic Berkeley packet filter, built here instruction by instruction.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from zhixing.core.sandbox.syscalls import MACHINES, machine, syscall

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NEW_NAMESPACES = 0x7E020000
"""Flags of clone(2) that make namespaces."""

DENIED: dict[str, tuple[int | None, int | None]] = {
    # network; socketpair stays, which reaches nobody else
    "socket": (41, 198), "io_uring_setup": (425, 425),
    # leaving the process group, by which all are killed
    "setsid": (112, 157), "setpgid": (109, 154),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "process_madvise": (440, 440),
    # memory that belongs to no process
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180),
    # the kernel and its mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "fanotify_init": (300, 262),
    "personality": (135, 92), "syslog": (103, 116), "vhangup": (153, 58), "sethostname": (170, 161),
}  # fmt: skip
"""Numbers of what is denied, on x86_64 and on aarch64."""

SIGNALS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
}  # fmt: skip
"""Denied, but for signals to itself, where other processes can be seen."""

ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}  # fmt: skip
"""Denied where the file system is shared with others: Landlock does not guard owners, modes and times."""

CLONE, CLONE3 = (56, 220), (435, 435)


def available() -> bool:
    """Tells whether a filter can be built for this processor."""
    return machine() in MACHINES


def install(*, shared: bool) -> None:
    """Filters the system calls of this process and its children, for good.

    Args:
        shared: Files and processes of others are in sight, so that modes and signals need guarding as well.

    Raises:
        OSError: The kernel or the processor does not allow it.
    """
    program = _program(shared)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, then, aligned, where they are.
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    syscall("seccomp", 1, 0, head)


def _program(shared: bool) -> list[tuple[int, int, int, int]]:
    column = MACHINES.index(machine())
    denied = [*DENIED.values(), *(ATTRIBUTES.values() if shared else ())]
    refuse = (RETURN, 0, 0, ERROR | errno.EPERM)
    program = [
        (LOAD, 0, 0, 4),  # the architecture
        (EQUAL, 1, 0, _ARCHITECTURE[machine()]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # the number of the call
    ]
    if machine() == "x86_64":
        program += [(AT_LEAST, 0, 1, _X32_BIT), (RETURN, 0, 0, KILL)]
    # The C library falls back to clone, whose flags a filter can read.
    program += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, ERROR | errno.ENOSYS)]
    for numbers in denied:
        call = numbers[column]
        if call is not None:
            program += [(EQUAL, 0, 1, call), refuse]
    program += [
        (EQUAL, 0, 4, CLONE[column]),
        (LOAD, 0, 0, 16),  # the lower half of the first argument
        (ANY_BIT, 0, 1, NEW_NAMESPACES),
        refuse,
        (RETURN, 0, 0, ALLOW),
    ]
    if shared:
        for numbers in SIGNALS.values():
            program += [
                (EQUAL, 0, 4, numbers[column]),
                (LOAD, 0, 0, 16),
                (EQUAL, 0, 1, os.getpid()),
                (RETURN, 0, 0, ALLOW),
                refuse,
            ]
    return [*program, (RETURN, 0, 0, ALLOW)]

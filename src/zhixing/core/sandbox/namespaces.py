"""Isolation by namespaces: processes, mounts, network and messages of its own, with a root that holds Python alone."""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from pathlib import Path

from zhixing.core.sandbox.limits import Limits
from zhixing.core.sandbox.syscalls import mount, syscall, unmount

FOLDER = "/sandbox"
"""Where the code runs, inside."""

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
INNER_USER = 1000


def interpreter() -> str:
    """Returns the path of the Python that runs the code: the one below any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def library_paths() -> list[str]:
    """Returns the files and folders that Python needs in order to start: read-only in the sandbox."""
    wanted = [interpreter(), sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    library = sysconfig.get_config_var("INSTSONAME")
    if library:
        wanted.append(str(Path(sysconfig.get_config_var("LIBDIR")) / library))
    wanted += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    real = [os.path.realpath(path) for path in wanted if os.path.exists(path)]
    # A folder comes before what it holds, which is then shown already.
    return sorted({*real, *filter(os.path.exists, wanted)})


def enter(base: str, limits: Limits) -> None:
    """Moves this process into namespaces of its own, with `base` as the new root; its next child is the first in them.

    Raises:
        OSError: The kernel, or the container that this runs in, does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    syscall("unshare", flags if user == 0 else flags | CLONE_NEWUSER)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{INNER_USER} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{INNER_USER} {group} 1")
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=4096,mode=755")
    for path in library_paths():
        _show(path, base)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        _bind(device, base + device)
    folder = base + FOLDER
    os.mkdir(folder)
    os.symlink(FOLDER, base + "/tmp")
    # The folder itself takes an inode, too.
    size = f"size={limits.file_bytes},nr_inodes={limits.files + 1},mode=777"
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, size)
    os.chdir(base)
    syscall("pivot_root", b".", b".")
    unmount(".", MNT_DETACH)  # the old root lies above the new one
    os.chdir("/")
    mount(None, "/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_BIND)


def _show(path: str, base: str) -> None:
    """Makes a file or folder readable at the same path below the new root."""
    target = base + path
    if os.path.islink(path):  # /lib is often a link to usr/lib
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            os.symlink(os.path.realpath(path), target)
        return
    if os.path.lexists(target):
        return  # within a folder that is shown already
    _bind(path, target)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    syscall("mount_setattr", AT_FDCWD, os.fsencode(target), AT_RECURSIVE, attributes, ctypes.sizeof(attributes))


def _bind(path: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(path, target, None, MS_BIND | MS_REC)

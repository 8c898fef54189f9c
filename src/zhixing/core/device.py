"""The machine: which device computes, in which number type, on how many threads, and what its roof is.

torch is imported inside the functions, because `zhixing --help` must not wait for it.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.progress import human_bytes

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def choose_device(name: str = "auto") -> torch.device:
    """Returns the named device, or the best one that is there.

    Raises:
        BadInput: The name is not a device.
        MissingResource: The device is not on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(
            f"{name!r} is not a device", where="train.device", remedy="use auto, cpu, cuda or mps"
        ) from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise MissingResource(f"no device {name!r} on this machine", where="train.device", remedy="use device: auto")
    return device


def is_surely_cpu(name: str = "auto") -> bool:
    """Tells whether `choose_device` would choose the CPU, without importing torch; False when torch must be asked."""
    if name != "auto":
        return name == "cpu"
    if sys.platform != "linux":
        return False
    return not any(Path("/dev", pattern).exists() for pattern in ("nvidiactl", "nvidia0", "nvhost-gpu", "dxg", "kfd"))


def choose_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """Returns the number type for the products: what was asked for, or what the device gains from.

    CPUs compute in float32 unless asked otherwise; only CUDA devices take half precision by themselves.
    """
    import torch

    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "float32"


def tune_allocator() -> None:
    """Tells glibc to keep freed memory instead of giving it back after every tensor.

    By default every tensor above 128 KiB is mapped and unmapped afresh, and the page faults cost more than the
    arithmetic on it: element-wise operations on 12 MB run 1.3 to 9 times faster with this. Large tensors also get
    huge pages, which PyTorch asks for only when told so before its first tensor. A no-op on other systems. And oneDNN,
    which keeps half a megabyte of code for each shape of product it has seen, is to keep 256 of them instead of 1,024.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_memory() -> None:
    """Gives freed memory back to the system, of which batches of ever other lengths leave holes behind.

    The next steps must ask for it again, which costs them about half a second: for pauses. A no-op without glibc.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def usable_threads() -> int:
    """Returns the number of processors that this process may use: its affinity, and its container's share of time."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = processor_quota()
    return there if quota is None else max(1, min(there, math.ceil(quota - 0.01)))


def processor_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Returns how many processors' time a container is held to, or None where nothing limits it.

    More threads than that would all be stopped together for the rest of every period.

    Args:
        root: Where control groups are: of version 2 (cpu.max) or 1 (cpu/cpu.cfs_quota_us).
    """
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:  # "max", or -1: no limit
        return None
    return int(quota) / int(period)


def memory_bytes() -> int:
    """Returns the size of this machine's memory, or less where this process is held to less."""
    import resource

    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return size if limit == resource.RLIM_INFINITY else min(size, limit)


def free_memory_bytes() -> int:
    """Returns the memory that can still be had without swapping, as far as the system says it."""
    there = memory_bytes()
    information = Path("/proc/meminfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                there = min(there, int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")  # a container may be held to less
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        return there if limit == "max" else max(0, min(there, int(limit) - int(used)))
    except (OSError, ValueError):
        return there


def check_memory(needed: int, purpose: str, *, where: str | None = None, remedy: str | None = None) -> None:
    """Refuses work that cannot fit into this machine's memory, before any of it is done.

    Args:
        needed: Bytes that the work surely takes.
        purpose: What takes them.
        where: The place of the value that decides it.
        remedy: What to change.

    Raises:
        MissingResource: It is more than there is.
    """
    there = memory_bytes()
    if needed > there:
        raise MissingResource(
            f"{purpose} needs at least {human_bytes(needed)} of memory, this machine has {human_bytes(there)}",
            where=where,
            remedy=remedy,
        )


def is_memory_fault(error: BaseException) -> bool:
    """Tells whether an error says that memory ran out; on CPUs, torch says it with a plain RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )


def processor_name() -> str:
    """Returns the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_bytes() -> int:
    """Returns the largest resident memory of this process so far."""
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the parent process as it was when it forked
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""What this machine and this installation can do: processor, memory, the C++ core, packages, caches, and the path that
each kind of model takes."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from zhixing.checkpoints.hubs.store import cache_folder
from zhixing.core.device import (
    choose_device,
    free_memory_bytes,
    memory_bytes,
    processor_name,
    processor_quota,
    usable_threads,
)
from zhixing.core.progress import human_bytes
from zhixing.models import ops
from zhixing.native import library, measure, saved
from zhixing.native.packing import Kind
from zhixing.version import __version__

COST = "a 4-bit GGUF file is then written with 5 to 15 times slower, and takes 4 to 8 times the memory"
"""What it costs to do without the core."""


@dataclass
class Examination:
    """What was found.

    Attributes:
        versions: Of Zhixing, Python, PyTorch and the system.
        processor: Name, processors that may be used, limits.
        memory: Bytes there and free, and the rate of reading in bytes per second.
        rates: Products: GFLOP/s in float32, and G multiply-adds per second with packed weights.
        device: Where PyTorch computes.
        core: The kernels in use and those that this processor could run; or why there is no core, what that costs, and
            how to get it.
        extras: Optional dependencies by extra: those that are missing.
        caches: Folders and what they hold in bytes.
        packed: Models that are kept packed for a quick start: folder, how many, their bytes, and how many may be kept.
        paths: Kinds of models, and what computes them.
        model: The model that was asked for: what computes it.
    """

    versions: dict[str, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    core: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, list[str]] = field(default_factory=dict)
    caches: dict[str, int] = field(default_factory=dict)
    packed: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    model: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns all of it for people."""
        done = [", ".join(f"{name} {version}" for name, version in self.versions.items())]
        limits = f", {self.processor['quota']:g} of them at a time" if self.processor["quota"] else ""
        done.append(f"processor  {self.processor['name']}; {self.processor['usable']} may be used{limits}")
        bandwidth = f"; read at {self.memory['bandwidth'] / 1e9:.1f} GB/s" if "bandwidth" in self.memory else ""
        total, free = (human_bytes(int(self.memory[name])) for name in ("total", "free"))
        done.append(f"memory     {total}, {free} free{bandwidth}")
        done.append("products   " + ", ".join(f"{name}: {rate:.0f}" for name, rate in self.rates.items()))
        done.append(f"device     PyTorch computes on {self.device}")
        if "absent" in self.core:
            done += [f"core       absent: {self.core['absent']}", f"           {self.core['cost']}"]
            done.append(f"           {self.core['remedy']}")
        else:
            able = ", ".join(self.core["supported"])
            threads = self.core["threads"]
            done.append(f"core       {self.core['kernels']} kernels, {threads} threads (this processor runs: {able})")
        for extra, missing in self.extras.items():
            done.append(f"extra      {extra}: {'missing ' + ', '.join(missing) if missing else 'installed'}")
        for folder, size in self.caches.items():
            done.append(f"cache      {folder}: {human_bytes(size)}")
        held, most = (human_bytes(self.packed[name]) for name in ("bytes", "most"))
        done.append(
            f"packed     {self.packed['models']} models that start quickly, {held} of at most {most}"
            f" ({saved.MOST_VARIABLE}): {self.packed['folder']}"
        )
        for kind, path in self.paths.items():
            done.append(f"path       {kind}: {path}")
        if self.model is not None:
            done.append(f"model      {self.model}")
        return done


def examine(model: str | None = None, measured: bool = True) -> Examination:
    """Looks at the machine and the installation.

    Args:
        model: A reference; says what computes this one. It is opened for that.
        measured: Also measure memory and products, about a second.

    Raises:
        MissingResource: There is no such model.
        BadInput: It cannot be used.
    """
    found = Examination()
    found.versions = {
        "zhixing": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip
    found.processor = {"name": processor_name(), "usable": usable_threads(), "quota": processor_quota()}
    found.memory = {"total": memory_bytes(), "free": free_memory_bytes()}
    found.device = str(choose_device())
    absence = library.absence()
    if absence is not None:
        found.core = {"absent": absence, "cost": COST, "remedy": library.REMEDY}
    else:
        found.core = {
            "kernels": library.kernels(), "supported": library.supported_kernels(), "threads": library.threads(),
        }  # fmt: skip
    if measured:
        ops.select_matmul()
        found.rates["float32 GFLOP/s (PyTorch)"] = ops.matmul_peak()
        if absence is None:
            found.memory["bandwidth"] = measure.read_bandwidth()
            found.rates["8-bit G multiply-adds/s (core)"] = measure.product_rate(Kind.B8S) / 1e9
            found.rates["4-bit (core)"] = measure.product_rate(Kind.B4M) / 1e9
    found.extras = _extras()
    found.caches = {str(folder): _size(folder) for folder in _caches()}
    kept = saved.kept()
    found.packed = {
        "folder": str(saved.folder()), "models": len(kept), "bytes": sum(kept.values()), "most": saved.most_bytes(),
    }  # fmt: skip
    found.paths = _paths(absence, found.device)
    if model is not None:
        found.model = _path_of(model)
    return found


def _extras() -> dict[str, list[str]]:
    """Returns, for every extra of this package, the distributions that are not installed."""
    missing: dict[str, list[str]] = {}
    try:
        requirements = importlib.metadata.requires("zhixing") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return missing
    for requirement in requirements:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra is None or name is None or name[0] == "zhixing" or extra[1] in ("all", "test"):
            continue
        gone = missing.setdefault(extra[1], [])
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            gone.append(name[0])
    return missing


def _caches() -> list[Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    return [cache_folder(), Path(HF_HUB_CACHE)]


def _size(folder: Path) -> int:
    """Returns the bytes of a folder's files, links not followed; 0 when it is not there."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _paths(absence: str | None, device: str) -> dict[str, str]:
    """Returns what computes each kind of model here."""
    torch_path = f"PyTorch on {device}"
    core = "the C++ core" if absence is None and device == "cpu" else torch_path
    if absence is None and device != "cpu":
        core += " (the C++ core with --device cpu)"
    return {
        "decoders from GGUF files": f"{core}, in the file's own 4 to 8 bits" if core == "the C++ core" else core,
        "decoders from folders": f"{core}, in their own number type, or --quantize q8|q4"
        if core == "the C++ core"
        else core,
        "decoders with rotary frequencies that depend on the length": torch_path,
        "encoders and encoder-decoders": core,
        "recurrent networks, encoders that read pairs": torch_path,
        "n-gram models": "NumPy",
        "training": torch_path,
    }


def _path_of(reference: str) -> str:
    from zhixing.checkpoints.opening import open_model
    from zhixing.checkpoints.references import resolve
    from zhixing.native.network import why_not

    path = resolve(reference)
    opened = open_model(path, compact=True)
    reason = why_not(opened.model)
    return f"{reference}: " + ("computed by the C++ core" if reason is None else f"computed by PyTorch: {reason}")

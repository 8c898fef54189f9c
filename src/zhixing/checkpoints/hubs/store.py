"""What was pulled, and where it is kept. With a record here that holds, a model is opened without any network.

A record is one small JSON file that is written last, when every file of a model is in its place and verified. A pull
that was interrupted therefore leaves no record, however much of it is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import MissingResource
from zhixing.core.files import FolderLock, atomic_write, os_fault
from zhixing.core.progress import say


def cache_folder() -> Path:
    """Returns the folder of everything that Zhixing fetches itself.

    `ZHIXING_CACHE` if it is set, else the system's folder for caches: `XDG_CACHE_HOME` or ~/.cache on Linux,
    ~/Library/Caches on macOS. What comes from the Hugging Face hub is in the hub's own cache instead.
    """
    if chosen := os.environ.get("ZHIXING_CACHE"):
        return Path(chosen).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser().absolute() / "zhixing"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "zhixing"
    if sys.platform == "win32" and (base := os.environ.get("LOCALAPPDATA")):
        return Path(base) / "zhixing" / "cache"
    return Path.home() / ".cache" / "zhixing"


def offline() -> str | None:
    """Returns the environment variable that forbids the network, or None when it is allowed."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return None


def check_online(where: str) -> None:
    """Refuses to use the network where the user has forbidden it.

    Raises:
        MissingResource: `HF_HUB_OFFLINE` is set.
    """
    if name := offline():
        raise MissingResource(
            f"not in the cache, and {name}={os.environ[name]} forbids the network",
            where=where,
            remedy=f"unset {name}, or fetch the model beforehand: zhixing models pull {where}",
        )


@dataclass(frozen=True)
class Record:
    """A model that is in the cache, whole and verified.

    Attributes:
        reference: Its exact name: with commit or version, and the part inside that was taken.
        path: The model folder, or the .gguf file.
        files: Path and size in bytes of every file of it.
        verified: Whether every file was held against a checksum.
    """

    reference: str
    path: Path
    files: dict[Path, int]
    verified: bool = True

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def holds(self) -> bool:
        """Tells whether every file is still there, in its size."""
        try:
            return all(path.stat().st_size == size for path, size in self.files.items())
        except OSError:
            return False

    def write(self) -> None:
        """Keeps the record; the files must be in place."""
        values = {
            "reference": self.reference,
            "path": str(self.path),
            "files": {str(path): size for path, size in self.files.items()},
            "verified": self.verified,
        }
        place = record_path(self.reference)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise os_fault(error, place.parent, "writing into the cache") from error
        atomic_write(place, json.dumps(values, indent=1) + "\n")

    def discard(self, top: Path) -> int:
        """Removes the record and every file of it, and the folders below `top` that become empty.

        Returns:
            The bytes freed.
        """
        record_path(self.reference).unlink(missing_ok=True)
        freed = 0
        for path in self.files:
            if path.exists() and not path.is_symlink():
                freed += path.stat().st_size
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in self.files}, key=lambda path: -len(path.parts)):
            remove_empty(folder, top)
        return freed


def remove_empty(folder: Path, top: Path) -> None:
    """Removes a folder and its parents below `top`, as long as there is nothing in them."""
    while folder.is_relative_to(top) and folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def record_path(reference: str) -> Path:
    """Returns where the record of an exact reference is kept."""
    return cache_folder() / "records" / f"{slug(reference)}.json"


def slug(reference: str) -> str:
    """Returns a file name for a reference, readable and never the same for two."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", reference)[:80].strip("-.")
    return f"{readable}-{hashlib.sha256(reference.encode()).hexdigest()[:12]}"


def find_record(reference: str) -> Record | None:
    """Returns the record of an exact reference, if there is one and its files are in place."""
    record = _read(record_path(reference))
    return record if record is not None and record.reference == reference and record.holds() else None


def all_records() -> list[Record]:
    """Returns every model in the cache that is whole, by name."""
    found = [_read(path) for path in sorted((cache_folder() / "records").glob("*.json"))]
    return [record for record in found if record is not None and record.holds()]


def _read(path: Path) -> Record | None:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        files = {Path(name): int(size) for name, size in values["files"].items()}
        return Record(str(values["reference"]), Path(values["path"]), files, bool(values["verified"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there or damaged: it is fetched again
        return None


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Lets one process at a time fetch the same thing; the next one waits and finds it done."""
    with FolderLock(
        cache_folder() / "locks" / slug(name),
        waiting=lambda pid: say(f"another process (pid {pid}) is fetching {name}; waiting for it"),
    ):
        yield

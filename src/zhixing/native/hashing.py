"""The hash of the C++ sources: the build puts it into the library, the loader compares. Imports nothing of Zhixing."""

from __future__ import annotations

import hashlib
from pathlib import Path


def source_hash(folder: Path) -> str:
    """Returns a hash of the C++ sources in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".cpp", ".h", ".inl"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]

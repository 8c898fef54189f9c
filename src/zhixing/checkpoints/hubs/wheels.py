"""Files out of a wheel: named exactly or by their folder, held against the wheel's own record, within bounds.

A wheel is a zip file written by a stranger. Nothing of it is run or installed; a member that would leave its folder,
is a link, is encrypted or would grow beyond all measure is refused.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import stat
import zipfile
from pathlib import Path

from zhixing.checkpoints.hubs.needed import LARGEST, choose, is_safe
from zhixing.core.errors import BadInput
from zhixing.core.files import CHUNK, check_room, os_fault
from zhixing.core.progress import human_bytes

MOST_MEMBERS = 100_000
MOST_RECORD = 64 << 20
"""Bytes of a wheel's list of its files."""
GROWTH = 200
"""How many times larger than compressed a member may be; weights hardly compress at all."""
SMALL = 16 << 20
"""Bytes up to which growth does not matter."""


def members(wheel: zipfile.ZipFile, inner: str, where: str) -> dict[str, zipfile.ZipInfo]:
    """Returns the members to take, by their path in the model folder; a single file has its own name.

    Args:
        wheel: The opened wheel.
        inner: A file in it (of any name), or a folder with a model.
        where: The reference, for messages.

    Raises:
        BadInput: It is not there, or there is nothing in it that can be loaded.
    """
    entries = wheel.infolist()
    if len(entries) > MOST_MEMBERS:
        raise BadInput(f"the wheel has {len(entries)} files", where=where)
    table = {entry.filename: entry for entry in entries if not entry.is_dir()}
    if inner in table:
        return {inner.rpartition("/")[2]: table[inner]}
    if inner.endswith(".gguf"):
        there = [name for name in table if name.endswith(".gguf")]
        raise BadInput(
            f"the wheel has no {inner!r}", where=where, remedy=f"it has: {', '.join(there[:8])}" if there else None
        )
    chosen = choose(table, inner, where)
    return {short: table[name] for name, short in chosen.items()}


def open_wheel(path: Path, where: str) -> zipfile.ZipFile:
    """Opens a wheel.

    Raises:
        BadInput: It is not a whole zip file.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise BadInput(f"not a whole wheel ({error})", where=where, remedy="the file is damaged: try again") from error
    except OSError as error:
        raise os_fault(error, path, "reading a wheel") from error


def recorded_hashes(wheel: zipfile.ZipFile, where: str) -> dict[str, str]:
    """Returns the SHA-256 of the members, in hexadecimal, from the wheel's RECORD (PEP 376, PEP 427)."""
    names = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD") and name.count("/") == 1]
    if len(names) != 1 or wheel.getinfo(names[0]).file_size > MOST_RECORD:
        raise BadInput("the wheel has no list of its files (RECORD)", where=where)
    found: dict[str, str] = {}
    try:
        for row in csv.reader(io.StringIO(wheel.read(names[0]).decode("utf-8"))):
            if len(row) >= 2 and row[1].startswith("sha256="):
                text = row[1].removeprefix("sha256=")
                found[row[0]] = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
    except (ValueError, csv.Error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadInput(f"the wheel's list of its files cannot be read ({error})", where=where) from error
    return found


def extract(wheel: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, recorded: str | None, where: str) -> str:
    """Writes one member to a file and returns its SHA-256.

    Args:
        wheel: The opened wheel.
        entry: The member.
        target: Where to; its folder must exist.
        recorded: What its SHA-256 must be, from the wheel's RECORD.
        where: The reference, for messages.

    Raises:
        BadInput: The member is not what it may be, or is damaged.
        MissingResource: The disk has no room.
    """
    name = entry.filename
    if not is_safe(name):
        raise BadInput(f"the wheel holds a file that would leave its folder: {name!r}", where=where)
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise BadInput(f"{name!r} is a link, not a file", where=where)
    if entry.flag_bits & 1:
        raise BadInput(f"{name!r} is encrypted", where=where)
    if entry.file_size > LARGEST or entry.file_size > max(SMALL, GROWTH * entry.compress_size):
        raise BadInput(
            f"{name!r} would grow from {human_bytes(entry.compress_size)} to {human_bytes(entry.file_size)}",
            where=where,
        )
    if recorded is None:
        raise BadInput(f"the wheel's list of its files (RECORD) has no checksum of {name!r}", where=where)
    check_room(target.parent, entry.file_size, f"unpacking {name}")
    digest, written = hashlib.sha256(), 0
    try:
        with wheel.open(entry) as source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                written += len(chunk)
                if written > entry.file_size:
                    raise BadInput(f"{name!r} is larger than the wheel says", where=where)
                digest.update(chunk)
                file.write(chunk)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadInput(f"{name!r} is damaged ({error})", where=where, remedy="try again") from error
    except OSError as error:
        raise os_fault(error, target, "unpacking a wheel") from error
    except Exception as error:
        if type(error).__module__ in ("zlib", "lzma", "_lzma"):  # zlib.error has no common base with the others
            raise BadInput(f"{name!r} is damaged ({error})", where=where, remedy="try again") from error
        raise
    if written != entry.file_size or digest.hexdigest() != recorded:
        raise BadInput(f"{name!r} does not have the wheel's own checksum", where=where, remedy="try again")
    return digest.hexdigest()

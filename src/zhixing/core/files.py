"""Writing that survives a crash, content hashes, and the lock that keeps two processes out of one run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from zhixing.core.errors import BadInput, MissingResource, ZhixingError, command

CHUNK = 1 << 20
"""Bytes read at a time when hashing."""


MOST_JSON = 128 << 20
"""Bytes of a JSON file that is read whole; the largest published tokenizers have 35 MB."""


def os_fault(error: OSError, path: Path | str, doing: str) -> ZhixingError:
    """Turns an operating-system error into one clear message: full disk, no permission, missing folder."""
    where = str(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = ""
        with contextlib.suppress(OSError):
            free = f" ({shutil.disk_usage(nearest_folder(Path(path))).free >> 20} MiB free)"
        return MissingResource(
            f"the disk is full{free} while {doing}", where=where, remedy="free some space and try again"
        )
    if error.errno == errno.EROFS:
        return MissingResource(
            f"the file system is read-only, while {doing}", where=where, remedy="choose a folder on another disk"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingResource(
            f"no permission while {doing}",
            where=where,
            remedy=f"choose another folder, or: {command('chmod', '-R', 'u+rwX', where)}",
        )
    if error.errno == errno.ENOENT:
        return MissingResource(f"not there while {doing}", where=where, remedy="check the path")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return MissingResource(
            f"a file is in the place of a folder, while {doing}", where=where, remedy="choose another path"
        )
    if error.errno == errno.EISDIR:
        return BadInput(f"a folder is in the place of a file, while {doing}", where=where, remedy="check the path")
    return MissingResource(f"{error.strerror or error} while {doing}", where=where)


def check_writable(path: Path, doing: str, *, folder: bool = False) -> None:
    """Makes sure that something can be written under a name, before the long work that it is to hold.

    Nothing stays behind: neither the file nor the folders that lead to it are made.

    Args:
        path: The file, or the folder.
        doing: What for, for the message: "writing results".
        folder: Whether files are written into a folder of that name.

    Raises:
        BadInput: A file stands in the place of a folder, or the other way round.
        MissingResource: The folder that it goes into cannot be written.
    """
    try:
        if folder and path.exists() and not path.is_dir():
            raise BadInput("a folder is expected, this is a file", where=str(path), remedy="give another name")
        if not folder and path.is_dir():
            raise BadInput("a file is expected, this is a folder", where=str(path), remedy="name a file in it")
        parent = nearest_folder(path if folder else path.parent)
        if not parent.is_dir():
            raise BadInput(
                f"a file is in the place of a folder: {parent}", where=str(path), remedy="choose another path"
            )
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise os_fault(error, path, doing) from error


def nearest_folder(path: Path) -> Path:
    """Returns `path` or its closest existing parent."""
    for candidate in (path, *path.parents):
        if candidate.exists():
            return candidate
    return Path.cwd()


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Writes a file beside its place, fsyncs it, then renames it: a reader sees the old content or the new, never half.

    Raises:
        MissingResource: The disk is full or the folder cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise os_fault(error, path, "writing") from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file to write to that becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        MissingResource: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise os_fault(error, path, "writing") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Every file in it is fsynced before the rename. An existing `path` is replaced: it is moved aside first and removed
    last, so that at any byte of a crash either the old or the new folder is whole.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        sync_folder(temporary)
        put_in_place(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise os_fault(error, path, "writing") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def put_in_place(new: Path, path: Path) -> None:
    """Renames a folder that is whole to `path`; what is there is moved aside first, removed last, and comes back where
    the renaming fails or is interrupted.

    Raises:
        OSError: It cannot be renamed.
    """
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            with contextlib.suppress(OSError):
                old.rename(path)
        raise
    sync_folder(path.parent)
    # A link to a folder is only a name: what it leads to stays.
    if old.is_symlink():
        old.unlink(missing_ok=True)
    else:
        shutil.rmtree(old, ignore_errors=True)


def check_room(folder: Path, needed: int, doing: str) -> None:
    """Refuses to begin writing what the disk has no room for.

    Args:
        folder: Where to; it need not exist yet.
        needed: Bytes that will be written.
        doing: What for, for the message: "downloading x".

    Raises:
        MissingResource: There is not enough free space.
    """
    try:
        free = shutil.disk_usage(nearest_folder(folder)).free
    except OSError:  # a file system that does not say: writing will
        return
    if needed > free:
        raise MissingResource(
            f"not enough room for {doing}: {needed >> 20} MiB needed, {free >> 20} MiB free",
            where=str(folder),
            remedy="free some space and try again",
        )


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON-like value in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def write_json(path: Path, values: Any) -> None:
    """Writes a value as JSON for people, into a folder that is not yet in its place (`atomic_folder`)."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file, or says in one line why it cannot be read."""
    try:
        if path.stat().st_size > MOST_JSON:
            raise BadInput(f"a JSON file of {path.stat().st_size >> 20} MiB is not read", where=str(path))
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingResource("no such file", where=str(path)) from error
    except OSError as error:
        raise os_fault(error, path, "reading") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"not UTF-8 text (byte {error.start})", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise BadInput(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except RecursionError as error:
        raise BadInput("nested beyond all bounds", where=str(path)) from error


class FolderLock:
    """An exclusive lock on a folder, held by this process until it ends (also when it is killed).

    Args:
        folder: The folder to lock; made if it is missing.
        waiting: Called once, with the holder's process id, when another process holds the lock; then its end is waited
            for. Without it, a lock that is held is an error.

    Raises:
        BadInput: Another process holds the lock; the message names its process id.
    """

    def __init__(self, folder: Path, waiting: Callable[[str], None] | None = None) -> None:
        self.path = folder / ".lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+")
        except OSError as error:
            raise os_fault(error, folder, "opening the folder") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            if waiting is None:
                self._file.close()
                raise BadInput(
                    f"another process (pid {holder}) is working on this folder",
                    where=str(folder),
                    remedy="wait for it, stop it, or choose another folder",
                ) from error
            waiting(holder)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Gives the lock back."""
        self._file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def in_use(folder: Path) -> bool:
    """Tells whether a living process holds the `FolderLock` of a folder; changes nothing in it."""
    try:
        with (folder / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or one that may not be read: nobody can be seen to hold it
        return False
    return False

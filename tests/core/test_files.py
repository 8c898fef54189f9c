"""Writing that survives a crash at any point, hashes, faults of the system in words, and the lock."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zhixing.core import files
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import (
    FolderLock,
    atomic_folder,
    atomic_write,
    hash_file,
    hash_json,
    in_use,
    os_fault,
    read_json,
)


class Crash(BaseException):
    """Stands for the end of the process."""


def crash_at(monkeypatch, step):
    """Lets the process die at one place: before (odd steps) or after (even ones) one of its operations on the disk.

    From then on every operation fails, because a dead process does not clean up either.
    """
    begun = 0

    def wrap(original):
        def operation(*arguments, **keywords):
            nonlocal begun
            begun += 1
            if begun * 2 - 1 >= step:
                raise Crash
            result = original(*arguments, **keywords)
            if begun * 2 >= step:
                raise Crash
            return result

        return operation

    for owner, name in (
        (os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "mkdir"), (Path, "open"), (shutil, "rmtree"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))


def every_crash(monkeypatch, work):
    """Runs `work` with a crash at each place in turn, until it comes through; yields after each crash."""
    for step in range(1, 200):
        with monkeypatch.context() as patch:
            crash_at(patch, step)
            try:
                work()
            except Crash:
                pass
            else:
                return
        yield step
    raise AssertionError("it never came through")


def test_a_crash_while_writing_a_file_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "file"
    for new in (None, b"old"):
        seen = set()
        if new:
            path.write_bytes(new)
        for _ in every_crash(monkeypatch, lambda: atomic_write(path, "新" * 1000)):
            content = path.read_bytes() if path.exists() else None
            assert content in (new, ("新" * 1000).encode())
            seen.add(content)
            if new:
                path.write_bytes(new)
            else:
                path.unlink(missing_ok=True)
        assert len(seen) == 2, "some crashes came before the change, some after"
        assert path.read_text(encoding="utf-8") == "新" * 1000
        for left in tmp_path.glob(".*"):
            left.unlink()


def write_folder(path, content):
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text(content)
        (temporary / "inner").mkdir()
        (temporary / "inner" / "b").write_text(content)


def read_folder(path):
    return {(path / "a").read_text(), (path / "inner" / "b").read_text()}


def test_a_crash_while_writing_a_folder_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    for _ in every_crash(monkeypatch, lambda: write_folder(path, "first")):
        assert not path.exists() or read_folder(path) == {"first"}
        shutil.rmtree(path, ignore_errors=True)
    assert read_folder(path) == {"first"}
    seen = set()
    for _ in every_crash(monkeypatch, lambda: write_folder(path, "second")):
        # Between two renames the old folder stands beside its place; at no time are both gone.
        place = path if path.exists() else next(iter(tmp_path.glob(".folder.*.old")))
        assert read_folder(place) in ({"first"}, {"second"})
        seen |= read_folder(place)
        shutil.rmtree(path, ignore_errors=True)
        for left in tmp_path.glob(".folder.*"):
            shutil.rmtree(left)
        write_folder(path, "first")
    assert seen == {"first", "second"}
    assert read_folder(path) == {"second"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_fault_inside_the_block_leaves_the_old_folder_and_no_litter(tmp_path):
    path = tmp_path / "folder"
    write_folder(path, "old")
    for fault in (ValueError, KeyboardInterrupt):
        with pytest.raises(fault), atomic_folder(path) as temporary:
            (temporary / "a").write_text("new")
            raise fault
    with pytest.raises(MissingResource, match="disk is full"), atomic_folder(path):
        raise OSError(errno.ENOSPC, "full")
    assert read_folder(path) == {"old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_fault_while_writing_a_file_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MissingResource, match="disk is full") as caught:
        atomic_write(path, "new")
    assert caught.value.where == str(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    with pytest.raises(MissingResource):
        atomic_write(tmp_path / "no folder" / "file", "new")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, MissingResource, ["the disk is full", "MiB free", "free some space"]),
        (errno.EDQUOT, MissingResource, ["the disk is full"]),
        (errno.EACCES, MissingResource, ["no permission", "chmod -R u+rwX"]),
        (errno.EROFS, MissingResource, ["read-only", "another disk"]),
        (errno.ENOENT, MissingResource, ["not there", "check the path"]),
        (errno.ENOTDIR, MissingResource, ["a file is in the place of a folder"]),
        (errno.EISDIR, BadInput, ["a folder is in the place of a file"]),
        (errno.EIO, MissingResource, ["Input/output error"]),
    ],
)
def test_faults_of_the_system_in_words(code, kind, words):
    error = os_fault(OSError(code, os.strerror(code)), "/some where", "writing")
    assert type(error) is kind
    assert error.where == "/some where"
    for word in [*words, "while writing"]:
        assert word in str(error)


def test_hashes(tmp_path):
    data = os.urandom(files.CHUNK + 17)
    (tmp_path / "x").write_bytes(data)
    assert hash_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    assert hash_json({"b": 1, "a": [2, "文"]}) == hash_json({"a": [2, "文"], "b": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"{", BadInput, ":1: not valid JSON"),
        (b'{"a": 1,\n"b": }', BadInput, ":2: not valid JSON"),
        (b"\xff", BadInput, "not UTF-8 text"),
        (b"[" * 100_000, BadInput, "nested beyond"),
        (None, MissingResource, "no such file"),
    ],
)
def test_reading_json(tmp_path, data, kind, words):
    path = tmp_path / "x.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(kind, match=words):
        read_json(path)
    path.write_text(json.dumps({"文": 1}))
    assert read_json(path) == {"文": 1}


HOLD = (
    "import sys, pathlib; from zhixing.core.files import FolderLock;"
    "lock = FolderLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
)


def test_the_lock_between_processes(tmp_path):
    folder = tmp_path / "new" / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert in_use(folder)
    with pytest.raises(BadInput, match=rf"another process \(pid {holder.pid}\)") as caught:
        FolderLock(folder)
    assert caught.value.where == str(folder)
    assert in_use(folder), "being refused does not take the lock away"
    holder.kill()  # also a process that is killed gives it back
    holder.communicate()
    assert not in_use(folder)
    with FolderLock(folder):
        assert (folder / ".lock").read_text() == str(os.getpid())
        with pytest.raises(BadInput, match=str(os.getpid())):
            FolderLock(folder)
    assert not in_use(folder)
    FolderLock(folder).release()


def test_looking_at_a_lock_changes_nothing(tmp_path):
    assert not in_use(tmp_path)
    assert not in_use(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_where_none_can_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MissingResource, match="in the place of a folder"):
        FolderLock(tmp_path / "file")

"""One file from the web to its place: resumed where it stopped, held against its checksum, then renamed.

The part that has arrived lies beside its place; a process that is killed at any byte goes on there. A file whose
checksum is wrong never reaches its place.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zhixing.checkpoints.hubs.needed import LARGEST
from zhixing.checkpoints.hubs.web import WebFault, no_connection, request
from zhixing.core.errors import BadInput
from zhixing.core.files import CHUNK, check_room, os_fault, sync_folder
from zhixing.core.progress import Bar

ATTEMPTS = 6
"""How often a connection may break in a row without a byte arriving."""
PAUSE = 0.5
"""Seconds before the second attempt; doubled with each further one."""
LONGEST_WAIT = 60.0
"""Seconds a server may ask to wait; beyond that it is said and left to the user."""


class Digest(Protocol):
    """What hashlib's objects do."""

    def update(self, data: bytes, /) -> None:
        """Takes in more bytes."""

    def hexdigest(self) -> str:
        """Returns the hash of all bytes so far."""


@dataclass(frozen=True)
class Expected:
    """What a file must be: known from a listing or a catalogue, not from the server that sends it.

    Attributes:
        size: Bytes.
        sha256: Of the content.
        git: Git's SHA-1 of the content as a blob, which hubs give for small files; needs the size.
    """

    size: int | None = None
    sha256: str | None = None
    git: str | None = None

    @property
    def checked(self) -> bool:
        """Whether there is a checksum."""
        return self.sha256 is not None or (self.git is not None and self.size is not None)

    def digest(self) -> Digest:
        """Returns the hash object to feed."""
        if self.sha256 is None and self.git is not None and self.size is not None:
            return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        return hashlib.sha256()

    def accepts(self, digest: Digest) -> bool:
        """Tells whether a file with this hash is the right one."""
        if self.sha256 is not None:
            return digest.hexdigest() == self.sha256.lower()
        return self.git is None or self.size is None or digest.hexdigest() == self.git.lower()


def is_right(path: Path, expected: Expected) -> bool:
    """Tells whether a file that is there already is the expected one, by size and checksum."""
    try:
        if expected.size is not None and path.stat().st_size != expected.size:
            return False
        return expected.accepts(_hash(path, expected.digest(), None))
    except OSError:
        return False


def fetch_file(
    url: str, place: Path, part: Path, expected: Expected, headers: Mapping[str, str], bar: Bar, where: str
) -> None:
    """Downloads a file to its place.

    Args:
        url: Where from.
        place: Where to; what is there is replaced.
        part: Where the bytes are collected, on the same disk; kept when the connection breaks.
        expected: Its size and checksum, as far as known.
        headers: Sent along; a token goes to the first host only.
        bar: Told of every byte.
        where: The reference and file, for messages.

    Raises:
        WebFault: It cannot be had: refused, gone, or the connection broke too often.
        BadInput: The checksum or the size is wrong; nothing of it is kept.
        MissingResource: The disk is full or cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists() and part.stat().st_size > 0
        digest = _collect(url, part, expected, headers, bar, where)
        if not expected.accepts(digest) and resumed:  # what lay there may be of another time: once more, from the start
            bar.advance(-part.stat().st_size)
            part.unlink()
            digest = _collect(url, part, expected, headers, bar, where)
        if not expected.accepts(digest):
            part.unlink()
            known = expected.sha256 or expected.git or ""
            raise BadInput(
                f"wrong checksum: {digest.hexdigest()[:16]}… arrived, {known[:16]}… was announced",
                where=where,
                remedy="the file was damaged or changed on its way, and was thrown away: try again, or another source",
            )
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(place)
        sync_folder(place.parent)
    except OSError as error:
        raise os_fault(error, place, "downloading") from error


def _collect(url: str, part: Path, expected: Expected, headers: Mapping[str, str], bar: Bar, where: str) -> Digest:
    """Brings the part to its full length, over as many connections as it takes; returns its hash."""
    digest = expected.digest()
    if expected.size is not None and part.exists() and part.stat().st_size > expected.size:
        part.unlink()
    if part.exists():
        _hash(part, digest, bar)
    failures = 0
    while True:
        done = part.stat().st_size if part.exists() else 0
        if expected.size is not None and done == expected.size:
            part.touch()
            return digest
        try:
            digest = _receive(url, part, done, expected, headers, digest, bar, where)
            if expected.size is None or part.stat().st_size == expected.size:
                return digest
            raise WebFault(f"the connection ended after {part.stat().st_size} of {expected.size} bytes")
        except WebFault as fault:
            there = part.stat().st_size if part.exists() else 0
            failures = 1 if there > done else failures + 1
            if not fault.passing or failures >= ATTEMPTS or (fault.wait or 0) > LONGEST_WAIT:
                raise
            digest = _hash(part, expected.digest(), None) if part.exists() else expected.digest()
            time.sleep(fault.wait if fault.wait is not None else PAUSE * 2 ** (failures - 1))


def _receive(
    url: str,
    part: Path,
    done: int,
    expected: Expected,
    headers: Mapping[str, str],
    digest: Digest,
    bar: Bar,
    where: str,
) -> Digest:
    """Appends what one connection brings."""
    ranged = {**headers, "Range": f"bytes={done}-"} if done else dict(headers)
    try:
        answer = request(url, ranged)
    except WebFault as fault:
        if fault.status != 416:  # nothing there beyond what we have: it is another file now
            raise
        bar.advance(-done)
        part.unlink()
        done, digest = 0, expected.digest()
        answer = request(url, headers)
    with answer:
        start = _start(answer) if answer.status == 206 else 0
        if start != done:
            bar.advance(-done)
            done, digest = 0, expected.digest()
            if start:
                raise WebFault(f"the server sends from byte {start} on, which nobody asked for", status=502)
        length = answer.length
        total = done + length if length is not None else None
        limit = expected.size if expected.size is not None else LARGEST
        if total is not None and (total > limit or total != (expected.size or total)):
            part.unlink(missing_ok=True)
            raise BadInput(f"the server sends {total} bytes, {limit} were announced", where=where)
        check_room(part.parent, (total if total is not None else limit if expected.size else 0) - done, "the download")
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            file.truncate()
            while chunk := _read(answer, url):
                done += len(chunk)
                if done > limit:
                    raise BadInput(f"the server sends more than the {limit} bytes announced", where=where)
                file.write(chunk)
                digest.update(chunk)
                bar.advance(len(chunk))
    if total is not None and done < total:
        raise WebFault(f"the connection ended after {done} of {total} bytes")
    return digest


def _read(answer: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return answer.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise no_connection(url, error) from error


def _start(answer: http.client.HTTPResponse) -> int:
    """Returns the first byte's place that a partial answer names."""
    unit, _, span = (answer.headers.get("Content-Range") or "").partition(" ")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        raise WebFault("the server sends a part without saying which")
    return int(first)


def _hash(path: Path, digest: Digest, bar: Bar | None) -> Digest:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if bar is not None:
                bar.advance(len(chunk))
    return digest

"""One file from the web to its place: resumed where it stopped, held against its checksum, then renamed.

The part that has arrived lies beside its place; a process that is killed at any byte goes on there. A file whose
checksum is wrong never reaches its place.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zhixing.checkpoints.hubs.needed import LARGEST
from zhixing.checkpoints.hubs.web import WebFault, no_connection, request, within
from zhixing.core.errors import BadInput
from zhixing.core.files import CHUNK, check_room, os_fault, sync_folder
from zhixing.core.progress import Bar

ATTEMPTS = 6
"""How often a connection may break in a row without a byte arriving."""
PAUSE = 0.5
"""Seconds before the second attempt; doubled with each further one."""
STALL = 60.0
"""Seconds without a single byte after which a download is given up, over all attempts."""
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
        digest = expected.digest()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return expected.accepts(digest)
    except OSError:
        return False


def fetch_file(
    url: str,
    place: Path,
    part: Path,
    expected: Expected,
    headers: Mapping[str, str],
    bar: Bar,
    where: str,
    patience: float = STALL,
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
        patience: Seconds for the first byte to come, over all attempts.

    Raises:
        WebFault: It cannot be had: refused, gone, or the connection broke too often.
        BadInput: The checksum or the size is wrong; nothing of it is kept.
        MissingResource: The disk is full or cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists() and part.stat().st_size > 0
        transfer = _Transfer(url, part, expected, headers, bar, where, patience)
        transfer.run()
        if not expected.accepts(transfer.digest) and resumed:
            transfer.restart()  # what lay there may be of another time
            transfer.run()
        if not expected.accepts(transfer.digest):
            part.unlink()
            known = expected.sha256 or expected.git or ""
            raise BadInput(
                f"wrong checksum: {transfer.digest.hexdigest()[:16]}… arrived, {known[:16]}… was announced",
                where=where,
                remedy="the file was damaged or changed on its way, and was thrown away: try again, or another source",
            )
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(place)
        sync_folder(place.parent)
    except OSError as error:
        raise os_fault(error, place, "downloading") from error


class _Transfer:
    """One download: the part that is there, its hash, and how to bring more."""

    def __init__(
        self,
        url: str,
        part: Path,
        expected: Expected,
        headers: Mapping[str, str],
        bar: Bar,
        where: str,
        patience: float,
    ) -> None:
        self.url, self.part, self.expected, self.headers = url, part, expected, headers
        self.bar, self.where, self.patience = bar, where, patience
        self.digest, self.done = expected.digest(), 0
        self.arrived = False
        part.touch()
        if expected.size is not None and part.stat().st_size > expected.size:
            self._empty()
        self._hash_part()
        bar.advance(self.done)

    def restart(self) -> None:
        """Throws away what is there."""
        self.bar.advance(-self.done)
        self._empty()
        self.digest, self.done = self.expected.digest(), 0

    def run(self) -> None:
        """Brings the part to its full length, over as many connections as it takes."""
        failures, last = 0, time.monotonic()
        while self.expected.size is None or self.done < self.expected.size:
            before = self.done
            try:
                self._receive()
                if self.expected.size is not None and self.done < self.expected.size:
                    raise WebFault(f"the connection ended after {self.done} of {self.expected.size} bytes")
                return
            except WebFault as fault:
                if self.done > before:
                    failures, last = 0, time.monotonic()
                failures += 1
                quiet = time.monotonic() - last > (STALL if self.arrived else self.patience)
                if not fault.passing or failures >= ATTEMPTS or quiet or (fault.wait or 0) > LONGEST_WAIT:
                    raise
                time.sleep(fault.wait if fault.wait is not None else PAUSE * 2 ** (failures - 1))

    def _receive(self) -> None:
        """Appends what one connection brings."""
        try:
            answer = self._ask()
        except WebFault as fault:
            if fault.status != 416:  # nothing there beyond what we have: it is another file now
                raise
            self.restart()
            answer = self._ask()
        with answer:
            start = _start(answer) if answer.status == 206 else 0
            if start not in (0, self.done):
                raise WebFault(f"the server sends from byte {start} on, which nobody asked for", status=502)
            if start != self.done:
                self.restart()
            total = self.done + answer.length if answer.length is not None else None
            size = self.expected.size
            limit = LARGEST if size is None else size
            if total is not None and (total > limit or (size is not None and total != size)):
                self._empty()
                raise BadInput(f"the server sends {total} bytes, {limit} were announced", where=self.where)
            check_room(self.part.parent, (total or size or 0) - self.done, "the download")
            with self.part.open("ab") as file:
                while chunk := self._read(answer):
                    if self.done + len(chunk) > limit:
                        raise BadInput(f"the server sends more than the {limit} bytes announced", where=self.where)
                    file.write(chunk)
                    self.digest.update(chunk)
                    self.done, self.arrived = self.done + len(chunk), True
                    self.bar.advance(len(chunk))
        if total is not None and self.done < total:
            raise WebFault(f"the connection ended after {self.done} of {total} bytes")

    def _ask(self) -> http.client.HTTPResponse:
        headers = {**self.headers, "Range": f"bytes={self.done}-"} if self.done else self.headers
        if self.arrived:
            return request(self.url, headers)
        host = urllib.parse.urlsplit(self.url).netloc.rpartition("@")[2]
        return within(
            self.patience,
            lambda: request(self.url, headers),
            lambda: WebFault(f"no connection to {host} (no answer within {self.patience:.0f} s)"),
        )

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise no_connection(self.url, error) from error

    def _empty(self) -> None:
        self.part.write_bytes(b"")

    def _hash_part(self) -> None:
        with self.part.open("rb") as file:
            while chunk := file.read(CHUNK):
                self.digest.update(chunk)
                self.done += len(chunk)


def _start(answer: http.client.HTTPResponse) -> int:
    """Returns the first byte's place that a partial answer names."""
    unit, _, span = (answer.headers.get("Content-Range") or "").partition(" ")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        raise WebFault("the server sends a part without saying which")
    return int(first)

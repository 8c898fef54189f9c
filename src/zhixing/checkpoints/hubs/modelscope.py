"""ModelScope: `ms:org/name@revision`, `ms:org/name/file.gguf`.

Spoken is its public HTTP interface, as its own client does: a listing with size and SHA-256 of every file, then each
file. `MODELSCOPE_ENDPOINT` or `MODELSCOPE_DOMAIN` choose another address, `MODELSCOPE_API_TOKEN` is the token.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from zhixing.checkpoints.hubs.needed import check_sizes, choose, is_safe
from zhixing.checkpoints.hubs.store import Record, cache_folder, check_online, find_record, locked
from zhixing.checkpoints.hubs.transfer import Expected, fetch_file, is_right
from zhixing.checkpoints.hubs.web import WebFault, get_json
from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.core.files import check_room
from zhixing.core.progress import human_bytes, progress_bar, say

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
PATIENCE = 30.0


class Location:
    """A place on ModelScope.

    Args:
        reference: `ms:org/name[/inside][@revision]`.

    Attributes:
        repository: `org/name`.
        inner: The .gguf file or folder inside, or empty.
        revision: Branch or tag; ModelScope's main branch is `master`.

    Raises:
        BadInput: The reference is not of this form.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference
        body, at, revision = reference.removeprefix("ms:").partition("@")
        parts = body.split("/")
        self.repository, self.inner = "/".join(parts[:2]), "/".join(parts[2:])
        self.revision = revision or "master"
        if not REPOSITORY.fullmatch(self.repository) or (at and not revision) or not is_safe(self.revision):
            raise BadInput(
                "not a place on ModelScope",
                where=reference,
                remedy="it looks like ms:org/name, ms:org/name@revision or ms:org/name/file.gguf",
            )
        if self.inner and not is_safe(self.inner):
            raise BadInput(f"{self.inner!r} is not a path inside a repository", where=reference)

    @property
    def folder(self) -> Path:
        """Where this revision is kept."""
        return cache_folder() / "modelscope" / self.repository / self.revision.replace("/", "--")

    @property
    def exact(self) -> str:
        """The reference with its revision."""
        return f"ms:{self.repository}{'/' if self.inner else ''}{self.inner}@{self.revision}"


def cached(reference: str) -> Record | None:
    """Returns the model of a reference if it is in the cache, whole and verified; uses no network."""
    return find_record(Location(reference).exact)


def fetch(reference: str, patience: float = PATIENCE) -> Record:
    """Downloads what is missing of a model, and returns where it is.

    Args:
        reference: `ms:org/name[/inside][@revision]`.
        patience: Seconds after which a server that does not answer counts as out of reach.

    Raises:
        MissingResource: ModelScope cannot be reached, has no such model, or does not let the user have it.
        BadInput: There is nothing in it that can be loaded, or a checksum is wrong.
    """
    place = Location(reference)
    with locked(f"ms:{place.repository}"):
        check_online(reference)
        try:
            entries = _listing(place, patience)
        except WebFault as fault:
            raise _explained(fault, place) from fault
        files = {name: _expected(entries[name]) for name in choose(entries, place.inner, reference)}
        return _complete(place, files, patience)


def endpoint() -> str:
    """Returns ModelScope's address, or the one that the environment chooses."""
    chosen = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return (chosen if "://" in chosen else f"https://{chosen}").rstrip("/")


def _headers() -> dict[str, str]:
    token = os.environ.get("MODELSCOPE_API_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}


def _listing(place: Location, patience: float) -> dict[str, dict[str, Any]]:
    query = urlencode({"Revision": place.revision, "Recursive": "true"})
    answer = get_json(f"{endpoint()}/api/v1/models/{place.repository}/repo/files?{query}", _headers(), patience)
    data = answer.get("Data") if isinstance(answer, dict) else None
    files = data.get("Files") if isinstance(data, dict) else None
    if not isinstance(files, list):
        raise WebFault("the answer is not a listing of a model", status=502)
    return {
        str(entry["Path"]): entry
        for entry in files
        if isinstance(entry, dict) and "Path" in entry and entry.get("Type") != "tree"
    }


def _expected(entry: dict[str, Any]) -> Expected:
    size, sha256 = entry.get("Size"), entry.get("Sha256")
    return Expected(
        size if isinstance(size, int) else None,
        sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256) else None,
    )


def _complete(place: Location, files: dict[str, Expected], patience: float) -> Record:
    total = check_sizes({name: expected.size for name, expected in files.items()}, place.reference)
    missing = {name: expected for name, expected in files.items() if not is_right(place.folder / name, expected)}
    here = sum((expected.size or 0) for name, expected in files.items() if name not in missing)
    check_room(place.folder, total - here, place.reference)
    with progress_bar(f"fetching {place.repository}", total or None) as bar:
        bar.advance(here)
        for name, expected in missing.items():
            bar.advance(0, f"{name}, {human_bytes(expected.size or 0)}")
            query = urlencode({"Revision": place.revision, "FilePath": name})
            url = f"{endpoint()}/api/v1/models/{place.repository}/repo?{query}"
            target = place.folder / name
            part = target.with_name(f".{target.name}.{(expected.sha256 or 'unknown')[:16]}.part")
            try:
                fetch_file(url, target, part, expected, _headers(), bar, f"{place.reference}: {name}", patience)
            except WebFault as fault:
                raise _explained(fault, place, name) from fault
    sizes = {place.folder / name: (place.folder / name).stat().st_size for name in files}
    record = Record(
        place.exact, place.folder / place.inner, sizes, all(expected.checked for expected in files.values())
    )
    record.write()
    if not record.verified:
        say(f"{place.reference}: ModelScope gives no checksums for some files; only their sizes were checked")
    return record


def _explained(fault: WebFault, place: Location, name: str = "") -> ZhixingError:
    """Says what a refusal of ModelScope means for the user."""
    where = f"{place.reference}: {name}" if name else place.reference
    page = f"{endpoint()}/models/{place.repository}"
    if fault.status in (401, 403):
        return MissingResource(
            "ModelScope does not give this model to everybody",
            where=where,
            remedy=f"see {page}, and set MODELSCOPE_API_TOKEN to your token",
        )
    if fault.status in (404, 410):
        return MissingResource(
            f"no such model on ModelScope, or no revision {place.revision!r}",
            where=where,
            remedy=f"check the name at {page}",
        )
    if fault.status == 429:
        wait = f"; it asks to wait {fault.wait:.0f} s" if fault.wait else ""
        return MissingResource(f"ModelScope has had too many requests{wait}", where=where, remedy="try again later")
    return MissingResource(fault.reason, where=where, remedy="try again: what has arrived is kept")

"""Telling whether input files changed: their hashes, with size and modification time as a shortcut."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zhixing.core.files import hash_file, hash_json
from zhixing.core.progress import progress_bar
from zhixing.data.problems import Problems
from zhixing.data.sources import Source, printable

TICK = 2_000_000_000
"""Nanoseconds: a file modified so shortly before it was hashed may change again without a new time stamp."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file as it was when it was hashed.

    Attributes:
        path: Its absolute path.
        form: How it is read: format and compression, which follow from its name.
        size: Its bytes.
        modified: Its modification time, in nanoseconds.
        hashed: When it was hashed, in nanoseconds.
        sha256: The hash of its content; empty when it could not be read.
    """

    path: str
    form: str
    size: int
    modified: int
    hashed: int
    sha256: str


def look_at_inputs(sources: Iterable[Source], known: Sequence[InputFile] = ()) -> list[InputFile]:
    """Hashes the files behind the sources, each once.

    Args:
        sources: What `find_sources` returned.
        known: What an earlier call returned: files with the same size and time are not hashed again.
    """
    forms: dict[Path, str] = {}
    for source in sources:
        forms.setdefault(source.path, "zip" if source.member is not None else f"{source.format} {source.compression}")
    before = {file.path: file for file in known}
    found: list[InputFile] = []
    unseen = []
    for path, form in forms.items():
        absolute = printable(path.absolute())
        entry = _look(path, absolute, form)
        if (old := before.get(absolute)) and old.sha256 and _same_file(old, entry):
            entry = InputFile(absolute, form, old.size, old.modified, old.hashed, old.sha256)
        else:
            unseen.append((len(found), path))
        found.append(entry)
    with progress_bar("Checking inputs", sum(found[index].size for index, _ in unseen)) as bar:
        for index, path in unseen:
            entry = found[index]
            try:
                digest = hash_file(path)
            except OSError:
                digest = ""
            found[index] = InputFile(entry.path, entry.form, entry.size, entry.modified, entry.hashed, digest)
            bar.advance(entry.size)
    return found


def _look(path: Path, absolute: str, form: str) -> InputFile:
    try:
        status = path.stat()
    except OSError:
        return InputFile(absolute, form, 0, 0, 0, "")
    return InputFile(absolute, form, status.st_size, status.st_mtime_ns, time.time_ns(), "")


def _same_file(old: InputFile, new: InputFile) -> bool:
    return old.size == new.size and old.modified == new.modified and old.modified < old.hashed - TICK


def report_changes(inputs: Iterable[InputFile], problems: Problems) -> None:
    """Reports the files whose size or time is not what it was when they were hashed."""
    for file in inputs:
        try:
            status = os.stat(file.path)  # noqa: PTH116 - a path string, perhaps many
        except OSError:
            continue  # what cannot be read at all was reported by its reader
        if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
            problems.report("changed", file.path, "changed while it was read; build again once it is at rest")


def hash_inputs(inputs: Iterable[InputFile]) -> str:
    """Returns one hash over the contents of all files, in order; where they lie makes no difference."""
    return hash_json([[file.form, file.sha256] for file in inputs])


def inputs_to_json(inputs: Iterable[InputFile]) -> list[dict[str, Any]]:
    """Returns the list as plain JSON values."""
    return [asdict(file) for file in inputs]


def inputs_from_json(values: Any) -> list[InputFile]:
    """Rebuilds what `inputs_to_json` wrote; an empty list when it is anything else."""
    try:
        return [InputFile(**value) for value in values]
    except TypeError:
        return []

"""Finding the input files (folders, globs, zip members) and opening them as bounded streams of bytes.

What the bytes mean is `readers`' concern.
"""

from __future__ import annotations

import glob
import os
import stat
import sysconfig
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import os_fault
from zhixing.data.problems import Problems

Format = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]
Compression = Literal["none", "gzip", "zstd"]

FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""Suffixes of structured files; every other suffix is plain text unless its bytes say otherwise."""
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


ARCHIVES = _words(
    ".tar .tgz .tbz .txz .bz2 .xz .7z .rar .lz4 .lzma .br .pdf .doc .docx .xls .xlsx .ppt .pptx .epub .odt"
)
"""Suffixes of files that may well hold text, but in a form that is not read: said, not silently passed over."""
BINARIES = _words(
    ".png .jpg .jpeg .gif .bmp .ico .icns .webp .tif .tiff .psd .mp3 .mp4 .wav .ogg .flac .avi .mkv .mov .webm "
    ".m4a .pyc .pyo .pyd .so .dylib .dll .exe .o .a .obj .lib .class .jar .whl .wasm .bin .db .sqlite "
    ".sqlite3 .pickle .pkl .npy .npz .pt .pth .ckpt .safetensors .gguf .onnx .h5 .hdf5 .arrow .feather .woff "
    ".woff2 .ttf .otf .eot .mo .nib .dmg .iso .deb .rpm .p12 .der"
)
"""Suffixes of files that are never text; in a folder they are counted and not even opened."""


@dataclass(frozen=True, slots=True)
class Source:
    """One stream of text to read: a file, or a member of a zip archive.

    Attributes:
        path: The file on disk.
        member: The name inside a zip archive, else None.
        format: How records lie in the stream.
        compression: What the stream (inside the archive, if any) is compressed with.
        size: The bytes that it takes on disk.
        suffix: The suffix of its name without that of the compression, in lower case.
    """

    path: Path
    member: str | None
    format: Format
    compression: Compression
    size: int
    suffix: str

    @property
    def name(self) -> str:
        """`path` or `archive.zip!member`, always printable as UTF-8."""
        name = str(self.path) if self.member is None else f"{self.path}!{self.member}"
        return printable(name)


def printable(name: str | Path) -> str:
    """Returns a file name in which bytes that are not UTF-8 are escaped, so that it can be printed and stored."""
    name = str(name)
    return name if name.isprintable() else os.fsencode(name).decode("utf-8", "backslashreplace").replace("\0", "\\0")


def find_sources(paths: Sequence[str | Path], problems: Problems | None = None) -> list[Source]:
    """Lists what is to be read, in a fixed order.

    Args:
        paths: Files, folders (read recursively, in sorted order) and glob patterns (`**` crosses folders).
        problems: Where hidden, binary, unreadable and duplicate files are counted.

    Returns:
        The sources, each file once, in the order of `paths`.

    Raises:
        MissingResource: A path is not there, or cannot be opened at all.
        BadInput: Nothing that could be text was found.
    """
    problems = Problems() if problems is None else problems
    if isinstance(paths, str | Path):
        paths = [paths]
    finder = _Finder(problems)
    for path in paths:
        finder.add(path)
    if not finder.sources:
        found = problems.first()
        named = ", ".join(printable(path) for path in paths) or "no path was given"
        raise BadInput(
            f"nothing readable here{f': {found}' if found else ''}",
            where=named,
            remedy="give text (.txt .md .jsonl .json .csv .tsv .parquet, also .gz, .zst, .zip) or a folder of it",
        )
    return finder.sources


def standard_library_paths() -> list[str]:
    """Returns patterns for the sources of Python's own standard library: text that is on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    escaped = glob.escape(str(root))
    skip = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}
    packages = sorted(
        entry.name for entry in root.iterdir() if entry.name not in skip and (entry / "__init__.py").is_file()
    )
    return [f"{escaped}/*.py", *(f"{escaped}/{glob.escape(name)}/**/*.py" for name in packages)]


class _Finder:
    """Walks paths and remembers what it met, so that links can neither loop nor count a file twice."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.sources: list[Source] = []
        self._files: set[tuple[int, int]] = set()
        self._folders: set[tuple[int, int]] = set()

    def add(self, given: str | Path) -> None:
        """Adds what the user named: it must be there."""
        if not str(given).strip():
            raise BadInput("an empty path", remedy="name a file or a folder; the folder you are in is '.'")
        path = Path(os.path.expanduser(given))  # noqa: PTH111 - Path.expanduser raises for an unknown user
        pattern = str(path)
        if not os.path.lexists(path):
            if not glob.has_magic(pattern):
                nearest = next((parent for parent in path.parents if parent.exists()), Path())
                raise MissingResource(
                    "no such file or folder", where=printable(given), remedy=f"found up to: {nearest}"
                )
            matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not matches:
                raise MissingResource("no file matches this pattern", where=printable(given))
            for match in matches:
                self._add_path(Path(match))
            return
        try:
            status = path.stat()
        except OSError as error:
            raise os_fault(error, path, "reading") from error
        if stat.S_ISDIR(status.st_mode):
            if not os.access(path, os.R_OK | os.X_OK):
                raise MissingResource("no permission to read this folder", where=printable(given))
            self._add_folder(path, status)
        elif not stat.S_ISREG(status.st_mode):
            raise BadInput(
                "neither a file nor a folder", where=printable(given), remedy="write the text into a file first"
            )
        elif not os.access(path, os.R_OK):
            raise MissingResource(
                "no permission to read this file", where=printable(given), remedy=f"chmod u+r {given}"
            )
        else:
            self._add_file(path, status)

    def _add_path(self, path: Path) -> None:
        """Adds what a folder or a pattern yielded: what is wrong with it is counted."""
        try:
            status = path.stat()
        except OSError as error:
            broken = path.is_symlink()
            message = "a link to nothing, or a loop" if broken else str(error.strerror)
            self.problems.report("unreadable", printable(path), message)
            return
        if stat.S_ISDIR(status.st_mode):
            self._add_folder(path, status)
        elif stat.S_ISREG(status.st_mode):
            self._add_file(path, status)
        else:
            self.problems.report("unsupported", printable(path), "neither a file nor a folder")

    def _add_folder(self, path: Path, status: os.stat_result) -> None:
        # A stack, not recursion: folders may be nested deeper than Python's call stack.
        stack = [(path, status)]
        while stack:
            folder, status = stack.pop()
            if (status.st_dev, status.st_ino) in self._folders:
                if folder.is_symlink():
                    self.problems.report("duplicate", printable(folder), "a link to a folder that is read already")
                continue
            self._folders.add((status.st_dev, status.st_ino))
            try:
                names = sorted(os.listdir(folder))  # noqa: PTH208 - names only; a million Path objects are slow
            except OSError as error:
                self.problems.report("unreadable", printable(folder), f"folder cannot be listed: {error.strerror}")
                continue
            below = []
            for name in names:
                entry = folder / name
                if name.startswith("."):
                    self.problems.report("hidden", printable(entry), "hidden")
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    self._add_path(entry)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    below.append((entry, status))
                else:
                    self._add_path(entry)
            stack += reversed(below)

    def _add_file(self, path: Path, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino)
        if identity in self._files:
            self.problems.report("duplicate", printable(path), "the same file as one that is read already")
            return
        self._files.add(identity)
        if path.suffix.lower() == ".zip":
            self.sources += _zip_sources(path, self.problems)
        elif source := _source(path, None, path.name, status.st_size, self.problems):
            self.sources.append(source)


def _source(path: Path, member: str | None, name: str, size: int, problems: Problems) -> Source | None:
    """Tells the format of one file by its name; None, and a report, when it is not to be read."""
    where = printable(path if member is None else f"{path}!{member}")
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    compression: Compression = "none"
    if suffixes and suffixes[-1] in COMPRESSIONS:
        compression = COMPRESSIONS[suffixes.pop()]
    suffix = suffixes[-1] if suffixes else ""
    if suffix in BINARIES:
        problems.report("binary", where, f"a {suffix} file is not text")
        return None
    if suffix in ARCHIVES or (suffix == ".zip" and (member is not None or compression != "none")):
        problems.report("unsupported", where, f"{suffix} files are not read; unpack or convert it to text first")
        return None
    return Source(path, member, FORMATS.get(suffix, "text"), compression, size, suffix)


def _zip_sources(path: Path, problems: Problems) -> Iterator[Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(archive.infolist(), key=lambda info: info.filename)
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        problems.report("unreadable", printable(path), f"not a zip archive that can be opened: {error}")
        return
    seen = set()
    for info in members:
        where = printable(f"{path}!{info.filename}")
        if info.is_dir():
            continue
        if any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(info.filename).parts):
            problems.report("hidden", where, "hidden")
        elif info.filename in seen:
            problems.report("duplicate", where, "a second member of the same name; the last one in the archive is read")
        elif info.flag_bits & 1:
            problems.report("unreadable", where, "encrypted; unpack the archive first")
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problems.report("unsupported", where, "compressed in an unusual way; unpack the archive first")
        elif source := _source(path, info.filename, info.filename, info.compress_size, problems):
            seen.add(info.filename)
            yield source

"""Pictures that records point to: in the folder of the file, in the zip archive that it lies in, or beside a text.

A text file with a picture of the same name beside it (cat.png, cat.txt) is that picture's caption. What a picture's
bytes mean is `data.images`' concern; here it is only looked whether they begin as a picture's do.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from zhixing.data.images import MOST_BYTES
from zhixing.data.problems import Problems
from zhixing.data.readers import bad_character
from zhixing.data.shapes.forms import Form
from zhixing.data.shapes.records import ImageText, Misfit, Placed, Shape, brief
from zhixing.data.sources import Source
from zhixing.data.streams import open_source

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
"""How the files of pictures begin: PNG, JPEG, GIF, BMP, WebP, TIFF."""

BESIDE = "picture beside its text"
"""The name of the layout of text files with a picture of the same name."""

WHOLE = Form("lines", why="text files with a picture of the same name beside each")

LONGEST = 1 << 20
"""Bytes of a caption."""


@dataclass(frozen=True)
class Surroundings:
    """Where paths in records lead: a folder on disk, or one inside a zip archive.

    Attributes:
        folder: The folder on disk, or inside the archive.
        archive: The archive, or None.
    """

    folder: Path
    archive: Path | None = None

    @classmethod
    def of(cls, source: Source) -> Surroundings:
        """Returns those of a file."""
        if source.member is None:
            return cls(source.path.parent)
        return cls(Path(source.member).parent, source.path)

    def picture(self, value: str) -> Path | bytes:
        """Returns the picture at a path: its file, or its bytes where it lies in an archive.

        Raises:
            Misfit: There is none, or it does not begin as a picture does.
        """
        if self.archive is not None:
            content = self._member(self.archive, value)
            check_begin(content[:12], brief(value))
            return content
        image = self.folder / value
        try:
            with image.open("rb") as file:
                begin = file.read(12)
        except OSError as error:
            cause = f"the picture {brief(value, 120)} cannot be read: {error.strerror}"
            raise Misfit(cause, "correct its path") from None
        check_begin(begin, brief(value))
        return image

    def _member(self, archive: Path, value: str) -> bytes:
        name = PurePosixPath(self.folder.as_posix(), value).as_posix()
        try:
            opened = _opened(archive, archive.stat().st_mtime_ns)
            size = opened.getinfo(name).file_size
            if size > MOST_BYTES:
                raise Misfit(f"the picture {brief(name)} has {size >> 20} MiB", "make it smaller")
            return opened.read(name)
        except KeyError:
            raise Misfit(f"the archive has no picture {brief(name)}", "correct its path") from None
        except (OSError, RuntimeError, NotImplementedError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise Misfit(f"the picture {brief(name)} cannot be read: {error}", "pack the archive again") from None

    def beside(self, text: str) -> str | None:
        """Returns the name of the picture that a text file's name goes with, or None when there is none."""
        stem = PurePosixPath(text).name.removesuffix(PurePosixPath(text).suffix)
        names = [stem + suffix for kind in SUFFIXES for suffix in (kind, kind.upper())]
        if self.archive is None:
            return next((name for name in names if (self.folder / name).is_file()), None)
        try:
            listed = _opened(self.archive, self.archive.stat().st_mtime_ns).NameToInfo
        except (OSError, zipfile.BadZipFile):
            return None
        return next((name for name in names if PurePosixPath(self.folder.as_posix(), name).as_posix() in listed), None)


@lru_cache(maxsize=1)
def _opened(archive: Path, changed: int) -> zipfile.ZipFile:
    """Opens an archive, or returns it when it is open: opening one reads its whole directory."""
    return zipfile.ZipFile(archive)


def check_begin(begin: bytes, shown: str) -> None:
    """Refuses bytes that do not begin as a picture does.

    Raises:
        Misfit: They do not.
    """
    if not begin.startswith(MAGIC):
        raise Misfit(f"{shown} is no picture", "PNG, JPEG, GIF, BMP, WebP and TIFF are read")


def find_captioned(sources: Sequence[Source], shape: Shape | None) -> dict[str, str]:
    """Finds text files that are captions of the pictures beside them.

    Returns:
        The name of the picture by that of the source; nothing unless every text file has one.
    """
    if shape not in (None, "image_text") or not all(source.suffix == ".txt" for source in sources):
        return {}
    found = {}
    for source in sources:
        picture = Surroundings.of(source).beside(source.member or source.path.name)
        if picture is None:
            return {}
        found[source.name] = picture
    return found


def read_captioned(source: Source, picture: str, problems: Problems) -> Iterator[Placed]:
    """Reads one picture and the text beside it."""
    with open_source(source) as stream:
        content = stream.read(LONGEST + 1)
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        problems.report("undecodable", source.name, "the caption is not UTF-8")
        return
    if not text or len(content) > LONGEST or bad_character(text):
        kind, why = ("empty", "the caption is empty") if not text else ("misfit", "this is no caption of a picture")
        problems.report(kind, source.name, why)
        return
    try:
        yield Placed(ImageText(Surroundings.of(source).picture(picture), text), source.name, None)
    except Misfit as misfit:
        problems.report(misfit.kind, source.name, str(misfit))

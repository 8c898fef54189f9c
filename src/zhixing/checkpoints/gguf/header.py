"""The header of a GGUF file: metadata and where each tensor lies, read within bounds.

A GGUF file is written by strangers. Every count, length, offset and size in it is checked against the file before it
is used, so that a lying file costs neither memory nor time (format: docs/gguf.md of ggml-org/ggml). The file is mapped,
not read: a vocabulary or a tensor that nobody asks for is never touched, and lists of texts are only skipped over.
What the metadata mean is in `architectures` and `vocabulary`, what the tensors' bytes mean in `models.blocks`.
"""

from __future__ import annotations

import itertools
import math
import mmap
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput
from zhixing.core.files import os_fault
from zhixing.models.block_kinds import KINDS, Kind

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

MOST_ENTRIES = 1 << 16
"""Metadata entries; published files have some fifty."""
MOST_TENSORS = 1 << 17
"""Tensors; the largest published models have a few thousand."""
MOST_ITEMS = 1 << 24
"""Items of one list; the largest published vocabulary has a quarter of a million tokens."""
LONGEST_KEY = (1 << 16) - 1
LONGEST_NAME = 256
LONGEST_TEXT = 1 << 24
"""Bytes of one text; chat templates have some 20,000."""
DEEPEST_LIST = 3
"""Lists inside lists; no published file nests them at all."""
MOST_DIMENSIONS = 4
MOST_VALUES = 1 << 40
"""Values of one tensor."""

STRING, ARRAY, BOOL = 8, 9, 7
SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"), 1: np.dtype("<i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"), 4: np.dtype("<u4"),
    5: np.dtype("<i4"), 6: np.dtype("<f4"), 7: np.dtype("?"), 10: np.dtype("<u8"), 11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}  # fmt: skip
"""The value types of fixed size, by their number in the format."""

_LENGTH = struct.Struct("<Q")


class Texts(Sequence[str]):
    """A list of texts that stays in the file: only the places are known, and each is decoded when it is asked for.

    Args:
        content: The file's bytes.
        start: Where the list's first length stands.
        end: Behind the last text.
        count: Texts in it.
        where: The file and the key, for messages.
    """

    def __init__(self, content: memoryview, start: int, end: int, count: int, where: str) -> None:
        self._content, self._start, self._end, self._count, self._where = content, start, end, count, where
        self._places: list[tuple[int, int]] | None = None

    @property
    def raw(self) -> memoryview:
        """The list's bytes as they stand in the file: equal bytes are equal lists."""
        return self._content[self._start : self._end]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if self._places is None:
            self._places = list(self._walk())
        if isinstance(index, slice):
            return [self._decode(*place) for place in self._places[index]]
        return self._decode(*self._places[index])

    def __iter__(self) -> Iterator[str]:
        for start, end in self._walk():
            yield self._decode(start, end)

    def decoded(self) -> list[str]:
        """Returns all texts, the fast way for a whole vocabulary.

        Raises:
            BadInput: One is not UTF-8.
        """
        content = bytes(self.raw)
        places, position, unpack = [], 0, _LENGTH.unpack_from
        for _ in range(self._count):
            start = position + 8
            position = start + unpack(content, position)[0]
            places.append((start, position))
        try:
            return [content[start:end].decode() for start, end in places]
        except UnicodeDecodeError:
            return list(self)  # says which

    def _walk(self) -> Iterator[tuple[int, int]]:
        position = self._start
        for _ in range(self._count):
            start = position + 8
            position = start + _LENGTH.unpack_from(self._content, position)[0]
            yield start, position

    def _decode(self, start: int, end: int) -> str:
        try:
            return str(self._content[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise BadInput("a text of the list is not UTF-8", where=self._where) from error


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: Its name in the file.
        shape: Rows first, as PyTorch counts (the format itself writes the sizes the other way round).
        kind: How its values are stored.
        offset: Of its first byte, from the start of the file.
        size: Its bytes.
        part: Which file it is in, where a model is in several.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    offset: int
    size: int
    part: int = 0


@dataclass(frozen=True)
class GGUFFile:
    """An opened file.

    Attributes:
        path: Where it is.
        version: Of the format.
        metadata: Every key with its value: a number, a truth value, a text, `Texts`, or an array of numbers.
        tensors: Every tensor by name, in the file's order.
        content: The mapped bytes.
        alignment: Tensors begin at multiples of it.
        others: The mapped bytes of the further files, where a model is in several.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    content: memoryview
    alignment: int
    others: tuple[memoryview, ...] = ()

    def bytes_of(self, info: TensorInfo) -> NDArray[np.uint8]:
        """Returns a tensor's bytes, mapped and not to be written to."""
        return np.frombuffer((self.content, *self.others)[info.part], np.uint8, info.size, info.offset)

    def release(self) -> None:
        """Lets the system take back the memory of what was read so far; it is read again when it is used again."""
        for content in (self.content, *self.others):
            mapped = content.obj
            if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)


def open_gguf(path: Path) -> GGUFFile:
    """Maps a file and reads its header; takes a fraction of a second for any size.

    Raises:
        MissingResource: It is not there or cannot be read.
        BadInput: It is not a GGUF file, of another version, truncated, or says what cannot be.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            _check_magic(head, path)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise os_fault(error, path, "opening the model") from error
    return _Parser(memoryview(mapped), path).file()


def open_model_file(path: Path) -> GGUFFile:
    """Opens a model that may be in several files, `name-00001-of-00003.gguf` and so on, by any one of them.

    Raises:
        MissingResource: One of them is not there.
        BadInput: They do not belong together, or one is damaged.
    """
    file = open_gguf(path)
    count = file.metadata.get("split.count", 1)
    if count in (0, 1):
        return file
    place = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if place is None or int(place[3]) != count:
        raise BadInput(
            f"this is one of {count} files, which must be called NAME-00001-of-{count:05}.gguf and so on"
            if isinstance(count, int)
            else f"split.count is {count!r}, not a number",
            where=str(path),
            remedy="give the files their published names",
        )
    parts = [open_gguf(path.with_name(f"{place[1]}-{number + 1:05}-of-{place[3]}.gguf")) for number in range(count)]
    tensors: dict[str, TensorInfo] = {}
    for number, part in enumerate(parts):
        if part.metadata.get("split.count") != count or part.metadata.get("split.no") != number:
            raise BadInput(f"this file is not part {number + 1} of {count}, as its name says", where=str(part.path))
        for name, info in part.tensors.items():
            if name in tensors:
                raise BadInput(f"the tensor {name!r} is in an earlier part too", where=str(part.path))
            tensors[name] = replace(info, part=number)
    total = parts[0].metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise BadInput(f"the {count} files hold {len(tensors)} tensors, {total} are announced", where=str(path))
    return replace(parts[0], tensors=tensors, others=tuple(part.content for part in parts[1:]))


def is_gguf(path: Path) -> bool:
    """Tells whether a path is a file that begins as a GGUF file does, or is named as one."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def _check_magic(head: bytes, path: Path) -> None:
    if head[:4] != MAGIC:
        old = {b"ggml": "ggml", b"lmgg": "ggml", b"tjgg": "ggjt", b"fmgg": "ggmf"}.get(head[:4])
        raise BadInput(
            f"a file in the old format {old}, which came before GGUF" if old else "not a GGUF file",
            where=str(path),
            remedy="convert it with llama.cpp's own scripts, or take the GGUF that is published today"
            if old
            else "GGUF files begin with the letters GGUF; an unfinished download does not",
        )


class _Parser:
    """Reads a header from front to back; every step looks first whether the file goes that far."""

    def __init__(self, content: memoryview, path: Path) -> None:
        self._content, self._path = content, path
        self._size = len(content)
        self._position = 4

    def _fault(self, cause: str, remedy: str | None = None) -> BadInput:
        return BadInput(cause, where=str(self._path), remedy=remedy or "the file is damaged: copy it again")

    def _claim(self, count: int, what: str) -> int:
        """Moves on by `count` bytes and returns where they begin."""
        start = self._position
        if count > self._size - start:
            raise self._fault(f"the file ends inside {what}: it is truncated, or a length in it is wrong")
        self._position = start + count
        return start

    def _number(self, what: str, form: str = "<Q") -> int:
        return int(struct.unpack_from(form, self._content, self._claim(struct.calcsize(form), what))[0])

    def _text(self, what: str, longest: int) -> str:
        length = self._number(what)
        if length > longest:
            raise self._fault(f"{what} claims a length of {length} bytes, at most {longest} are possible")
        start = self._claim(length, what)
        try:
            return str(self._content[start : start + length], "utf-8")
        except UnicodeDecodeError as error:
            raise self._fault(f"{what} is not UTF-8 text") from error

    def file(self) -> GGUFFile:
        version = self._number("the version", "<I")
        if version not in VERSIONS:
            big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            raise self._fault(
                "a big-endian file" if big_endian else f"version {version} of the format; 2 and 3 are known",
                "take the file that is published for ordinary (little-endian) machines" if big_endian else None,
            )
        tensor_count, entry_count = self._number("the tensor count"), self._number("the metadata count")
        # A tensor takes at least 32 bytes in the header, an entry at least 13.
        for count, least, most, what in (
            (tensor_count, 32, MOST_TENSORS, "tensors"),
            (entry_count, 13, MOST_ENTRIES, "metadata entries"),
        ):
            if count > min(most, self._size // least):
                raise self._fault(f"the header claims {count} {what}, more than there can be")
        metadata = self._metadata(entry_count)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._fault(f"general.alignment is {alignment!r}, not a power of two")
        tensors = self._tensors(tensor_count, alignment)
        return GGUFFile(self._path, version, metadata, tensors, self._content, alignment)

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for index in range(count):
            key = self._text(f"the key of metadata entry {index + 1}", LONGEST_KEY)
            if key in metadata:
                raise self._fault(f"the metadata key {key!r} occurs twice")
            metadata[key] = self._value(self._number(f"the type of {key!r}", "<I"), key, 0)
        return metadata

    def _value(self, kind: int, key: str, depth: int) -> Any:
        if kind == STRING:
            return self._text(f"the value of {key!r}", LONGEST_TEXT)
        if kind == ARRAY:
            return self._list(key, depth)
        if kind not in SCALARS:
            raise self._fault(f"the metadata key {key!r} has the unknown value type {kind}")
        dtype = SCALARS[kind]
        start = self._claim(dtype.itemsize, f"the value of {key!r}")
        if kind == BOOL and self._content[start] > 1:
            raise self._fault(f"the truth value of {key!r} is {self._content[start]}, neither 0 nor 1")
        return np.frombuffer(self._content, dtype, 1, start)[0].item()

    def _list(self, key: str, depth: int) -> Any:
        what = f"the list {key!r}"
        kind, count = self._number(what, "<I"), self._number(what)
        if count > MOST_ITEMS:
            raise self._fault(f"{what} claims {count} items, at most {MOST_ITEMS} are possible")
        if kind == STRING:
            if count > (self._size - self._position) // 8:
                raise self._fault(f"the file ends inside {what}: it is truncated, or a length in it is wrong")
            start = self._position
            self._skip_texts(count, what)
            return Texts(self._content, start, self._position, count, f"{self._path}: {key}")
        if kind == ARRAY:
            if depth >= DEEPEST_LIST or count > MOST_ENTRIES:
                raise self._fault(f"{what} nests lists beyond all bounds")
            return [self._list(key, depth + 1) for _ in range(count)]
        if kind not in SCALARS:
            raise self._fault(f"{what} has items of the unknown type {kind}")
        start = self._claim(count * SCALARS[kind].itemsize, what)
        if kind == BOOL and (np.frombuffer(self._content, np.uint8, count, start) > 1).any():
            raise self._fault(f"{what} holds truth values that are neither 0 nor 1")
        return np.frombuffer(self._content, SCALARS[kind], count, start)

    def _skip_texts(self, count: int, what: str) -> None:
        # The one loop over a whole vocabulary that opening a file needs, hence written for speed.
        content, position, size, unpack = self._content, self._position, self._size, _LENGTH.unpack_from
        try:
            for _ in range(count):
                position += 8 + unpack(content, position)[0]
                if position > size:
                    break
        except struct.error:
            position = size + 1
        if position > size:
            raise self._fault(f"the file ends inside {what}: it is truncated, or a length in it is wrong")
        self._position = position

    def _tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        found = [self._tensor_info(index) for index in range(count)]
        start = math.ceil(self._position / alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset, size in found:
            if name in tensors:
                raise self._fault(f"the tensor {name!r} occurs twice")
            if offset % alignment:
                raise self._fault(
                    f"the tensor {name!r} is not aligned: its offset {offset} is no multiple of {alignment}"
                )
            if start + offset + size > self._size:
                raise self._fault(
                    f"the tensor {name!r} should end at byte {start + offset + size}, the file has {self._size}:"
                    " it is truncated, or an offset in it is wrong"
                )
            tensors[name] = TensorInfo(name, shape, kind, start + offset, size)
        ordered = sorted(tensors.values(), key=lambda info: info.offset)
        for before, after in itertools.pairwise(ordered):
            if after.offset < before.offset + before.size:
                raise self._fault(f"the tensors {before.name!r} and {after.name!r} overlap")
        return tensors

    def _tensor_info(self, index: int) -> tuple[str, tuple[int, ...], Kind, int, int]:
        name = self._text(f"the name of tensor {index + 1}", LONGEST_NAME)
        dimensions = self._number(f"the shape of {name!r}", "<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._fault(
                f"the tensor {name!r} claims {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are possible"
            )
        shape = tuple(reversed([self._number(f"the shape of {name!r}") for _ in range(dimensions)]))
        number = self._number(f"the type of {name!r}", "<I")
        offset = self._number(f"the offset of {name!r}")
        kind = KINDS.get(number)
        if kind is None:
            raise self._fault(f"the tensor {name!r} has the type {number}, which is not known", UNKNOWN_KIND)
        values = math.prod(shape)
        if not 1 <= values <= MOST_VALUES:
            raise self._fault(f"the tensor {name!r} claims the shape {shape}, which cannot be")
        if shape[-1] % kind.values:
            raise self._fault(
                f"the tensor {name!r} has rows of {shape[-1]} values, which {kind.name} cannot hold"
                f" (blocks of {kind.values})"
            )
        return name, shape, kind, offset, values // kind.values * kind.bytes


UNKNOWN_KIND = "the file is damaged, or of a format newer than this program"

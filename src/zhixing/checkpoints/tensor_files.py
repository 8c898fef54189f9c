"""The headers of safetensors files: which tensors there are, of which type and shape, and where; read within bounds.

A safetensors file is 8 bytes with the length of a header, the header (JSON), and the tensors one after the other,
without gaps (https://github.com/huggingface/safetensors, "Format"). Every number in the header is checked against the
file before it is used. Nothing here needs torch, so that looking at a model takes no time; the tensors are read in
`tensors`, one at a time: the format's own library maps the whole file into memory instead.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import os_fault, read_json

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of one value of each type that the format knows."""

FLOATS = frozenset(("F32", "F16", "BF16", "F64"))
"""Types that a model's weights may have here; float64 is converted."""

MOST_HEADER = 32 << 20
"""Bytes of a header; published files have some hundred kilobytes."""

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DAMAGED = "the file is damaged: copy it again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: Its name.
        dtype: The format's name of its type, such as BF16.
        shape: Its sizes.
        start: Its first byte, from the start of the file.
        size: Its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header has been read and found to fit the file."""

    path: Path
    entries: dict[str, TensorEntry]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.entries.values())


def open_tensors(path: Path) -> TensorFile:
    """Reads the header of a safetensors file.

    Raises:
        MissingResource: The file is not there or cannot be read.
        BadInput: It is truncated, or its header says what cannot be.
    """
    try:
        with path.open("rb") as file:
            total = file.seek(0, 2)
            file.seek(0)
            head = file.read(8)
            if head == b"version ":
                raise BadInput(
                    "this is a Git LFS pointer, not the weights themselves",
                    where=str(path),
                    remedy="fetch the weights: git lfs pull, or name the model by its reference (hf:org/name)",
                )
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if length < 2 or length > total - 8:
                raise _fault(path, "it is too short or truncated, or no safetensors file at all")
            if length > MOST_HEADER:
                raise _fault(path, f"the header claims {length} bytes, at most {MOST_HEADER} are read")
            content = file.read(length)
    except FileNotFoundError as error:
        raise MissingResource(
            "no such file", where=str(path), remedy="it was removed, or not copied: copy it again"
        ) from error
    except OSError as error:
        raise os_fault(error, path, "reading weights") from error
    try:
        header = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _fault(path, f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _fault(path, "its header is no mapping")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _fault(path, "the header's metadata is no mapping to texts")
    entries = [_entry(path, name, value, 8 + length) for name, value in header.items()]
    return TensorFile(path, _laid_out(path, entries, 8 + length, total), metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _fault(path: Path, cause: str) -> BadInput:
    return BadInput(f"not a whole safetensors file: {cause}", where=str(path), remedy=DAMAGED)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _entry(path: Path, name: str, value: Any, base: int) -> TensorEntry:
    """Checks what the header says of one tensor."""
    dtype, shape, span = (
        (value.get("dtype"), value.get("shape"), value.get("data_offsets"))
        if isinstance(value, dict)
        else (None, None, None)
    )
    if dtype not in BITS:
        raise _fault(path, f"the tensor {name!r} has the unknown type {dtype!r}")
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        raise _fault(path, f"the tensor {name!r} has the shape {shape!r}, which cannot be")
    if not isinstance(span, list) or len(span) != 2 or not all(_is_count(place) for place in span):
        raise _fault(path, f"the tensor {name!r} has the place {span!r}, which cannot be")
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8 or bits // 8 != span[1] - span[0]:
        raise _fault(path, f"the tensor {name!r} of shape {shape} and type {dtype} does not fill bytes {span}")
    return TensorEntry(name, dtype, tuple(shape), base + span[0], span[1] - span[0])


def _laid_out(path: Path, entries: list[TensorEntry], start: int, total: int) -> dict[str, TensorEntry]:
    """Checks that the tensors fill the file, without gaps and without overlapping."""
    place = start
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.size)):
        if entry.start != place:
            raise _fault(path, f"the tensor {entry.name!r} does not begin where the one before it ends")
        place += entry.size
    if place != total:
        raise _fault(path, f"the tensors end at byte {place}, the file has {total}")
    return {entry.name: entry for entry in entries}


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a model folder, following the index where the weights are in several.

    Raises:
        MissingResource: There are none, or a shard is missing.
        BadInput: The index is damaged, or there are pickled weights only.
    """
    if (folder / INDEX).exists():
        return [folder / name for name in dict.fromkeys(sorted(set(read_index(folder)[0].values())))]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    old = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if old:
        raise BadInput(
            f"{old[0].name} holds pickled weights, which can run code; they are never loaded",
            where=str(folder),
            remedy=f"convert them once, in a process of its own: zhixing models convert {folder} {folder}-safetensors",
        )
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    if shards:
        raise MissingResource(
            f"the weights are in several files, but their index ({INDEX}) is missing",
            where=str(folder),
            remedy="copy the index there too",
        )
    raise MissingResource("no model.safetensors in this folder", where=str(folder), remedy="copy the weights there")


def read_index(folder: Path) -> tuple[dict[str, str], int | None]:
    """Reads the index of weights that are in several files.

    Returns:
        The file of each tensor, and the bytes of all tensors as the index says them, if it does.

    Raises:
        MissingResource: A shard that it names is missing.
        BadInput: It is damaged, or leads out of the folder.
    """
    path = folder / INDEX
    values = read_json(path)
    table = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(table, dict) or not table:
        raise BadInput("the index has no 'weight_map'", where=str(path))
    for name in {str(name) for name in table.values()}:
        if Path(name).name != name or "\\" in name or "\0" in name:
            raise BadInput(f"the index names a file outside the folder: {name!r}", where=str(path))
        if not name.endswith(".safetensors"):
            raise BadInput(f"the index names a file that is no safetensors file: {name!r}", where=str(path))
    files = sorted({str(name) for name in table.values()})
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MissingResource(
            f"the shard {missing[0]!r}{more} is missing (of {len(files)} that the index names)",
            where=str(folder),
            remedy="copy all shards there, or fetch the model again",
        )
    metadata = values.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    whole = isinstance(total, int | float) and not isinstance(total, bool) and math.isfinite(total)
    return {str(name): str(file) for name, file in table.items()}, int(total) if whole and total is not None else None


def open_weights(folder: Path) -> tuple[list[TensorFile], list[str]]:
    """Reads the headers of all weights of a model folder, and holds them against the index.

    Returns:
        The files, and what the user should know, in sentences.

    Raises:
        MissingResource: There are no weights, or a shard is missing.
        BadInput: A file is damaged, or the index and the shards contradict each other.
    """
    files = [open_tensors(path) for path in weight_files(folder)]
    if not (folder / INDEX).exists():
        return files, []
    table, total = read_index(folder)
    where, found = str(folder / INDEX), dict[str, str]()
    for file in files:
        for name in file.entries:
            if name in found:
                raise BadInput(f"the tensor {name!r} is in two shards: {found[name]} and {file.path.name}", where=where)
            found[name] = file.path.name
    for name, shard in table.items():
        if found.get(name) != shard:
            there = f"it is in {found[name]}" if name in found else "no shard has it"
            raise BadInput(f"the index places the tensor {name!r} in {shard}; {there}", where=where, remedy=MIXED)
    extra = found.keys() - table.keys()
    if extra:
        name = min(extra)
        raise BadInput(f"the tensor {name!r} is in {found[name]}, but not in the index", where=where, remedy=MIXED)
    size = sum(file.size for file in files)
    if total is not None and total != size:
        return files, [f"the index says that the weights have {total} bytes; the shards hold {size}"]
    return files, []


MIXED = "shards and index are of different models, or a file is damaged: copy all of them again"

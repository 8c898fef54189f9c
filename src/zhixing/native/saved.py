"""Packed decoders on disk, so that a model that was opened before starts without reading and packing it again.

A file here is named by the model's place and its quantisation, and holds a digest of all that it was made from: size
and time of every file of the model, this package's code, the core's interface. It is used when that digest is right and
the checksum of its head is; whatever else is there is written anew. The head is small and hashed; of the weights only
the size is checked, and the core checks every number of a plan before it runs it. What cannot be written costs time,
and nothing else.

    magic, digest, sizes, checksum of the head | head: JSON, then the plan's numbers, factors, frequencies | weights
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zhixing.checkpoints.hubs.store import cache_folder
from zhixing.core.errors import BadInput, ZhixingError
from zhixing.core.files import atomic_file
from zhixing.models.config import RopeScaling, TransformerConfig
from zhixing.native import library
from zhixing.native.decoder import NativeDecoder
from zhixing.native.memory import HugeMemory
from zhixing.native.packing import Bytes, Kind
from zhixing.native.program import Program, Turning

MAGIC = b"ZXPACK\x00\x01"
HEADER = struct.Struct("<8s32sQQQ32s")
"""Magic, digest, bytes of the head, where the weights begin, their bytes, SHA-256 of all before it and of the head."""

PLACE = 4096
"""Weights begin at a multiple of this."""

LONGEST_HEAD = 1 << 26
MOST_BYTES = 8 << 30
"""Bytes of all files together unless told otherwise; the one that was used longest ago goes first."""

MOST_VARIABLE = "ZHIXING_PACKED_BYTES"
FORGOTTEN = 86400.0
"""Seconds after which what a process left half written is removed."""

PIECE = 1 << 24

CODE = ("native", "families", "models", "checkpoints", "checkpoints/gguf", "checkpoints/own")
"""The parts of this package whose code decides what is packed."""


@dataclass(frozen=True)
class Saved:
    """A packed decoder as it is kept.

    Attributes:
        config: Its sizes.
        program: What the core runs.
        notes: What the user should know about the model's files, in sentences.
    """

    config: TransformerConfig
    program: Program
    notes: tuple[str, ...] = ()


def folder() -> Path:
    """Returns where packed decoders are kept."""
    return cache_folder() / "packed"


def most_bytes() -> int:
    """Returns how many bytes may be kept; 0 for none.

    Raises:
        BadInput: The environment says something else than a number.
    """
    wanted = os.environ.get(MOST_VARIABLE, "")
    if wanted and not wanted.isdecimal():
        raise BadInput(f"not a number of bytes: {wanted!r}", where=MOST_VARIABLE, remedy="use a number, 0 for no cache")
    return int(wanted) if wanted else MOST_BYTES


def kept() -> dict[Path, int]:
    """Returns all files that are kept, with their sizes."""
    with suppress(OSError):
        return {file: file.stat().st_size for file in folder().glob("*.zxp")}
    return {}


def place_of(model: Path, quantize: str | None, head: str | None = None) -> Path:
    """Returns the file of a model; it need not be there."""
    name = hashlib.sha256(f"{os.path.realpath(model)}\0{quantize}\0{head}".encode()).hexdigest()
    return folder() / f"{name[:32]}.zxp"


def digest_of(model: Path) -> bytes:
    """Returns the hash of all that a model's packed form depends on, contents by size and time."""
    digest = hashlib.sha256()
    sources = [("", model)] if model.is_file() else [("", model / name) for name in _files(model)]
    root = Path(__file__).parents[1]
    sources += [(part, root / part / name) for part in CODE for name in _files(root / part) if name.endswith(".py")]
    for part, path in sources:
        state = path.stat()
        digest.update(f"{part}\0{path.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    digest.update(f"{library.ABI} {library.library().zx_sources().decode()} {np.dtype(np.int64).str}".encode())
    return digest.digest()


def _files(where: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(where) if entry.is_file() and not entry.name.startswith("."))


def find(model: Path, quantize: str | None, head: str | None = None) -> Saved | None:
    """Returns what is kept of a model; None when there is nothing, or nothing that can be used.

    Raises:
        MissingResource: There is not enough memory for its weights.
    """
    if not most_bytes():
        return None
    path = place_of(model, quantize, head)
    try:
        with path.open("rb", buffering=0) as file:
            opened = _read_head(file, digest_of(model))
            if opened is None:
                return None
            described, numbers, factors, turnings, start, size = opened
            config = _config_from(described["config"])
            kinds = frozenset(Kind(number) for number in described["kinds"])
            notes, width, spared = (
                tuple(map(str, described["notes"])),
                int(described["output_width"]),
                int(described["spared"]),
            )
            memory = _read_weights(file, start, size)
            if memory is None:
                return None
        with suppress(OSError):
            os.utime(path)  # used now: it goes last
    except (OSError, ValueError, KeyError, TypeError, BadInput):
        return None
    return Saved(config, Program(numbers, factors, memory, turnings, kinds, width, spared), notes)


def _read_head(file: BinaryIO, digest: bytes) -> Any:
    """Returns the head's parts and where the weights are; None when the file is another's, or damaged."""
    first = file.read(HEADER.size)
    if len(first) < HEADER.size:
        return None
    magic, made_from, length, start, size, checksum = HEADER.unpack(first)
    whole = os.fstat(file.fileno()).st_size
    if magic != MAGIC or made_from != digest or length > LONGEST_HEAD or start % PLACE or whole != start + size:
        return None
    content = file.read(length)
    if hashlib.sha256(first[:-32] + content).digest() != checksum:
        return None
    text, _, rest = content.partition(b"\n")
    head = json.loads(text)
    at = 0
    arrays = []
    for name, count in head["arrays"]:
        dtype = np.dtype(name)
        arrays.append(np.frombuffer(rest, dtype, count, at).copy())
        at += count * dtype.itemsize
    numbers, factors, *frequencies = arrays
    pairs = zip(frequencies, head["turnings"], strict=True)
    turnings = tuple(Turning(values, float(cos), float(sin)) for values, (cos, sin) in pairs)
    return head, numbers, factors, turnings, start, size


def _read_weights(file: BinaryIO, start: int, size: int) -> Bytes | None:
    """Reads the weights into huge pages, with two threads: most of the time is the system's, for clearing pages."""
    memory = HugeMemory(size).bytes
    view, half = memory.data, -(-size // 2 // PLACE) * PLACE
    failed = []

    def read(first: int, last: int) -> None:
        while first < last:
            count = os.preadv(file.fileno(), [view[first : min(last, first + PIECE)]], start + first)
            if count == 0:
                failed.append(first)
                return
            first += count

    helper = threading.Thread(target=read, args=(half, size))
    helper.start()
    read(0, min(half, size))
    helper.join()
    return None if failed else memory


def keep(
    model: Path, quantize: str | None, decoder: NativeDecoder, notes: Sequence[str] = (), head: str | None = None
) -> None:
    """Writes a packed decoder in a thread of its own; the process does not end before it is done.

    A model that is made of others (an adapter) is not kept: its own files do not say everything.

    Args:
        model: Its folder or file.
        quantize: How it was packed.
        decoder: The decoder.
        notes: What the user should know about the model's files.
        head: How greedy tokens are found.
    """
    config, most = decoder.config, most_bytes()
    if not isinstance(config, TransformerConfig) or (model / "adapter_config.json").exists():
        return
    saved = Saved(config, decoder.runtime.program, tuple(notes))
    if saved.program.memory.nbytes > most // 2:
        return
    try:
        digest = digest_of(model)
    except OSError:
        return
    thread = threading.Thread(
        target=_write, args=(place_of(model, quantize, head), digest, saved, most), name="zhixing-saved"
    )
    _writers.append(thread)
    thread.start()


_writers: list[threading.Thread] = []


def wait() -> None:
    """Waits until everything that is to be kept is written."""
    while _writers:
        _writers.pop().join()


def _write(path: Path, digest: bytes, saved: Saved, most: int) -> None:
    memory = saved.program.memory
    content = _head(saved)
    start = -(-(HEADER.size + len(content)) // PLACE) * PLACE
    first = HEADER.pack(MAGIC, digest, len(content), start, memory.nbytes, b"")[:-32]
    first += hashlib.sha256(first + content).digest()
    with suppress(OSError, ZhixingError):  # read-only, or full
        _make_room(start + memory.nbytes, most, path)
        with atomic_file(path) as file:
            file.write((first + content).ljust(start, b"\0"))
            for at in range(0, memory.nbytes, PIECE):
                file.write(memory[at : at + PIECE].data)


def _head(saved: Saved) -> bytes:
    """Returns the head as it is kept."""
    program, turnings = saved.program, saved.program.turnings
    arrays: list[NDArray[Any]] = [program.numbers, program.factors, *(turning.frequencies for turning in turnings)]
    described = {
        "config": dataclasses.asdict(saved.config),
        "kinds": sorted(program.kinds),
        "notes": saved.notes,
        "output_width": program.output_width,
        "spared": program.spared,
        "turnings": [(turning.cos_factor, turning.sin_factor) for turning in turnings],
        "arrays": [(array.dtype.str, len(array)) for array in arrays],
    }
    return json.dumps(described).encode() + b"\n" + b"".join(array.tobytes() for array in arrays)


def _config_from(values: dict[str, Any]) -> TransformerConfig:
    """Returns the configuration that `dataclasses.asdict` made such values of."""

    def plain(part: dict[str, Any]) -> dict[str, Any]:
        return {key: tuple(value) if isinstance(value, list) else value for key, value in part.items()}

    scalings = {
        name: RopeScaling(**plain(values[name]))
        for name in ("rope_scaling", "local_rope_scaling")
        if values[name] is not None
    }
    return TransformerConfig(**{**plain(values), **scalings})


def _make_room(size: int, most: int, own: Path) -> None:
    """Removes the files that were used longest ago, until one more has room; and what was left half written."""
    now = time.time()
    for part in folder().glob(".*.part"):
        if now - part.stat().st_mtime > FORGOTTEN:
            part.unlink(missing_ok=True)
    others = sorted((file.stat().st_mtime, file) for file in kept() if file != own)
    left = sum(file.stat().st_size for _, file in others) + size
    for _, file in others:
        if left <= most:
            break
        left -= file.stat().st_size
        file.unlink(missing_ok=True)

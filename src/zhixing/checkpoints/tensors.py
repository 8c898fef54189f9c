"""Tensors in safetensors files: read one at a time, matched with what is expected, written in shards.

The headers of the files are in `tensor_files`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from zhixing.checkpoints.tensor_files import FLOATS, INDEX, SINGLE, TensorEntry, TensorFile, open_tensors
from zhixing.core.errors import BadInput
from zhixing.core.files import os_fault
from zhixing.families.base import Weights

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""Types that are read and written, by their name in the format."""

MODEL_TYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Types that a model's weights have in memory."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_SHARD_SIZE = 5_000_000_000
"""Bytes of weights in one file, as the hub has it."""


def stream(file: TensorFile) -> Iterator[tuple[str, Tensor]]:
    """Reads the tensors of a file, one after the other, in the file's order; one of them is in memory at a time.

    Raises:
        BadInput: A type is not read, or the file has become shorter.
        MissingResource: The file cannot be read.
    """
    try:
        with file.path.open("rb", buffering=0) as source:
            for entry in sorted(file.entries.values(), key=lambda entry: entry.start):
                if entry.dtype not in DTYPES:
                    raise BadInput(f"the tensor {entry.name!r} has the type {entry.dtype}", where=str(file.path))
                tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
                view = _bytes_of(tensor)
                source.seek(entry.start)
                done = 0
                while done < entry.size:
                    count = source.readinto(view[done:])
                    if not count:
                        raise BadInput("the file became shorter while it was read", where=str(file.path))
                    done += count
                yield entry.name, tensor
    except OSError as error:
        raise os_fault(error, file.path, "reading weights") from error


def _bytes_of(tensor: Tensor) -> memoryview:
    """Returns the memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def read_tensors(path: Path) -> Weights:
    """Reads every tensor of a safetensors file.

    Raises:
        MissingResource: The file is not there.
        BadInput: It is truncated or corrupt.
    """
    return dict(stream(open_tensors(path)))


def check_types(files: list[TensorFile]) -> list[str]:
    """Refuses types that a model's weights do not have, by name; returns what the user should know."""
    doubles = 0
    for file in files:
        for entry in file.entries.values():
            if entry.dtype not in FLOATS:
                raise BadInput(
                    f"the tensor {entry.name!r} has the type {entry.dtype}, which is not read",
                    where=str(file.path),
                    remedy="weights are float32, float16 or bfloat16; for a quantised model take its release in one "
                    "of these, or a GGUF file",
                )
            doubles += entry.dtype == "F64"
    return [f"{doubles} tensors of float64 were converted"] if doubles else []


def shape_of(entry: TensorEntry) -> Tensor:
    """Returns a tensor without memory, of an entry's shape."""
    return torch.empty(entry.shape, device="meta")


class TensorWriter:
    """Writes a safetensors file tensor by tensor, so that only one of them need be in memory.

    Args:
        path: The file; what is there is replaced.
        specs: Type and shape of every tensor that will be written, by name.
        metadata: Texts for the header.

    Raises:
        MissingResource: The file cannot be written.
        BadInput: The format has no such type.
    """

    def __init__(
        self, path: Path, specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: dict[str, str] | None
    ) -> None:
        header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
        place = 0
        # Wide types first, so that every tensor begins at a multiple of its own width; then by name, as others do it.
        for name, (dtype, shape) in sorted(specs.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
            if dtype not in NAMES:
                raise BadInput(f"the tensor {name!r} has the type {dtype}, which is not written")
            size = math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [place, place + size]}
            place += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._path, self._specs = path, dict(specs)
        self._starts = {name: 8 + len(text) + header[name]["data_offsets"][0] for name in specs}  # type: ignore[index]
        try:
            self._file = path.open("wb", buffering=0)
            self._put(0, memoryview(struct.pack("<Q", len(text)) + text))
        except OSError as error:
            raise os_fault(error, path, "writing weights") from error

    def write(self, name: str, tensor: Tensor) -> None:
        """Writes one tensor to its place; each is written once, in any order."""
        if self._specs.pop(name) != (tensor.dtype, tuple(tensor.shape)):
            raise ValueError(f"{name} is not of the type and shape that was announced")
        whole = tensor.detach().cpu().contiguous()
        try:
            self._put(self._starts[name], _bytes_of(whole))
        except OSError as error:
            raise os_fault(error, self._path, "writing weights") from error

    def _put(self, place: int, data: memoryview) -> None:
        self._file.seek(place)
        while data:
            data = data[self._file.write(data) :]

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._file.close()
        if kind is None and self._specs:
            raise ValueError(f"never written: {', '.join(self._specs)}")


def write_tensors(path: Path, tensors: Weights, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file; a full disk or a missing permission becomes one clear message."""
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with TensorWriter(path, specs, metadata) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)


def plan_shards(sizes: Mapping[str, int], max_shard_size: int) -> list[list[str]]:
    """Divides tensors among files, in their order; one that is larger than a file may be has a file of its own.

    Args:
        sizes: Bytes of each tensor.
        max_shard_size: Bytes of one file, at most.

    Raises:
        BadInput: The limit is not positive.
    """
    if max_shard_size < 1:
        raise BadInput(f"the size of a shard must be positive, got {max_shard_size}")
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_weights(folder: Path, tensors: Weights, max_shard_size: int = MAX_SHARD_SIZE) -> None:
    """Writes a model's weights: model.safetensors, or shards with an index where they are larger than one file may be.

    Args:
        folder: The model folder, which exists.
        tensors: The tensors under their published names.
        max_shard_size: Bytes of weights in one file.

    Raises:
        MissingResource: The disk is full or cannot be written.
    """
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    shards = plan_shards(sizes, max_shard_size)
    for file, names in zip(shard_names(len(shards)), shards, strict=True):
        write_tensors(folder / file, {name: tensors[name] for name in names}, {"format": "pt"})
    if len(shards) > 1:
        write_index(folder, shards, sum(sizes.values()))


def shard_names(count: int) -> list[str]:
    """Returns the names of a model's files of weights."""
    return [SINGLE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]


def write_index(folder: Path, shards: list[list[str]], total: int) -> None:
    """Writes the index of weights in several files."""
    files = shard_names(len(shards))
    table = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    values = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
    try:
        (folder / INDEX).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise os_fault(error, folder / INDEX, "writing") from error


def check_match(expected: Mapping[str, torch.Size], weights: Weights, where: str, source: str = "config.json") -> None:
    """Checks that names and shapes are exactly those expected.

    Args:
        expected: The shape of every tensor, by name.
        weights: What there is.
        where: The folder or file, for messages.
        source: What describes the model, for messages.

    Raises:
        BadInput: A tensor is missing, unknown, or of another shape.
    """
    misfit = f"{source} and the weights are of different models, or the file is damaged: copy both again"
    _complain("missing", expected.keys() - weights.keys(), where, misfit)
    _complain("unknown", weights.keys() - expected.keys(), where, misfit)
    for name, tensor in weights.items():
        if tensor.shape != expected[name]:
            raise BadInput(
                f"the tensor {name!r} has shape {tuple(tensor.shape)}, {source} asks for {tuple(expected[name])}",
                where=where,
                remedy=misfit,
            )


def _complain(what: str, names: Iterable[str], where: str, remedy: str) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        raise BadInput(f"{what} tensors: {', '.join(listed[:3])}{more}", where=where, remedy=remedy)

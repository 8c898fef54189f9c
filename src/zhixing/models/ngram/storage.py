"""The arrays of an n-gram model in a safetensors file: written piece by piece, read by mapping the file into memory."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import os_fault
from zhixing.models.ngram.tables import NgramTables

PIECE = 1 << 22
"""Values that are written or checked at a time."""

TYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4")}

DAMAGED = "the file is damaged, or of another model: copy the folder again"


def write_tables(tables: NgramTables, path: Path) -> None:
    """Writes the arrays of a model.

    Raises:
        MissingResource: The disk is full, or the file cannot be written.
    """
    arrays = _named(tables)
    header, offset = {}, 0
    for name, array in arrays.items():
        kind = "I64" if array.dtype == np.int64 else "F32"
        header[name] = {"dtype": kind, "shape": [len(array)], "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                for start in range(0, len(array), PIECE):
                    np.ascontiguousarray(array[start : start + PIECE]).tofile(file)
    except OSError as error:
        raise os_fault(error, path, "writing an n-gram model") from error


def _named(tables: NgramTables) -> dict[str, NDArray[Any]]:
    """Returns all arrays by name; those of 8 bytes first, so that each begins at a multiple of its size."""
    arrays: dict[str, NDArray[Any]] = {f"order_{order}.keys": keys for order, keys in enumerate(tables.keys, 2)}
    arrays |= {f"order_{order}.log_probabilities": part for order, part in enumerate(tables.log_probabilities, 1)}
    return arrays | {f"order_{order}.log_backoffs": part for order, part in enumerate(tables.log_backoffs, 1)}


def read_tables(path: Path, order: int, vocab_size: int, begin: int, begin_token: int | None) -> NgramTables:
    """Opens the arrays of a model and checks that they are one.

    Args:
        path: The safetensors file.
        order: Length of the longest n-grams.
        vocab_size: Number of tokens.
        begin: See `NgramTables`.
        begin_token: See `NgramTables`.

    Raises:
        MissingResource: The file is not there.
        BadInput: It is damaged, or does not fit these numbers.
    """
    if not path.is_file():
        raise MissingResource("no such file", where=str(path), remedy="it was removed, or not copied: copy it again")
    arrays = _map(path)
    names = [f"order_{number}.keys" for number in range(2, order + 1)]
    probabilities = [f"order_{number}.log_probabilities" for number in range(1, order + 1)]
    backoffs = [f"order_{number}.log_backoffs" for number in range(1, order)]
    if arrays.keys() != {*names, *probabilities, *backoffs}:
        odd = sorted(arrays.keys() ^ {*names, *probabilities, *backoffs})
        raise BadInput(f"these are not the arrays of a model of order {order}: {odd[0]!r}", where=str(path))
    tables = NgramTables(
        vocab_size, begin, [arrays[name] for name in names], [arrays[name] for name in probabilities],
        [arrays[name] for name in backoffs], begin_token,
    )  # fmt: skip
    if problem := _problem(tables):
        raise BadInput(problem, where=str(path), remedy=DAMAGED)
    return tables


def _map(path: Path) -> dict[str, NDArray[Any]]:
    """Maps every array of a safetensors file, after the library has checked offsets and sizes against the file."""
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except SafetensorError as error:
        raise BadInput(f"not a whole safetensors file ({error})", where=str(path), remedy=DAMAGED) from error
    except OSError as error:
        raise os_fault(error, path, "reading an n-gram model") from error
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape = entry["dtype"], entry["shape"]
        wanted = "I64" if name.endswith(".keys") else "F32"
        if not re.fullmatch(r"order_\d{1,2}\.(keys|log_probabilities|log_backoffs)", name) or kind != wanted:
            raise BadInput(f"the array {name!r} of type {kind} does not belong to an n-gram model", where=str(path))
        if len(shape) != 1:
            raise BadInput(f"the array {name!r} has {len(shape)} dimensions, not 1", where=str(path))
        start = 8 + length + int(entry["data_offsets"][0])
        arrays[name] = (
            np.memmap(path, TYPES[kind], mode="r", offset=start, shape=(shape[0],))
            if shape[0]
            else np.empty(0, TYPES[kind])
        )
    return arrays


def _problem(tables: NgramTables) -> str | None:
    """Returns what is wrong with the arrays; a look-up never leaves tables that pass."""
    rows = max(tables.vocab_size, tables.begin + 1)
    if len(tables.log_probabilities[0]) != rows:
        return f"{len(tables.log_probabilities[0])} probabilities of single tokens, expected {rows}"
    for order, (keys, values) in enumerate(zip(tables.keys, tables.log_probabilities[1:], strict=True), 2):
        if len(keys) != len(values):
            return f"{len(keys)} {order}-grams, but {len(values)} probabilities"
        if len(keys) and (keys[0] < 0 or keys[-1] >= rows * tables.vocab_size):
            return f"the {order}-grams have keys outside of their table"
        if not all(bool((np.diff(keys[start : start + PIECE + 1]) > 0).all()) for start in _starts(keys)):
            return f"the {order}-grams are not in order"
        rows = len(keys)
    for order, (values, backoffs) in enumerate(zip(tables.log_probabilities, tables.log_backoffs, strict=False), 1):
        if len(values) != len(backoffs):
            return f"{len(values)} {order}-grams, but {len(backoffs)} back-off weights"
    for part in (*tables.log_probabilities, *tables.log_backoffs):
        if not all(bool(np.isfinite(part[start : start + PIECE]).all()) for start in _starts(part)):
            return "there are values that are not numbers"
    return None


def _starts(array: Sequence[Any] | NDArray[Any]) -> range:
    return range(0, len(array), PIECE)

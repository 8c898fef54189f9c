"""Encoded examples on disk: written once, mapped into memory, so that a run's memory does not grow with its records.

An example is a set of named one-dimensional arrays (its tokens, its label, ...), whose lengths may differ from example
to example. Each name is one file of values end to end and one of where each example's end. What an example means is its
objective's matter (`training.objectives`); which examples go into a batch is `data.length_batches`'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import hash_json, read_json

Example = Mapping[str, NDArray[Any]]
"""One encoded record: arrays by name."""

INDEX = "index.json"
DTYPES = ("uint8", "int32", "int64", "float32")
MARKS = ("example.lengths", "example.records")
"""Files beside the fields: the length of each example for batching, and the record that it was made of."""


class ExampleStore:
    """A part (training, validation) of a run's examples, read-only.

    Attributes:
        lengths: What each example counts in a budget of tokens, (examples).
        records: The number of the record that each example was made of, (examples); several windows share one.
        hash: SHA-256 over all of it.
    """

    def __init__(self, folder: Path) -> None:
        index = read_json(folder / INDEX) if (folder / INDEX).is_file() else None
        if index is None:
            raise MissingResource("there are no examples here", where=str(folder))
        self.folder = folder
        try:
            self.hash = str(index["hash"])
            self.fields: dict[str, str] = dict(index["fields"])
            count, sizes = int(index["count"]), dict(index["sizes"])
            if not set(self.fields.values()) <= set(DTYPES):
                raise ValueError
        except (TypeError, KeyError, ValueError) as error:
            raise BadInput("not an index of examples", where=str(folder / INDEX)) from error
        self.lengths: NDArray[np.int32] = self._map("example.lengths", "int32", count)
        self.records: NDArray[np.int64] = self._map("example.records", "int64", count)
        self._values = {name: self._map(name, dtype, int(sizes[name])) for name, dtype in self.fields.items()}
        self._ends = {name: self._map(f"{name}.ends", "int64", count) for name in self.fields}

    def _map(self, name: str, dtype: str, count: int) -> NDArray[Any]:
        path = self.folder / f"{name}.bin"
        size = path.stat().st_size if path.is_file() else -1
        if size != count * np.dtype(dtype).itemsize:
            raise BadInput(f"{name}.bin is missing or cut short", where=str(self.folder))
        return np.memmap(path, dtype, "r", shape=(count,)) if count else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:
        """Reads one example."""
        found = {}
        for name, values in self._values.items():
            ends = self._ends[name]
            found[name] = np.array(values[int(ends[index - 1]) if index else 0 : int(ends[index])])
        return found

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> list[Example]:
        """Reads several examples."""
        return [self[int(index)] for index in indices]


class ExampleWriter:
    """Writes one part of a store; used as a context manager.

    Args:
        folder: Where to; created.
        fields: Number type by name of field.
    """

    def __init__(self, folder: Path, fields: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.fields, self.count = folder, dict(fields), 0
        self._sizes = dict.fromkeys(fields, 0)
        self._hash = hashlib.sha256()
        names = [*MARKS, *fields, *(f"{name}.ends" for name in fields)]
        self._files: dict[str, BinaryIO] = {name: (folder / f"{name}.bin").open("wb") for name in names}

    def __enter__(self) -> ExampleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            index = {"fields": self.fields, "count": self.count, "sizes": self._sizes, "hash": self._hash.hexdigest()}
            (self.folder / INDEX).write_text(json.dumps(index), encoding="utf-8")

    def add(self, example: Example, length: int, record: int) -> None:
        """Appends an example.

        Args:
            example: An array for each field.
            length: What it counts in a budget of tokens.
            record: The number of the record that it was made of.
        """
        for name, dtype in self.fields.items():
            values = np.ascontiguousarray(example[name], dtype=dtype)
            self._sizes[name] += len(values)
            data = values.tobytes()
            self._files[name].write(data)
            self._hash.update(data)
            self._files[f"{name}.ends"].write(np.int64(self._sizes[name]).tobytes())
        self._files["example.lengths"].write(np.int32(length).tobytes())
        self._files["example.records"].write(np.int64(record).tobytes())
        self.count += 1


def stored_text(text: str) -> NDArray[np.uint8]:
    """Returns a text as a field's values; see `read_text`."""
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def read_text(values: NDArray[np.uint8]) -> str:
    """Returns the text that `stored_text` wrote."""
    return values.tobytes().decode("utf-8")


def hash_parts(*stores: ExampleStore, facts: Mapping[str, Any]) -> str:
    """Returns one hash over the examples of all parts and what their objective learnt from the records."""
    return hash_json([*(store.hash for store in stores), facts])

"""Token shards on disk and how they are read. They are written by `writer`.

A folder of shards holds, for each split (`train`, `validation`):

- `SPLIT-00000.tokens`, `SPLIT-00001.tokens`, ...: token ids, `uint16` or `uint32`, little endian, nothing else;
- `SPLIT.documents`: where each document starts, in tokens, and at last the number of tokens (`uint64`);
- `SPLIT.bytes`: how many bytes of UTF-8 each document has (`uint64`), so that bits per byte is exact;

and `index.json`, which says all there is to know about them, with the length and SHA-256 of every file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import hash_file, os_fault, read_json
from zhixing.data.problems import Problems

FORMAT_VERSION = 1
INDEX = "index.json"
SPLITS = ("train", "validation")

TokenArray = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class SplitFacts:
    """How much there is in one split. `bytes` and `characters` are of the text, without separators."""

    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    characters: int = 0


@dataclass(frozen=True)
class ShardFacts:
    """What a build of shards found and did.

    Attributes:
        train: The amounts in the training split.
        validation: The amounts held out.
        sources: The number of files and archive members that were read.
        separator_id: The id that ends each document, None when there is none.
        vocab_size: The tokenizer's.
        fingerprint: The tokenizer's.
        options: The build options.
        notes: Sentences about what was done otherwise than asked, and why.
        problems: What was skipped or odd in the input.
        data_hash: One hash over the contents of all inputs.
    """

    train: SplitFacts
    validation: SplitFacts
    sources: int
    separator_id: int | None
    vocab_size: int
    fingerprint: str
    options: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    problems: Problems = field(default_factory=Problems)
    data_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the facts as plain JSON values."""
        plain = {name: value for name, value in vars(self).items() if name not in ("problems", "train", "validation")}
        return {
            **plain,
            "options": dict(self.options),
            "notes": list(self.notes),
            "problems": self.problems.to_json(),
            "train": asdict(self.train),
            "validation": asdict(self.validation),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShardFacts:
        """Rebuilds what `to_json` wrote."""
        return cls(
            **{
                **value,
                "notes": tuple(value["notes"]),
                "problems": Problems.from_json(value["problems"]),
                "train": SplitFacts(**value["train"]),
                "validation": SplitFacts(**value["validation"]),
            }
        )


class TokenStore:
    """The tokens of one split: a long array over one or several files, with the bounds of its documents.

    Args:
        arrays: The token arrays, in order.
        documents: Where each document starts, and at last the number of tokens.
        document_bytes: The bytes of UTF-8 of each document.

    Attributes:
        documents: As given: `documents[i] : documents[i + 1]` are the tokens of document `i`.
        document_bytes: As given.
    """

    def __init__(
        self, arrays: Sequence[TokenArray], documents: NDArray[np.uint64], document_bytes: NDArray[np.uint64]
    ) -> None:
        self._arrays = [array for array in arrays if len(array)]
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])
        self._count = int(self._starts[-1])
        self.documents = documents
        self.document_bytes = document_bytes
        if len(documents) != len(document_bytes) + 1 or int(documents[-1]) != self._count:
            raise ValueError("document bounds do not fit the tokens")

    @classmethod
    def from_documents(
        cls, documents: Sequence[Sequence[int]], document_bytes: Sequence[int] | None = None
    ) -> TokenStore:
        """Makes a store in memory, for tests and for small texts."""
        lengths = [len(document) for document in documents]
        tokens = np.fromiter((token for document in documents for token in document), np.uint32, sum(lengths))
        starts = np.cumsum([0, *lengths], dtype=np.uint64)
        counts = np.asarray(lengths if document_bytes is None else document_bytes, dtype=np.uint64)
        return cls([tokens], starts, counts)

    def __len__(self) -> int:
        return self._count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored ids."""
        return self._arrays[0].dtype if self._arrays else np.dtype(np.uint16)

    @property
    def document_count(self) -> int:
        """The number of documents."""
        return len(self.document_bytes)

    @property
    def byte_count(self) -> int:
        """The bytes of UTF-8 of all documents."""
        return int(self.document_bytes.sum(dtype=np.uint64))

    def read(self, start: int, count: int) -> TokenArray:
        """Returns tokens `start : start + count`; a copy only where they span two files.

        Raises:
            IndexError: The range is not within the store.
        """
        end = start + count
        if start < 0 or count < 0 or end > self._count:
            raise IndexError(f"tokens {start}:{end} of {self._count}")
        if len(self._arrays) == 1:
            return self._arrays[0][start:end]
        if count == 0:
            return np.empty(0, self.dtype)
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        last = int(np.searchsorted(self._starts, end, "left")) - 1
        parts = []
        for index in range(first, last + 1):
            base = int(self._starts[index])
            parts.append(self._arrays[index][max(0, start - base) : end - base])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def document(self, index: int) -> TokenArray:
        """Returns the tokens of one document, with its separator if the store has them."""
        start, end = int(self.documents[index]), int(self.documents[index + 1])
        return self.read(start, end - start)

    def whole_documents(self, limit: int) -> tuple[int, int]:
        """Returns how many tokens, and bytes of text, the first whole documents have that fit into `limit` tokens.

        It is at least one document: a measure over so many tokens has an exact number of bytes.
        """
        count = max(1, int(np.searchsorted(self.documents, np.uint64(max(0, limit)), "right")) - 1)
        count = min(count, self.document_count)
        return int(self.documents[count]), int(self.document_bytes[:count].sum(dtype=np.uint64))

    def documents_at(self, start: int, count: int) -> NDArray[np.int64]:
        """Returns the number of the document that each of the tokens `start : start + count` belongs to."""
        first = int(np.searchsorted(self.documents, np.uint64(start), "right")) - 1
        last = int(np.searchsorted(self.documents, np.uint64(start + count), "left"))
        bounds = np.asarray(self.documents[first : last + 1], dtype=np.int64).clip(start, start + count)
        return np.repeat(np.arange(first, first + len(bounds) - 1), np.diff(bounds))


@dataclass(frozen=True)
class ShardSet:
    """A folder of shards, opened.

    Attributes:
        folder: Where it is.
        train: The tokens to train on.
        validation: The tokens held out.
        facts: What the build found.
        reused: Whether `build_shards` found it up to date and did not build it.
    """

    folder: Path
    train: TokenStore
    validation: TokenStore
    facts: ShardFacts
    reused: bool = False

    def verify(self) -> None:
        """Reads every byte and compares it with the hashes of the index.

        Raises:
            BadInput: A file was altered; the message names it.
        """
        for name, entry in read_index(self.folder)["files"].items():
            if hash_file(self.folder / name) != entry["sha256"]:
                raise _corrupt(self.folder / name, "its content differs from what was written (SHA-256)")


def _corrupt(path: Path, cause: str) -> BadInput:
    return BadInput(
        f"corrupt token shards: {cause}", where=str(path), remedy=f"delete {path.parent} and build it again"
    )


def read_index(folder: Path) -> dict[str, Any]:
    """Reads and checks `index.json`.

    Raises:
        MissingResource: There are no shards here.
        BadInput: The index is broken, or of a version this program does not know.
    """
    path = folder / INDEX
    if not path.is_file():
        raise MissingResource("no token shards here", where=str(folder), remedy="build them from text first")
    index = read_json(path)
    if not isinstance(index, dict) or "version" not in index:
        raise _corrupt(path, "the index is not one of token shards")
    if index["version"] != FORMAT_VERSION:
        raise BadInput(
            f"token shards of format version {index['version']!r}, this program reads {FORMAT_VERSION}",
            where=str(path),
            remedy=f"delete {folder} and build it again",
        )
    missing = {"dtype", "files", "splits", "facts"} - index.keys()
    if missing:
        raise _corrupt(path, f"the index lacks {', '.join(sorted(missing))}")
    return index


def open_shards(folder: Path | str, *, fingerprint: str | None = None) -> ShardSet:
    """Opens a folder of shards without reading the tokens.

    Args:
        folder: What `build_shards` wrote.
        fingerprint: The tokenizer's; when given, it must be the one the shards were built with.

    Raises:
        MissingResource: There are no shards here, or a file cannot be read.
        BadInput: A file is truncated, the index is broken, or the tokenizer is another.
    """
    folder = Path(folder)
    index = read_index(folder)
    try:
        facts = ShardFacts.from_json(index["facts"])
        dtype: np.dtype[Any] = np.dtype({"uint16": "<u2", "uint32": "<u4"}[index["dtype"]])
        stores = [_open_split(folder, index, split, dtype) for split in SPLITS]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _corrupt(folder / INDEX, f"the index does not fit the files ({error})") from error
    if fingerprint is not None and facts.fingerprint != fingerprint:
        raise BadInput(
            f"these token shards were made with another tokenizer ({facts.fingerprint[:12]}, not {fingerprint[:12]})",
            where=str(folder),
            remedy="use the tokenizer they were made with, or build them again",
        )
    return ShardSet(folder, stores[0], stores[1], facts)


def _open_split(folder: Path, index: Mapping[str, Any], split: str, dtype: np.dtype[Any]) -> TokenStore:
    arrays = [_map(folder, index, name, dtype) for name in index["splits"][split]]
    documents = _map(folder, index, f"{split}.documents", np.dtype("<u8"))
    counts = _map(folder, index, f"{split}.bytes", np.dtype("<u8"))
    return TokenStore(arrays, documents, counts)


def _map(folder: Path, index: Mapping[str, Any], name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    # A name from a file must not lead out of its folder.
    if Path(name).name != name:
        raise _corrupt(folder / INDEX, f"strange file name {name!r}")
    path = folder / name
    expected = index["files"][name]["size"]
    try:
        size = path.stat().st_size
        if size != expected or size % dtype.itemsize:
            raise _corrupt(path, f"it has {size} bytes, {expected} were written")
        return np.memmap(path, dtype, mode="r") if size else np.empty(0, dtype)
    except FileNotFoundError as error:
        raise _corrupt(path, "the file is missing") from error
    except OSError as error:
        raise os_fault(error, path, "opening token shards") from error

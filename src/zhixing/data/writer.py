"""Writing the files of one split of token shards. The format is described in `shards`, which reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zhixing.data.shards import SplitFacts, TokenArray

SHARD_TOKENS = 1 << 28
"""A token file is full at so many tokens (512 MiB of `uint16`)."""


class SplitWriter:
    """Writes the files of one split, in bounded memory.

    Args:
        folder: Where to write.
        split: The name of the split.
        dtype: The type of the ids.
        shard_tokens: Tokens per file.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any], shard_tokens: int = SHARD_TOKENS) -> None:
        self._folder, self._split, self._dtype, self._shard_tokens = folder, split, dtype, shard_tokens
        self._documents = _HashedFile(folder / f"{split}.documents")
        self._bytes = _HashedFile(folder / f"{split}.bytes")
        self._documents.write(np.zeros(1, "<u8").tobytes())
        self._shards: list[_HashedFile] = []
        self._in_shard = 0
        self._tokens = self._document_count = self._byte_count = self._character_count = 0

    def write(
        self, tokens: TokenArray, lengths: NDArray[np.int64], byte_counts: Sequence[int], characters: int
    ) -> None:
        """Appends documents.

        Args:
            tokens: The tokens of all of them, one after the other.
            lengths: How many tokens each has.
            byte_counts: How many bytes of UTF-8 each has.
            characters: How many characters they have together.
        """
        ends = self._tokens + np.cumsum(lengths)
        self._documents.write(ends.astype("<u8").tobytes())
        self._bytes.write(np.asarray(byte_counts, "<u8").tobytes())
        self._tokens += len(tokens)
        self._document_count += len(lengths)
        self._byte_count += sum(byte_counts)
        self._character_count += characters
        while len(tokens):
            if not self._shards or self._in_shard == self._shard_tokens:
                self._shards.append(_HashedFile(self._folder / f"{self._split}-{len(self._shards):05d}.tokens"))
                self._in_shard = 0
            part = tokens[: self._shard_tokens - self._in_shard]
            self._shards[-1].write(part.astype(self._dtype, copy=False).tobytes())
            self._in_shard += len(part)
            tokens = tokens[len(part) :]

    @property
    def facts(self) -> SplitFacts:
        """What was written so far."""
        return SplitFacts(self._tokens, self._document_count, self._byte_count, self._character_count)

    def close(self) -> tuple[list[str], dict[str, dict[str, Any]]]:
        """Closes the files; returns the names of the token files, and the size and hash of every file."""
        files = {}
        for file in (*self._shards, self._documents, self._bytes):
            files[file.path.name] = {"size": file.size, "sha256": file.close()}
        return [shard.path.name for shard in self._shards], files


class _HashedFile:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> str:
        self._file.close()
        return self._digest.hexdigest()

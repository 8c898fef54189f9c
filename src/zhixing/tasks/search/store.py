"""What an index keeps on disk, and how it stays whole: SQLite for documents and words, one growing file of vectors.

    index.json     the format and the encoder
    index.db       documents, passages, the rows that hold each word, and which rows of vectors count
    vectors-N.f32  rows of float32, one per passage, appended; N grows when the index is compacted

A change writes vectors first and syncs them, then commits one transaction that says that they count: whatever is killed
in between leaves rows that nobody knows, which the next change writes over. What was acknowledged is on the disk.
Rows of passages that are gone stay in the files until they are compacted. The rows that
hold a word are written for thousands of rows at once; the words of the rows behind those are kept in memory.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import atomic_write, os_fault, read_json
from zhixing.tasks.search.terms import query_terms, terms_of

HEADER, DATABASE = "index.json", "index.db"
FORMAT = 1
K1, B = 1.2, 0.75
"""BM25's saturation of repeated words, and how much long passages are held back."""
POSTING = np.uint32
"""Of posting lists: pairs of a row and how often it holds the word."""
STALE = -1
"""The version of what was read before a change of our own."""
SEGMENT = 8192
"""Rows whose posting lists are written together; and that share a checksum when an index is compacted."""
SCHEMA = """
CREATE TABLE documents (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, source TEXT NOT NULL,
    line INTEGER);
CREATE INDEX documents_by_source ON documents (source);
CREATE TABLE passages (id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    row INTEGER NOT NULL UNIQUE, words INTEGER NOT NULL, begin INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX passages_by_document ON passages (document);
CREATE TABLE generation (number INTEGER NOT NULL, worded INTEGER NOT NULL);
INSERT INTO generation VALUES (1, 0);
CREATE TABLE segments (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE postings (term TEXT NOT NULL, first INTEGER NOT NULL, rows BLOB NOT NULL, PRIMARY KEY (term, first))
    WITHOUT ROWID;
"""


@dataclass(frozen=True)
class NewDocument:
    """A document to be stored, with its passages.

    Attributes:
        key: Names it; what had the same key goes.
        digest: Of its text.
        source: The file that it came from, or "".
        line: Where in the file.
        passages: Where each begins in the document, and its text.
        vectors: (passages, width).
    """

    key: str
    digest: str
    source: str
    line: int | None
    passages: Sequence[tuple[int, str]]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Passage:
    """A stored passage: its document's key and source, the line of the document, where the passage begins, its text."""

    key: str
    source: str
    line: int | None
    begin: int
    text: str


def create_store(folder: Path, header: dict[str, Any]) -> None:
    """Makes an empty index.

    Args:
        folder: Where; made if it is missing.
        header: What `index.json` says of the encoder, with its `width`.

    Raises:
        BadInput: There is something in the folder.
        MissingResource: It cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput("there is something at this path already, and it is no index", where=str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_fault(error, folder, "making the index") from error
    with contextlib.closing(_connect(folder / DATABASE)) as database:
        database.executescript(SCHEMA)
    _vectors_file(folder, 1).touch()
    # Last: without it the folder is no index.
    atomic_write(folder / HEADER, json.dumps({"format": FORMAT, **header}, indent=2) + "\n")


def is_store(folder: Path) -> bool:
    """Tells whether a folder is an index."""
    return (folder / HEADER).is_file() and (folder / DATABASE).is_file()


def _vectors_file(folder: Path, generation: int) -> Path:
    return folder / f"vectors-{generation}.f32"


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")  # an acknowledged change survives a power cut
    database.execute("PRAGMA foreign_keys=ON")
    return database


class Store:
    """An index on disk. One process may write to it at a time (`Index` holds the lock), any number may read.

    Args:
        folder: The index.

    Attributes:
        header: What index.json says.
        width: Numbers of a vector.

    Raises:
        MissingResource: There is no index.
        BadInput: It is damaged, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        if not is_store(folder):
            raise MissingResource(
                "there is no index", where=str(folder), remedy=f"make one: zhixing index add {folder} FILES"
            )
        self.folder = folder
        self.header: dict[str, Any] = read_json(folder / HEADER)
        width = self.header.get("width") if isinstance(self.header, dict) else None
        if not isinstance(width, int) or self.header.get("format") != FORMAT:
            raise BadInput("not an index of this version", where=str(folder / HEADER), remedy="build it anew")
        self.width: int = width
        try:
            self.database = _connect(folder / DATABASE)
            self._load()
        except sqlite3.DatabaseError as error:
            raise _damaged(folder, str(error)) from error

    def close(self) -> None:
        """Lets the files go."""
        self.database.close()

    def _load(self) -> None:
        """Reads which rows count, and maps the vectors."""
        (self._version,) = self.database.execute("PRAGMA data_version").fetchone()
        self._generation, self.worded = self.database.execute("SELECT number, worded FROM generation").fetchone()
        self.rows = self._committed()
        file = _vectors_file(self.folder, self._generation)
        size = file.stat().st_size if file.exists() else 0
        if size < self.rows * self.width * 4:
            raise _damaged(self.folder, f"{file.name} has {size:,} bytes, of {self.rows * self.width * 4:,}")
        found = self.database.execute("SELECT row, id, words FROM passages")
        known = np.fromiter((number for row in found for number in row), np.int64).reshape(-1, 3)
        self.passage_of = np.full(self.rows, -1, np.int64)
        """The passage of each row of vectors; -1 where it is gone."""
        self.passage_of[known[:, 0]] = known[:, 1]
        self.words_of = np.zeros(self.rows, np.float32)
        """How many words the passage of each row has."""
        self.words_of[known[:, 0]] = known[:, 2]
        self.gone = np.flatnonzero(self.passage_of < 0)
        self._tail = _postings(self._texts(self.worded, self.rows))
        self.vectors: NDArray[np.float32] = (
            np.memmap(file, np.float32, "r", shape=(self.rows, self.width))
            if self.rows
            else np.zeros((0, self.width), np.float32)
        )

    def _committed(self) -> int:
        found = self.database.execute("SELECT first + count FROM segments ORDER BY first DESC LIMIT 1").fetchone()
        return int(found[0]) if found else 0

    def refresh(self) -> None:
        """Takes in what was changed since, here or by another process."""
        if self.database.execute("PRAGMA data_version").fetchone()[0] != self._version:
            self._load()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def digests(self, keys: Sequence[str]) -> dict[str, str]:
        """Returns the digests of those documents that are there."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            found |= dict(self.database.execute(f"SELECT key, digest FROM documents WHERE key IN ({marks})", part))
        return found

    def keys_of(self, source: str) -> list[str]:
        """Returns the keys of the documents that came from a file."""
        return [key for (key,) in self.database.execute("SELECT key FROM documents WHERE source = ?", (source,))]

    def sources(self) -> list[str]:
        """Returns the files that documents came from."""
        return [source for (source,) in self.database.execute("SELECT DISTINCT source FROM documents ORDER BY source")]

    def put(self, documents: Sequence[NewDocument]) -> None:
        """Stores documents, in the place of those with the same keys: all of them or, when it fails, none."""
        vectors = np.ascontiguousarray(
            np.concatenate([document.vectors for document in documents] or [np.zeros((0, self.width), np.float32)]),
            np.float32,
        )
        data = vectors.tobytes()
        try:
            with self._transaction():
                row = self._committed()  # within the transaction: nobody else appends
                self._append(row, data)
                if len(vectors):
                    self.database.execute(
                        "INSERT INTO segments VALUES (?, ?, ?)", (row, len(vectors), zlib.crc32(data))
                    )
                for document in documents:
                    self._remove(document.key)
                    cursor = self.database.execute(
                        "INSERT INTO documents (key, digest, source, line) VALUES (?, ?, ?, ?)",
                        (document.key, document.digest, document.source, document.line),
                    )
                    for begin, text in document.passages:
                        self.database.execute(
                            "INSERT INTO passages (document, row, words, begin, text) VALUES (?, ?, ?, ?, ?)",
                            (cursor.lastrowid, row, len(terms_of(text)), begin, text),
                        )
                        row += 1
        except OSError as error:
            raise os_fault(error, self.folder, "adding to the index") from error
        except sqlite3.OperationalError as error:
            raise _operational(self.folder, error) from error
        self._version = STALE

    def _append(self, row: int, data: bytes) -> None:
        (generation,) = self.database.execute("SELECT number FROM generation").fetchone()
        descriptor = os.open(_vectors_file(self.folder, generation), os.O_RDWR)
        try:
            os.ftruncate(descriptor, row * self.width * 4)
            os.lseek(descriptor, 0, os.SEEK_END)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _texts(self, first: int, end: int) -> list[tuple[int, str]]:
        """Returns the rows [first, end) that are there, with their texts."""
        query = "SELECT row, text FROM passages WHERE row >= ? AND row < ? ORDER BY row"
        return self.database.execute(query, (first, end)).fetchall()

    def write_words(self, least: int = SEGMENT) -> None:
        """Writes the posting lists of the rows that have none yet, when there are so many."""
        with self._transaction():
            (first,) = self.database.execute("SELECT worded FROM generation").fetchone()
            end = self._committed()
            if end - first >= least:
                self._write_words(first, end)
        self._version = STALE

    def _write_words(self, first: int, end: int) -> None:
        for begin in range(first, end, SEGMENT):
            lists = _postings(self._texts(begin, min(begin + SEGMENT, end)))
            # In the order of the table, which is then written from left to right.
            values = ((term, begin, np.array(lists[term], POSTING).tobytes()) for term in sorted(lists))
            self.database.executemany("INSERT INTO postings VALUES (?, ?, ?)", values)
        self.database.execute("UPDATE generation SET worded = ?", (end,))

    def _remove(self, key: str) -> bool:
        found = self.database.execute("SELECT id FROM documents WHERE key = ?", (key,)).fetchone()
        if found is None:
            return False
        self.database.execute("DELETE FROM documents WHERE id = ?", found)
        return True

    def remove(self, keys: Sequence[str]) -> int:
        """Removes documents; returns how many there were."""
        try:
            with self._transaction():
                count = sum(self._remove(key) for key in keys)
        except sqlite3.OperationalError as error:
            raise _operational(self.folder, error) from error
        self._version = STALE
        return count

    def compact(self) -> int:
        """Gives the space of removed passages back; returns how many rows went."""
        self.refresh()
        gone = len(self.gone)
        if not gone:
            return 0
        alive = np.flatnonzero(self.passage_of >= 0)
        old = _vectors_file(self.folder, self._generation)
        new = _vectors_file(self.folder, self._generation + 1)
        segments = []
        try:
            with new.open("wb") as file:
                for first in range(0, len(alive), SEGMENT):
                    data = np.ascontiguousarray(self.vectors[alive[first : first + SEGMENT]]).tobytes()
                    segments.append((first, len(data) // (4 * self.width), zlib.crc32(data)))
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self._transaction():
                # Over negative numbers, because no two passages may have the same row in between.
                moves = [(-1 - row, int(self.passage_of[place])) for row, place in enumerate(alive.tolist())]
                self.database.executemany("UPDATE passages SET row = ? WHERE id = ?", moves)
                self.database.execute("UPDATE passages SET row = -1 - row")
                self.database.execute("DELETE FROM segments")
                self.database.executemany("INSERT INTO segments VALUES (?, ?, ?)", segments)
                self.database.execute("UPDATE generation SET number = number + 1")
                self.database.execute("DELETE FROM postings")
                self._write_words(0, len(alive))
        except OSError as error:
            new.unlink(missing_ok=True)
            raise os_fault(error, new, "compacting the index") from error
        self._load()
        old.unlink(missing_ok=True)
        self.database.execute("VACUUM")
        return gone

    def passages(self, ids: Sequence[int]) -> dict[int, Passage]:
        """Returns stored passages by their number."""
        found: dict[int, Passage] = {}
        for start in range(0, len(ids), 500):
            part = [int(one) for one in ids[start : start + 500]]
            query = (
                "SELECT p.id, d.key, d.source, d.line, p.begin, p.text FROM passages p JOIN documents d"
                f" ON d.id = p.document WHERE p.id IN ({','.join('?' * len(part))})"
            )
            found |= {row[0]: Passage(*row[1:]) for row in self.database.execute(query, part)}
        return found

    def by_words(self, query: str) -> NDArray[np.float32]:
        """Returns the BM25 score of every row for a query, (rows); 0 where no word is shared.

        sum over words of idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length)), with
        idf = ln(1 + (n - df + 0.5) / (df + 0.5)) (Robertson & Zaragoza 2009).
        """
        scores = np.zeros(self.rows, np.float32)
        alive = self.passage_of >= 0
        count = int(alive.sum())
        if not count:
            return scores
        norm = K1 * (1 - B + B * self.words_of / max(1e-9, float(self.words_of.sum()) / count))
        for term in query_terms(query):
            found = self.database.execute("SELECT rows FROM postings WHERE term = ?", (term,))
            tail = np.array(self._tail.get(term, []), POSTING).tobytes()
            pairs = np.frombuffer(b"".join([*(blob for (blob,) in found), tail]), POSTING).reshape(-1, 2)
            pairs = pairs[alive[pairs[:, 0]]]
            rows, times = pairs[:, 0], pairs[:, 1].astype(np.float32)
            idf = math.log(1 + (count - len(rows) + 0.5) / (len(rows) + 0.5))
            scores[rows] += np.float32(idf * (K1 + 1)) * times / (times + norm[rows])
        return scores

    def counts(self) -> tuple[int, int]:
        """Returns how many documents and passages there are."""
        self.refresh()
        documents = self.database.execute("SELECT count(*) FROM documents").fetchone()[0]
        return int(documents), int((self.passage_of >= 0).sum())

    def verify(self) -> None:
        """Holds all of it against its checksums.

        Raises:
            BadInput: Something is damaged.
        """
        self.refresh()
        for first, count, crc in self.database.execute("SELECT first, count, crc FROM segments"):
            if zlib.crc32(np.ascontiguousarray(self.vectors[first : first + count]).tobytes()) != crc:
                raise _damaged(self.folder, f"the vectors {first} to {first + count} have changed")
        (fault,) = self.database.execute("PRAGMA integrity_check").fetchone()
        if fault != "ok":
            raise _damaged(self.folder, str(fault))


def _postings(texts: Sequence[tuple[int, str]]) -> dict[str, list[tuple[int, int]]]:
    """Returns which rows hold each word, and how often."""
    lists: dict[str, list[tuple[int, int]]] = {}
    for row, text in texts:
        for term, count in Counter(terms_of(text)).items():
            lists.setdefault(term, []).append((row, count))
    return lists


def _damaged(folder: Path, what: str) -> BadInput:
    return BadInput(
        f"the index is damaged: {what}", where=str(folder), remedy=f"remove the folder {folder} and build it anew"
    )


def _operational(folder: Path, error: sqlite3.OperationalError) -> Exception:
    if "locked" in str(error):
        return BadInput("another process is writing to this index", where=str(folder), remedy="wait for it")
    return MissingResource(f"the index cannot be written: {error}", where=str(folder))

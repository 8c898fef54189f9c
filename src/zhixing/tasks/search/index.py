"""An index of texts: put in, changed and taken out by their keys; found by meaning, by words, or by both.

By meaning: the cosine of a query's vector with every passage's, exact, one product of a matrix and a vector. By words:
BM25 (Robertson et al. 1994). Both together: reciprocal rank fusion (Cormack et al. 2009). How it lies on the disk is
`store`'s matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput, Interrupted, unknown_name
from zhixing.core.files import FolderLock
from zhixing.core.progress import Bar, progress_bar
from zhixing.data.problems import KINDS, NOTES, Problems
from zhixing.data.readers import read_documents
from zhixing.data.sources import find_sources
from zhixing.tasks.base import check_text
from zhixing.tasks.embed import DEFAULT_EMBEDDER, Embedder, open_embedder
from zhixing.tasks.parts import parts_of
from zhixing.tasks.search.store import NewDocument, Store, create_store, is_store

Mode = Literal["hybrid", "semantic", "keyword"]
MODES = ("hybrid", "semantic", "keyword")
FUSION = 60
"""The constant of reciprocal rank fusion: how much less the first ranks weigh than 1, 1/2, 1/3 would."""
POOL = 100
"""Passages that each way of searching brings to the fusion."""
LEAST_WORDED = 1024
"""Rows whose words are written to the disk at the end of a change; those of fewer are read when the index is opened."""
BATCH = 512
"""Passages that are embedded and acknowledged together."""


@dataclass(frozen=True)
class Item:
    """A text to be put into an index.

    Attributes:
        key: Names it: what had the same key is replaced.
        text: The text.
        source: The file that it came from.
        line: Where in the file.
    """

    key: str
    text: str
    source: str = ""
    line: int | None = None


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        key: Of its document.
        text: The passage.
        place: File and line where it begins, or the key.
        score: What it was ranked by: a cosine, BM25, or the sum of reciprocal ranks.
        similarity: The cosine with the query; None when only words were compared.
        begin: Where it begins in its document, in characters.
    """

    key: str
    text: str
    place: str
    score: float
    similarity: float | None
    begin: int

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return dict(vars(self))


@dataclass
class Changes:
    """What putting texts into an index changed.

    Attributes:
        added: Texts under new keys.
        updated: Texts that took the place of another one, in the index or among those that were given.
        unchanged: Texts that were there.
        removed: Texts that went.
        passages: What was embedded for all that.
        left_out: Texts that could not be put in.
        faults: Why, as lines to read, as a rule not of every one.
        notes: What else is worth knowing about the files, likewise.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    passages: int = 0
    left_out: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return dict(vars(self))

    def __str__(self) -> str:
        counts = {name: getattr(self, name) for name in ("added", "updated", "unchanged", "removed")}
        words = [f"{count:,} {name}" for name, count in counts.items() if count]
        bad = f"; {self.left_out:,} left out" if self.left_out else ""
        return (", ".join(words) or "nothing to do") + f" ({self.passages:,} passages embedded){bad}"


class Index:
    """An index on disk.

    Args:
        folder: Where it is.
        store: Its files.
        embedder: The encoder that it was made with.
    """

    def __init__(self, folder: Path, store: Store, embedder: Embedder) -> None:
        self.folder, self.store, self.embedder = folder, store, embedder

    @classmethod
    def create(cls, folder: str | Path, model: str | Path = DEFAULT_EMBEDDER) -> Index:
        """Makes an empty index.

        Raises:
            BadInput: There is something in the folder, or the model is no encoder that pools.
        """
        folder = Path(folder)
        embedder = open_embedder(model)
        header = {"model": str(model), "encoder": embedder.fingerprint, "width": embedder.width}
        create_store(folder, header)
        return cls(folder, Store(folder), embedder)

    @classmethod
    def open(cls, folder: str | Path, model: str | Path | None = None) -> Index:
        """Opens an index.

        Args:
            folder: Where it is.
            model: Its encoder; None: the one that it names.

        Raises:
            MissingResource: There is no index.
            BadInput: It is damaged, or was made with another encoder.
        """
        folder = Path(folder)
        store = Store(folder)
        named = store.header.get("model", DEFAULT_EMBEDDER)
        embedder = open_embedder(model if model is not None else named)
        if embedder.fingerprint != store.header.get("encoder"):
            raise BadInput(
                f"the index was made with another encoder ({named}), whose vectors do not compare with those of"
                f" {model if model is not None else 'what goes by this name now'}",
                where=str(folder),
                remedy="search it with the encoder that it was made with (--model), or build a new index",
            )
        return cls(folder, store, embedder)

    @classmethod
    def at(cls, folder: str | Path, model: str | Path | None = None) -> Index:
        """Opens an index, or makes one where there is none."""
        if is_store(Path(folder)):
            return cls.open(folder, model)
        return cls.create(folder, DEFAULT_EMBEDDER if model is None else model)

    def close(self) -> None:
        """Lets the files go."""
        self.store.close()

    def add(self, items: Iterable[Item], *, progress: bool = False) -> Changes:
        """Puts texts in; those with known keys take the place of the old ones, or are left when they are the same.

        What was put in counts from group to group: Ctrl-C or a crash loses only the group under way.

        Args:
            items: The texts.
            progress: Show a bar.

        Raises:
            BadInput: Another process writes to the index.
            Interrupted: Ctrl-C; what is in stays in.
        """
        changes = Changes()
        with FolderLock(self.folder), progress_bar("Indexing" if progress else "", None) as bar:
            try:
                for batch in _batches(items, BATCH):
                    self._add(batch, changes, bar if progress else None)
                    self.store.write_words()
                self.store.write_words(LEAST_WORDED)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped; what is in the index stays: {changes}",
                    where=str(self.folder),
                    remedy="the same command goes on",
                ) from None
        return changes

    def _add(self, batch: list[Item], changes: Changes, bar: Bar | None) -> None:
        latest: dict[str, Item] = {}
        for item in batch:
            try:
                check_text(item.text)
            except BadInput as error:
                place = f"{item.source}:{item.line}" if item.source and item.line else item.source or item.key
                changes.faults.append(f"{place}: {error.cause}")
                changes.left_out += 1
                continue
            if item.key in latest:
                same = latest[item.key].text == item.text
                changes.unchanged += same
                changes.updated += not same
            latest[item.key] = item
        digests = {key: _digest(item.text) for key, item in latest.items()}
        known = self.store.digests(list(latest))
        new = [item for key, item in latest.items() if known.get(key) != digests[key]]
        changes.unchanged += len(latest) - len(new)
        cut = [self._passages(item.text) for item in new]
        for group in _groups([len(passages) for passages in cut], BATCH):
            texts = [text for index in group for _, text in cut[index]]
            vectors = _unit(self.embedder(texts).vectors)
            documents, at = [], 0
            for index in group:
                item, passages = new[index], cut[index]
                documents.append(
                    NewDocument(
                        item.key, digests[item.key], item.source, item.line, passages, vectors[at : at + len(passages)]
                    )
                )
                at += len(passages)
            self.store.put(documents)
            changes.updated += sum(new[index].key in known for index in group)
            changes.added += sum(new[index].key not in known for index in group)
            changes.passages += len(texts)
            if bar is not None:
                bar.advance(len(texts), f"{changes.passages:,} passages")

    def _passages(self, text: str) -> list[tuple[int, str]]:
        """Cuts a text into passages that the encoder reads at once, each with the place where it begins."""
        found, begin = [], 0
        for part in parts_of(text, self.embedder.runner.room, self.embedder.runner.tokenizer):
            if part.strip():
                found.append((begin, part))
            begin += len(part)
        return found

    def sync(self, paths: Sequence[str | Path], *, field: str | None = None, progress: bool = False) -> Changes:
        """Brings the index to what files hold now: new and changed texts are put in, those that are gone go.

        Args:
            paths: Files, folders and patterns; see `data.sources.find_sources`.
            field: The field of records that holds the text.
            progress: Show a bar.

        Returns:
            What changed. A file that is not among `paths` any more, but lies in one of these folders, goes.
        """
        problems = Problems()
        sources = find_sources(paths, problems)
        seen: dict[str, set[str]] = {source.name: set() for source in sources}

        def items() -> Iterator[Item]:
            for document in read_documents(sources, problems, field=field):
                key = f"{document.source}#{_digest(document.text)[:24]}"
                seen.setdefault(document.source, set()).add(key)
                yield Item(key, document.text, document.source, document.line)

        changes = self.add(items(), progress=progress)
        roots = [Path(path) for path in paths]
        gone = [key for source, keys in seen.items() for key in self.store.keys_of(source) if key not in keys]
        for source in self.store.sources():
            if source and source not in seen and any(Path(source).is_relative_to(root) for root in roots):
                gone += self.store.keys_of(source)
        if gone:
            changes.removed = self.remove(gone)
        changes.left_out += problems.faults
        for kind in KINDS:
            lines = problems.lines(kind)
            (changes.notes if kind in NOTES else changes.faults).extend(lines)
        return changes

    def remove(self, keys: Sequence[str]) -> int:
        """Takes documents out by their keys; returns how many were there."""
        with FolderLock(self.folder):
            return self.store.remove(keys)

    def compact(self) -> int:
        """Gives the space of what was removed back; returns how many passages went."""
        with FolderLock(self.folder):
            return self.store.compact()

    def search(self, query: str, top: int = 10, mode: Mode = "hybrid") -> list[Hit]:
        """Finds the passages that fit a query best.

        Args:
            query: A question, a phrase, a few words.
            top: How many.
            mode: "semantic", "keyword" or "hybrid".

        Raises:
            BadInput: The query is empty, or the mode unknown.
        """
        return self.search_many([query], top, mode)[0]

    def search_many(self, queries: Sequence[str], top: int = 10, mode: Mode = "hybrid") -> list[list[Hit]]:
        """Finds the passages for several queries, whose vectors are computed together."""
        check_search(top, mode)
        for query in queries:
            check_text(query, "query")
        self.store.refresh()
        vectors: list[NDArray[np.float32] | None] = [None] * len(queries)
        if mode != "keyword":
            vectors = list(_unit(self.embedder(queries).vectors))
        return [self._search(query, vector, top, mode) for query, vector in zip(queries, vectors, strict=True)]

    def _search(self, query: str, vector: NDArray[np.float32] | None, top: int, mode: Mode) -> list[Hit]:
        pool = max(top, POOL) if mode == "hybrid" else top
        cosines = None if vector is None else self.store.vectors @ vector  # (rows)
        meant = [] if cosines is None else self._best(cosines, pool)
        worded = [] if mode == "semantic" else self._best(self.store.by_words(query), pool, above=0.0)
        if mode == "hybrid":
            scores: dict[int, float] = {}
            for ranking in (meant, worded):
                for rank, (passage, _) in enumerate(ranking, start=1):
                    scores[passage] = scores.get(passage, 0.0) + 1 / (FUSION + rank)
            ranked = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
        else:
            ranked = (meant or worded)[:top]
        stored = self.store.passages([passage for passage, _ in ranked])
        similar = dict(meant)
        hits = []
        for passage, score in ranked:
            if passage not in stored:  # removed by another process just now
                continue
            found = stored[passage]
            line = None if found.line is None else found.line
            place = found.key if not found.source else f"{found.source}:{line}" if line else found.source
            cosine = similar.get(passage)
            hits.append(
                Hit(
                    found.key,
                    found.text,
                    place,
                    round(score, 6),
                    None if cosine is None else round(cosine, 4),
                    found.begin,
                )
            )
        return hits

    def _best(self, scores: NDArray[np.float32], count: int, above: float = -2.0) -> list[tuple[int, float]]:
        """Returns the passages of the rows with the highest scores, best first; equal ones as they were put in."""
        scores[self.store.gone] = -np.inf
        count = min(count, int((scores > above).sum()))
        if count < 1:
            return []
        best = np.argpartition(-scores, count - 1)[:count]
        best = best[np.lexsort((best, -scores[best]))]
        return [(int(self.store.passage_of[row]), float(scores[row])) for row in best]

    def facts(self) -> dict[str, Any]:
        """Returns what there is to know about it."""
        documents, passages = self.store.counts()
        size = sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())
        return {
            "index": str(self.folder),
            "model": self.store.header.get("model"),
            "documents": documents,
            "passages": passages,
            "removed": len(self.store.gone),
            "width": self.store.width,
            "bytes": size,
        }

    def verify(self) -> None:
        """Holds all of it against its checksums; see `Store.verify`."""
        self.store.verify()


def check_search(top: int, mode: str) -> None:
    """Makes sure that a way of searching can be.

    Raises:
        BadInput: The mode is unknown, or nothing is wanted.
    """
    if mode not in MODES:
        raise unknown_name("way of searching", mode, MODES, where="--mode")
    if top < 1:
        raise BadInput(f"at least one passage must be wanted, got {top}", where="--top", remedy="--top 5")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: NDArray[np.float32] = vectors / np.maximum(norms, 1e-12)
    return result


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _groups(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Groups neighbours with at most so much together; a larger one stands alone."""
    group: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if group and total + size > most:
            yield group
            group, total = [], 0
        group.append(index)
        total += size
    if group:
        yield group

"""`find`: the passages of one's own files that fit a question. The index behind it is in `tasks.search`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.checkpoints.hubs.store import cache_folder
from zhixing.core.errors import BadInput, MissingResource
from zhixing.tasks.base import Column, Row
from zhixing.tasks.search.index import Changes, Hit, Index, Mode, check_search
from zhixing.tasks.search.store import is_store


@dataclass(frozen=True)
class Found:
    """The passages that were found for a query, best first."""

    hits: tuple[Hit, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"prediction": [hit.to_json() for hit in self.hits]}

    def __str__(self) -> str:
        return "\n".join(f"{hit.score:.4f}\t{hit.place}\t{' '.join(hit.text.split())}" for hit in self.hits)


def index_for(path: str | Path, model: str | Path | None = None) -> Path:
    """Returns where the index of a folder or file is kept that the user did not index: in the cache."""
    name = hashlib.sha256(f"{Path(path).resolve()}\0{model or ''}".encode()).hexdigest()[:24]
    return cache_folder() / "indexes" / name


def open_index(
    where: str | Path, model: str | Path | None = None, *, field: str | None = None, progress: bool = False
) -> tuple[Index, Changes | None]:
    """Opens an index; of a folder or file of texts, makes one or brings it up to date.

    Args:
        where: An index, or a folder or file of texts.
        model: The encoder; None: the index's own, or minilm.
        field: The field of records that holds the text.
        progress: Show a bar.

    Returns:
        The index, and what was changed in it, if it is one of texts.
    """
    path = Path(where)
    if is_store(path):
        if field is not None:
            raise BadInput(
                "an index is searched as it is; the field counts when texts are put in",
                where="--text-field",
                remedy="leave it out",
            )
        return Index.open(path, model), None
    if not path.exists():
        raise MissingResource("no such folder, file or index", where=str(where), remedy="check the path")
    index = Index.at(index_for(path, model), model)
    return index, index.sync([path], field=field, progress=progress)


class Find:
    """The task `find`.

    Args:
        where: An index, or a folder or file of texts, which is indexed first.
        model: The encoder.
        top: Passages per query.
        mode: "hybrid", "semantic" or "keyword".
        field: The field of records that holds the text.
        progress: Show a bar while texts are indexed.

    Attributes:
        changes: What was changed in the index.
    """

    name = "find"
    columns = (Column("query", ("question", "text", "查询", "问题")),)
    outputs = ("prediction",)
    chunk = 64

    def __init__(
        self,
        where: str | Path,
        model: str | Path | None = None,
        *,
        top: int = 10,
        mode: Mode = "hybrid",
        field: str | None = None,
        progress: bool = False,
    ) -> None:
        check_search(top, mode)  # before an hour is spent on an index
        self.index, self.changes = open_index(where, model, field=field, progress=progress)
        self.top, self.mode = top, mode

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        # Rows are not enough: what is removed takes none away.
        texts = [self.index.store.rows, *self.index.store.counts()]
        return {"index": str(self.index.folder), "top": self.top, "mode": self.mode, "texts": texts}

    def run(self, rows: Sequence[Row]) -> list[Found]:
        """See `Task.run`."""
        found = self.index.search_many([row["query"] for row in rows], self.top, self.mode)
        return [Found(tuple(hits)) for hits in found]

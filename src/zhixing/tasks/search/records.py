"""Records of files as items of an index, named by a field of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from zhixing.tasks.base import TEXT, Column, Fault
from zhixing.tasks.files.reading import Reader
from zhixing.tasks.search.index import Item


def keyed_items(
    paths: Sequence[str | Path],
    id_field: str,
    text_field: str | None,
    say: Callable[[str], None],
    left_out: Callable[[str], None],
) -> Iterator[Item]:
    """Reads the records of files.

    Args:
        paths: Files of records.
        id_field: The field whose value names a record.
        text_field: The field of the text; None: found by its name.
        say: Is told what is worth knowing about the files.
        left_out: Is told of records that cannot be read.

    Raises:
        BadInput: A field is not there.
    """
    columns = (TEXT, Column("key", (), numbers=True))
    fields = [f"key={id_field}", *([text_field] if text_field else [])]
    for path in paths:
        for one in Reader(Path(path), columns, fields, say)():
            if isinstance(one.row, Fault):
                left_out(f"{path}:{one.line}: {one.row.message}")
                continue
            yield Item(one.row["key"], one.row["text"], str(path), one.line)

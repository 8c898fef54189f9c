"""`zhixing find`: search one's own texts; and `zhixing index`: keep an index of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhixing.cli.task_io import TaskIO, short, with_task_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group

    from zhixing.tasks.search.index import Changes

app = typer.Typer(help="Indexes for `zhixing find`: add, remove, look at.", no_args_is_help=True, rich_markup_mode=None)

INDEX = Annotated[Path, typer.Argument(metavar="INDEX", help="The folder of the index.")]
MODEL = Annotated[
    str | None, typer.Option("--model", "-m", help="The encoder; the index's own, or minilm, when not given.")
]
FIELD = typer.Option("--text-field", metavar="FIELD", help="The field of records that holds the text to search in.")
SHOWN = 20
"""Faults that are said one by one."""
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@with_task_options
def command(
    where: Annotated[str, typer.Argument(metavar="WHERE", help="A folder, a file (.jsonl, .txt, ...) or an index.")],
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY...", help="Questions or words; none: a line each, piped in.")
    ] = None,
    top: Annotated[int, typer.Option("--top", "-n", help="Passages per query.")] = 5,
    mode: Annotated[str, typer.Option(help="hybrid, semantic (meaning) or keyword (BM25).")] = "hybrid",
    model: MODEL = None,
    text_field: Annotated[str | None, FIELD] = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Find the passages of your texts that fit a question, by meaning and by words.

    A folder or file is indexed when it is first searched, and again where it changed; the index is kept in the cache.

    Example: zhixing find notes/ "how do I reset my password"
    Example: zhixing find questions.jsonl --file queries.jsonl --out hits.jsonl --top 3
    """
    from zhixing.core.progress import say
    from zhixing.tasks.find import Find

    def opening() -> Find:
        task = Find(where, model, top=top, mode=mode, field=text_field, progress=True)  # type: ignore[arg-type]
        if task.changes is not None and (task.changes.passages or task.changes.removed):
            _say_faults(task.changes)
            say(f"indexed {where}: {task.changes}")
        return task

    io.work(opening, queries, show=_hits)


def _hits(rows: Sequence[Any], results: Sequence[Any]) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables = []
    for row, result in zip(rows, results, strict=True):
        table = Table(
            box=None, show_header=False, title=short(row["query"]) if len(rows) > 1 else None, title_justify="left"
        )
        for hit in result.hits:
            table.add_row(f"{hit.score:.3f}", Text(hit.place, style="cyan"), Text(short(hit.text, 100)))
        tables.append(table if result.hits else Text("nothing was found", style="dim"))
    return Group(*tables)


@app.command("add")
def add(
    index: INDEX,
    paths: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Files, folders, patterns.")],
    model: MODEL = None,
    text_field: Annotated[str | None, FIELD] = None,
    id_field: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The field that names a record: the same name replaces it.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Put texts into an index, which is made if it is not there; only what is new or changed is read by the encoder.

    Example: zhixing index add my-index notes/ articles.jsonl
    """
    import json

    from zhixing.core.progress import say
    from zhixing.tasks.search.index import Index
    from zhixing.tasks.search.records import keyed_items

    opened = Index.at(index, model)
    if id_field is None:
        changes = opened.sync(paths, field=text_field, progress=True)
    else:
        bad: list[str] = []
        changes = opened.add(keyed_items(paths, id_field, text_field, say, bad.append), progress=True)
        changes.faults[:0] = bad
        changes.left_out += len(bad)
    _say_faults(changes)
    print(json.dumps(changes.to_json(), ensure_ascii=False) if as_json else f"{index}: {changes}")


def _say_faults(changes: Changes) -> None:
    """Says what was left out of an index, the first of it when it is much, and what else is to be known."""
    from zhixing.core.progress import say

    for line in [*changes.faults[:SHOWN], *changes.notes[:SHOWN]]:
        say(line)
    if len(changes.faults) > SHOWN:
        say(f"and {len(changes.faults) - SHOWN:,} more")


@app.command("remove")
def remove(
    index: INDEX, keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys of documents, or files.")]
) -> None:
    """Take documents out of an index, by their keys or by the file they came from.

    Example: zhixing index remove my-index notes/old.txt
    """
    from zhixing.core.errors import BadInput
    from zhixing.tasks.search.index import Index

    opened = Index.open(index)
    wanted = [key for one in keys for key in (opened.store.keys_of(one) or [one])]
    count = opened.remove(wanted)
    if not count:
        raise BadInput(f"there is no document {keys[0]!r} in the index", where=str(index))
    print(f"{count} removed")


@app.command("info")
def info(
    index: INDEX,
    check: Annotated[bool, typer.Option("--check", help="Hold all of it against its checksums.")] = False,
    as_json: JSON = False,
) -> None:
    """Show what is in an index.

    Example: zhixing index info my-index --check
    """
    import json

    from zhixing.core.progress import human_bytes
    from zhixing.tasks.search.index import Index

    opened = Index.open(index)
    if check:
        opened.verify()
    facts = opened.facts()
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    print(f"{facts['documents']:,} documents, {facts['passages']:,} passages, {human_bytes(facts['bytes'])}")
    print(
        f"encoder {facts['model']}, {facts['width']} numbers a vector; {facts['removed']:,} removed passages take space"
    )
    if check:
        print("all checksums are right")


@app.command("compact")
def compact(index: INDEX) -> None:
    """Give back the space of what was removed.

    Example: zhixing index compact my-index
    """
    from zhixing.tasks.search.index import Index

    print(f"{Index.open(index).compact():,} removed passages gone")

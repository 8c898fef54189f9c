"""`zhixing embed`: one vector per text."""

from __future__ import annotations

from typing import Annotated

import typer

from zhixing.cli.task_io import TaskIO, with_task_options


@with_task_options
def command(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; none: a line each, piped in.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A sentence-transformers model.")] = "minilm",
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Turn texts into vectors, for search, clusters and comparison.

    Example: zhixing embed "To know and to do" --json
    Example: zhixing embed --file texts.jsonl --out vectors.jsonl.gz
    """
    from zhixing.tasks.embed import Embed

    io.work(lambda: Embed(model), texts)

"""`zhixing describe`: a text about each image."""

from __future__ import annotations

from typing import Annotated

import typer

from zhixing.cli.task_io import TaskIO, with_task_options


@with_task_options
def command(
    model: Annotated[str, typer.Argument(help="A model that describes images: a folder, or a reference.")],
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Images; none: a path a line, piped in.")
    ] = None,
    beams: Annotated[int | None, typer.Option(help="Beams of the search; as the model says when not given.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest text; as the model says when not given.")] = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Describe images in words.

    Paths in a --file lead from the folder of that file.

    Example: zhixing describe runs/shapes-captions/model picture.png
    Example: zhixing describe MODEL --file images.jsonl --out captions.jsonl --json
    """
    from zhixing.tasks.describe import Describe

    folder = io.file.parent if io.file is not None else None
    io.work(lambda: Describe(model, beams=beams, max_tokens=max_tokens, folder=folder), images)

"""`zhixing classify`: which label a text has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhixing.cli.task_io import TaskIO, labels_of, short, with_task_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table


@with_task_options
def command(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; none: a line each, piped in.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A classifier; or minilm or a chat model, with --labels.")
    ] = "minilm",
    labels: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="The labels to choose from; @FILE: one on each line.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="FILE", help="A prompt of your own for a chat model.")] = None,
    calibrate: Annotated[
        bool, typer.Option(help="Weigh a chat model's labels against how likely they are behind no text.")
    ] = True,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Say which label a text has: sentiment, topic, intent.

    A classifier that was trained knows its labels; minilm compares the meaning of text and labels; a chat model is
    asked by a prompt (zhixing prompts show classify.en).

    Example: zhixing classify "a wonderful film" --labels positive,negative
    Example: zhixing classify --model runs/sentiment --file reviews.csv --out labelled.csv
    """
    from zhixing.tasks.classify import Classify

    io.work(lambda: Classify(model, labels_of(labels), prompt=prompt, calibrate=calibrate), texts, show=_table)


def _table(rows: Sequence[Any], results: Sequence[Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("text", "label", "probability", box=None, header_style="bold")
    for row, result in zip(rows, results, strict=True):
        bar = f"{result.probability:6.1%} {'█' * round(12 * result.probability)}" if result.probability else ""
        table.add_row(Text(short(row["text"])), Text(str(result), style="bold cyan"), bar)
    return table

"""`zhixing runs`: list the runs of a folder with their state and best figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

BY = (
    "Sort by updated, name, steps, tokens, time, parameters; or best first by bits_per_byte, loss, perplexity, or any "
    "measure that the runs have (accuracy, entity_f1, bleu, ...)."
)


def command(
    folder: Annotated[Path, typer.Argument(help="Where the run folders are.")] = Path("runs"),
    by: Annotated[str, typer.Option("--by", metavar="METRIC", help=BY)] = "updated",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a run and line.")] = False,
) -> None:
    """List the runs with their state and best figures; by a measure, as a leaderboard.

    "stopped" is a run whose process died without saying so; like "interrupted" and "failed" it can be resumed.

    Example: zhixing runs --by bits_per_byte
    """
    import json

    from zhixing.evaluation.leaderboard import ordered

    rows, faults = _summaries(folder)
    rows = ordered(rows, by)
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    elif rows:
        _print_table(rows, by)
    else:
        print(f"no runs in {folder}; begin with: zhixing quickstart")
    for fault in faults:
        typer.echo(fault, err=True)


def _summaries(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Reads every run of a folder; the folder may itself be a run, and none is missed when another is damaged."""
    from zhixing.core.errors import MissingResource, ZhixingError
    from zhixing.core.files import os_fault
    from zhixing.evaluation.run_folder import RUNS, is_run, read_run

    if not folder.is_dir():
        if folder == RUNS and not folder.exists():
            return [], []
        raise MissingResource("no such folder", where=str(folder), remedy="give the folder that holds the runs")
    try:
        candidates = [folder] if is_run(folder) else sorted(folder.iterdir())
    except OSError as error:
        raise os_fault(error, folder, "listing the runs") from error
    rows, faults = [], []
    for path in candidates:
        if path.name.startswith(".") or not is_run(path):
            continue
        try:
            run = read_run(path)
        except ZhixingError as error:
            faults.append(f"not listed: {error}")
            continue
        rows.append(run.summary())
        faults += [f"{path}: {fault}" for fault in run.faults]
    return rows, faults


def _print_table(rows: list[dict[str, Any]], by: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:  # a pipe has no width: there every run takes one line, however long
        console = Console(highlight=False, width=400)
    columns = [column for column in COLUMNS if console.width >= WIDE or column not in LESS]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    ranked, extra = any("rank" in row for row in rows), _extra_column(by)
    if ranked:
        table.add_column("#", justify="right")
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("state", no_wrap=True)
    if extra:
        table.add_column(extra, justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        state = Text(_state(row["state"]), style=COLOURS.get(row["state"], ""))
        first = [str(row.get("rank", "–"))] if ranked else []
        more = [_measured(row, by)] if extra else []
        table.add_row(*first, Text(str(row["name"])), state, *more, *(_cell(row, column) for column in columns))
    console.print(table)


def _extra_column(by: str) -> str:
    """Returns the title of the column of a figure that no other column shows with its interval, "" when none is due."""
    from zhixing.evaluation.leaderboard import FIELDS

    return by if by not in FIELDS or by == "perplexity" else ""


def _measured(row: dict[str, Any], by: str) -> str:
    from zhixing.evaluation.leaderboard import figure

    value = figure(row, by)
    if value is None:
        return "–"
    ends = row["intervals"].get(by)
    return f"{value:.4g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else "")


COLUMNS = ("steps", "bits/byte", "loss", "tokens", "time", "changed")
LESS = ("loss", "tokens")
"""Columns that a terminal narrower than WIDE does without; --json always has them."""
WIDE = 100


def _cell(row: dict[str, Any], column: str) -> str:
    from zhixing.core.progress import human_count, human_time

    if column == "steps":
        return f"{row['step']}/{row['steps']}" if row["steps"] else str(row["step"])
    if column == "changed":
        return _when(row["updated"])
    fields: dict[str, tuple[str, Callable[[float], str]]] = {
        "bits/byte": ("bits_per_byte", "{:.4f}".format),
        "loss": ("validation_loss", "{:.4f}".format),
        "tokens": ("tokens", human_count),
        "time": ("seconds", human_time),
    }
    key, form = fields[column]
    return "–" if row[key] is None else form(row[key])


COLOURS = {
    "running": "bold cyan",
    "preparing": "cyan",
    "finished": "green",
    "failed": "bold red",
    "interrupted": "yellow",
    "stopped": "yellow",
}


def _state(state: str) -> str:
    return "stopped, resumable" if state == "stopped" else state


def _when(updated: str | None) -> str:
    """Says how long ago, or for older runs the day."""
    from datetime import datetime

    if updated is None:
        return "–"
    moment = datetime.fromisoformat(updated)
    seconds = (datetime.now().astimezone() - moment).total_seconds()
    if 0 <= seconds < 60:
        return "just now"
    if 0 <= seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if 0 <= seconds < 86_400:
        return f"{seconds // 3600:.0f} h ago"
    return moment.strftime("%Y-%m-%d")

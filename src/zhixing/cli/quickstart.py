"""`zhixing quickstart`: from text to a model that writes, in a few minutes and with no questions asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Text: files, folders, globs. Default: Python's own library sources.")
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="How long to train.")] = 2.0,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; default: runs/quickstart.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the recipe.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a small model on any text, measure it, let it write, and make a report.

    Example: zhixing quickstart my-texts/ --minutes 5
    """
    from zhixing.cli.outcome import print_next_commands, print_outcome
    from zhixing.workflows.pretrain import Outcome, start_run
    from zhixing.workflows.quickstart import free_folder, quickstart_recipe

    recipe = quickstart_recipe(paths or [], minutes, changes or [])
    outcome = start_run(recipe, run or free_folder(Path("runs") / "quickstart"))
    print_outcome(outcome, json_output)
    if not json_output and isinstance(outcome, Outcome):
        print_next_commands(outcome)

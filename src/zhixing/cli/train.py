"""`zhixing train`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML); ready ones are in recipes/.")],
    paths: Annotated[
        list[str] | None, typer.Argument(help="Text to train on, instead of the recipe's data.paths.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a field, such as train.steps=500.")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; default: runs/NAME.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model by a recipe.

    Example: zhixing train recipes/small.yaml my-texts/ --set train.steps=500
    """
    from zhixing.cli.outcome import print_outcome
    from zhixing.core.recipe import load_recipe
    from zhixing.workflows.pretrain import start_run

    loaded = load_recipe(recipe, changes or ())
    if paths:
        loaded.data.paths = list(paths)
    folder = run or Path("runs") / loaded.name
    print_outcome(start_run(loaded, folder), json_output)

"""`zhixing train`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe file (YAML); ready ones are in recipes/.")] = None,
    paths: Annotated[
        list[str] | None, typer.Argument(help="Text or records to train on, instead of the recipe's data.paths.")
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option("--validation", metavar="PATH", help="Records to hold out, by themselves.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a field, such as train.steps=500.")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; default: runs/NAME.")] = None,
    objectives: Annotated[
        bool, typer.Option("--objectives", help="List what can be trained, with the records that each needs.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model by a recipe.

    Example: zhixing train recipes/small.yaml my-texts/ --set train.steps=500
    """
    from zhixing.core.errors import BadInput

    if objectives:
        _list_objectives(json_output)
        return
    if recipe is None:
        raise BadInput(
            "no recipe is named",
            remedy="ready ones are in recipes/; `zhixing train --objectives` lists what they train",
        )
    from zhixing.cli.outcome import print_outcome
    from zhixing.core.recipe import load_recipe
    from zhixing.workflows.pretrain import start_run

    loaded = load_recipe(recipe, changes or ())
    if paths:
        loaded.data.paths = list(paths)
    if validation:
        loaded.data.validation_paths = list(validation)
    folder = run or Path("runs") / loaded.name
    print_outcome(start_run(loaded, folder), json_output)


def _list_objectives(as_json: bool) -> None:
    """Prints every objective with its record shape and a record as it may stand in a JSONL file."""
    import json

    from zhixing.training.objectives import OBJECTIVES

    if as_json:
        rows = {
            name: {
                "summary": one.summary,
                "shapes": list(one.shapes),
                "network": one.network,
                "options": sorted(one.options),
                "measures": list(one.measures),
                "sample": dict(one.sample),
            }
            for name, one in OBJECTIVES.items()
        }
        print(json.dumps(rows, ensure_ascii=False))
        return
    for name, one in OBJECTIVES.items():
        print(f"{name}: {one.summary}")
        measures = ", ".join([*one.measures, "loss"])
        print(f"  records: {' or '.join(one.shapes)}; network: {one.network}; measures: {measures}")
        if one.options:
            print(f"  task options: {', '.join(sorted(one.options))}")
        print(f"  {json.dumps(dict(one.sample), ensure_ascii=False)}\n")
    print("Set one with train.objective in a recipe; records are JSONL, CSV, TSV, CoNLL, SQuAD or Parquet files.")

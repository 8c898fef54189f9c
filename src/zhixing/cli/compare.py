"""`zhixing compare`: several architectures on one data set with one budget, measured alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path, typer.Argument(help="A comparison's recipe (YAML), or the folder of one to go on with.")],
    paths: Annotated[
        list[str] | None, typer.Argument(help="Text to train on, instead of the recipe's base.data.paths.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a field: budget.tokens=100000, seeds=[0,1]."),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the comparison; default: runs/NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train several variants of a recipe alike, over several seeds, and say what the intervals allow to be said.

    The same command goes on with a comparison that was stopped.

    Example: zhixing compare recipes/compare-shakespeare.yaml input.txt
    """
    import json

    from zhixing.core.comparison_recipe import load_comparison
    from zhixing.core.errors import BadInput
    from zhixing.workflows.compare import compare, open_comparison

    if recipe.is_dir():
        if paths or changes or run:
            raise BadInput("a comparison that has begun keeps its recipe", remedy=f"zhixing compare {recipe}")
        folder, loaded = recipe, open_comparison(recipe)
    else:
        overrides = list(changes or ())
        if paths:
            overrides.append(f"base.data.paths={json.dumps(paths)}")
        loaded = load_comparison(recipe, overrides)
        folder = run or Path("runs") / loaded.name
    result = compare(loaded, folder)
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False))
        return
    _print(result)


def _print(result: object) -> None:
    from zhixing.core.progress import human_count, human_time
    from zhixing.evaluation.comparison_report import mean_seconds
    from zhixing.workflows.compare import Comparison
    from zhixing.workflows.prepare import relative

    assert isinstance(result, Comparison)
    if result.standings is not None:
        width = max(len(one.name) for one in result.standings.standings)
        print(f"\n{'':<{width}}  {result.standings.measure.replace('_', ' ')}")
        for one in result.standings.standings:
            between = f" [{one.interval[0]:.4f}, {one.interval[1]:.4f}]" if one.interval else ""
            done = [trial for trial in result.trials if trial.variant == one.name and not trial.reason]
            took = mean_seconds(done)
            cost = f"{human_count(done[0].parameters or 0)} parameters, {human_time(took)}"
            cost += " (mean)" if len(done) > 1 else ""
            print(f"{one.name:<{width}}  {one.mean:.4f}{between}  {cost}")
        print()
    for sentence in result.sentences:
        print(sentence)
    print(f"\nReport: {relative(result.folder)}/report.html")

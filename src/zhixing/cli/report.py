"""`zhixing report`: write or refresh the report of a run."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="The run folder, such as runs/quickstart, or its name in runs/.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's figures as one JSON object.")] = False,
) -> None:
    """Write report.html of a run, in whatever state it is, and print its path.

    Example: zhixing report runs/quickstart
    """
    import json

    from zhixing.evaluation.report import write_report
    from zhixing.evaluation.run_folder import find_run, read_run

    folder = find_run(run)
    path = write_report(folder)
    if as_json:
        print(json.dumps({**read_run(folder).summary(), "report": str(path)}, ensure_ascii=False))
    else:
        print(path)

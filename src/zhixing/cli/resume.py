"""`zhixing resume`: go on with a run where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder, such as runs/quickstart.")],
    prove: Annotated[
        bool, typer.Option("--prove", help="First repeat the last steps and show that every bit agrees.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Go on with an interrupted run; its folder is all that is needed.

    Example: zhixing resume runs/quickstart --prove
    """
    from zhixing.cli.outcome import print_outcome
    from zhixing.workflows.pretrain import resume_run

    print_outcome(resume_run(run, prove_first=prove), json_output)

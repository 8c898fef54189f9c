"""`zhixing resume`: go on with a run where it stopped."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="The run folder, such as runs/quickstart, or its name in runs/.")],
    prove: Annotated[
        bool, typer.Option("--prove", help="First repeat the last steps and show that every bit agrees.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Go on with an interrupted run; its folder is all that is needed.

    Example: zhixing resume runs/quickstart --prove
    """
    from zhixing.cli.outcome import print_outcome
    from zhixing.evaluation.run_folder import find_run
    from zhixing.workflows.pretrain import resume_run

    print_outcome(resume_run(find_run(run), prove_first=prove), json_output)

"""`zhixing doctor`: what this machine and this installation can do."""

from __future__ import annotations

from typing import Annotated

import typer

from zhixing.cli.models import MODEL


def command(
    ref: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=f"Which path this one takes. {MODEL}")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at the machine: processor, memory, the C++ core, packages, caches, and what computes which model.

    Example: zhixing doctor
    Example: zhixing doctor smollm2-135m
    """
    import json

    from zhixing.workflows.doctor import examine

    found = examine(ref, measured=not quick)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
        return
    for line in found.lines():
        print(line)

"""`zhixing prompts`: what chat models are told for each task, to see and to copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Prompts of the tasks: list, show, copy.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_prompts() -> None:
    """List the prompts that come with Zhixing.

    Example: zhixing prompts list
    """
    from zhixing.tasks.prompting import parse_description, prompt_names

    for name in prompt_names():
        print(f"{name:<14} {parse_description(name)}")


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="As `zhixing prompts list` names it: classify.en")]) -> None:
    """Show a prompt.

    Example: zhixing prompts show summarize.zh
    """
    from zhixing.tasks.prompting import prompt_text

    print(prompt_text(name), end="")


@app.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help="As `zhixing prompts list` names it.")],
    out: Annotated[Path, typer.Argument(help="The file to write, for --prompt.")],
) -> None:
    """Copy a prompt to a file, to edit it and use it with --prompt FILE.

    Example: zhixing prompts copy classify.en mine.yaml
    """
    from zhixing.core.errors import BadInput
    from zhixing.core.files import atomic_write
    from zhixing.tasks.prompting import prompt_text

    text = prompt_text(name)
    if out.exists():
        raise BadInput("there is a file of this name already", where=str(out), remedy="choose another name")
    atomic_write(out, text)
    print(out)

"""`zhixing bench`: multiple-choice, likelihood and generation benchmarks of lm-eval on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhixing.cli.models import MODEL


def command(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    tasks: Annotated[str, typer.Option(help="Tasks of lm-eval, or task files of your own (YAML), with commas.")],
    few_shot: Annotated[int | None, typer.Option(min=0, help="Solved examples before each question.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many examples of each task.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the questions into the model's chat template.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write figures and every example's outcome to this JSON file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run benchmarks on a model, in this process (extra: bench).

    A task file of your own is lm-eval's YAML beside a JSONL or CSV file, and needs no network.

    Example: zhixing bench smollm2-135m --tasks recipes/bench/xcopa-zh.yaml --limit 50
    Example: zhixing bench runs/quickstart --tasks hellaswag,arc_easy
    """
    import json

    from zhixing.checkpoints.opening import open_model
    from zhixing.checkpoints.references import resolve
    from zhixing.core.errors import BadInput, MissingResource
    from zhixing.core.files import atomic_write, check_writable
    from zhixing.evaluation.benchmarks.run import run_benchmarks
    from zhixing.models import ops

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise BadInput("no task is named", where="--tasks", remedy="for example --tasks hellaswag,arc_easy")
    if output is not None:
        check_writable(output, "writing the figures")
    folder = resolve(ref)
    opened = open_model(folder)
    if opened.tokenizer is None:
        raise MissingResource("the model has no tokenizer", where=str(folder), remedy="put its tokenizer.json there")
    ops.select_matmul()
    found = run_benchmarks(opened.model, opened.tokenizer, names, name=ref, few_shot=few_shot, limit=limit, chat=chat)
    values = {"model": ref, **found.to_json()}
    if output is not None:
        atomic_write(output, json.dumps({**values, "samples": found.samples}, ensure_ascii=False, default=str))
    if as_json:
        print(json.dumps(values, ensure_ascii=False))
        return
    width = max((len(one.task) for one in found.figures), default=4)
    for one in found.figures:
        between = f" [{one.interval.low:.4f}, {one.interval.high:.4f}]" if one.interval else ""
        chosen = f" ({one.filter})" if one.filter != "none" else ""
        print(f"{one.task:<{width}}  {one.metric}{chosen}  {one.value:.4f}{between}  n = {one.n:,}")
    if found.truncated:
        print(f"note: {found.truncated:,} request(s) were longer than the model reads and lost their beginning")
    print(f"{found.seconds:.1f} s")

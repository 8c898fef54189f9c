"""`zhixing export`: take a model elsewhere, and hold the export against it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help="Whatever a model may be called; an adapter's run too.")],
    to: Annotated[
        str, typer.Option("--to", help="hf: for transformers, or peft; merged: adapters folded in; gguf: one file.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Where to; default: NAME-FORM, or NAME.gguf.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="GGUF: f32, f16, bf16, q8_0, q4_0 or q4_k; q8_0 when not given.")
    ] = None,
    chats: Annotated[
        list[str] | None, typer.Option("--chats", metavar="FILE", help="Also send these records through the gate.")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Hold the export against the model.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Export a model for transformers, peft, llama.cpp and others. The export must render the same chats to the same
    tokens and answer them alike, or the command fails.

    Example: zhixing export runs/lora-instructions --to gguf --type q8_0
    """
    import json

    from zhixing.checkpoints.places import check_place
    from zhixing.core.errors import BadInput
    from zhixing.workflows.export import export
    from zhixing.workflows.parity import CHATS

    name = (Path(ref).name or Path(ref).resolve().name).removesuffix(".gguf")
    place = out or Path(f"{name}.gguf" if to == "gguf" else f"{name}-{to}")
    check_place(place, [], file=to == "gguf", replace=force)
    if kind is not None and to != "gguf":
        raise BadInput("--type is for GGUF files", where="--type", remedy="leave it out, or --to gguf")
    given = list(CHATS)
    if chats:
        given += _read_chats(chats)
    done = export(ref, to, place, kind=kind or "q8_0", chats=given, gate=gate)
    if as_json:
        parity = done.parity.to_json() if done.parity else None
        print(json.dumps({"path": str(done.path), "size": done.size, "notes": done.notes, "parity": parity}))
        return
    for note in done.notes:
        typer.echo(note, err=True)
    if done.parity is not None:
        for line in done.parity.lines():
            print(line)
    print(done.path)


def _read_chats(paths: list[str], most: int = 16) -> list[list[dict[str, object]]]:
    """Reads the prompts of records: what comes before the last answer."""
    from itertools import islice

    from zhixing.data.shapes import Chat, read

    found = []
    for placed in islice(read(paths, shape="chat"), most):
        if isinstance(placed.record, Chat):
            messages = [message.to_json() for message in placed.record.messages]
            while messages and messages[-1]["role"] == "assistant":
                messages.pop()
            if messages:
                found.append(messages)
    return found

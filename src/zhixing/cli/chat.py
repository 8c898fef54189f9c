"""`zhixing chat`: a conversation in the terminal, or in a script.

Here: the options of the command. The terminal is in `chat_terminal`, the commands that begin with a slash in
`chat_commands`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zhixing.cli.models import HEAD, KV_CACHE, MODEL
from zhixing.cli.sampling_options import describe, with_sampling_options


@with_sampling_options
def command(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    sampling: Any = None,
    message: Annotated[
        list[str] | None, typer.Option("--message", "-m", help="Say this and end; repeat for more turns.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    load: Annotated[Path | None, typer.Option(help="Go on with the conversation in this JSON file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the conversation to this JSON file after each turn.")] = None,
    tools: Annotated[Path | None, typer.Option(help="A JSON file of tools that the model may call.")] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A variable of the chat template, such as enable_thinking=false."),
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="When the context is full, the model forgets the oldest turns.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="No chat template: the model goes on from all that was said.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the options in force.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    engine: Annotated[str, typer.Option(help="auto, native (the C++ core for CPUs) or torch.")] = "auto",
    quantize: Annotated[
        str | None, typer.Option(help="q8 or q4: the native engine quantises weights that are not quantised yet.")
    ] = None,
    kv_cache: KV_CACHE = None,
    head: HEAD = None,
) -> None:
    """Talk with a model.

    In the terminal, /help lists what can be done: regenerate, edit, undo, change options, save. With something piped
    in, each line is a message and the answers go to standard output; likewise with --message. Ctrl-C stops an answer.

    Example: zhixing chat smollm2-135m
    Example: zhixing chat smollm2-135m --message "What is the capital of France?" --temperature 0
    """
    from zhixing.api import load as load_model
    from zhixing.cli.chat_commands import Session
    from zhixing.core.device import tune_allocator
    from zhixing.core.errors import BadInput
    from zhixing.generation.chat_file import read_conversation, read_tools

    messages, schemas = read_conversation(load) if load is not None else ([], None)
    if tools is not None:
        schemas = read_tools(tools)
    variables = dict(_pair(text) for text in variable or [])
    if save is not None and not save.parent.is_dir():
        raise BadInput("the folder of --save is not there", where=str(save.parent), remedy="make it, or choose another")
    alone = message is not None or not sys.stdin.isatty()
    tune_allocator()
    model = load_model(ref, device=device, engine=engine, quantize=quantize, kv_cache=kv_cache, head=head)
    if not plain and model.tokenizer is not None and model.tokenizer.chat_templates is None:
        if alone:
            raise BadInput(
                "this model has no chat template: it was not published for conversations",
                where=ref,
                remedy="add --plain: it then goes on from what you type, line after line",
            )
        _say("this model has no chat template: plain mode, it goes on from what you type, line after line (--plain)")
        plain = True
    conversation = model.conversation(
        messages, system=system, tools=schemas, variables=variables, forget=forget, plain=plain, **sampling
    )
    for note in model.notes:
        _say(note)
    if verbose:
        for line in [*model.details, *describe(model, conversation.options, sampling)]:
            _say(line)
    session = Session(conversation, name=ref, model=model, save=save, as_json=as_json, given=dict(sampling))
    if alone:
        from zhixing.cli.chat_terminal import piped_lines

        session.run_script(message if message is not None else piped_lines())
        return
    from zhixing.cli.chat_terminal import converse

    converse(session)


def _pair(text: str) -> tuple[str, Any]:
    from zhixing.cli.chat_commands import parse_value
    from zhixing.core.errors import BadInput

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise BadInput(f"--variable must be NAME=VALUE, got {text!r}")
    return name, parse_value(value)


def _say(message: str) -> None:
    from zhixing.core.progress import is_quiet

    if not is_quiet():
        typer.echo(message, err=True)

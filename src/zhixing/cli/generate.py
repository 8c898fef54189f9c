"""`zhixing generate`: write on from a prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhixing.cli.models import HEAD, KV_CACHE, MODEL
from zhixing.cli.sampling_options import describe, in_force, with_sampling_options

if TYPE_CHECKING:
    from zhixing.api import LanguageModel
    from zhixing.generation import Generation


@with_sampling_options
def command(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    prompt: Annotated[
        str | None,
        typer.Argument(help="The text to go on from. '-', or none with something piped in: read standard input."),
    ] = None,
    sampling: Any = None,
    samples: Annotated[int | None, typer.Option("--samples", "-n", help="Answers to write.")] = None,
    logprobs: Annotated[
        int | None, typer.Option(help="With --json: log-probabilities, and those of so many of the likeliest tokens.")
    ] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the answer when it is whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the options in force.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    engine: Annotated[str, typer.Option(help="auto, native (the C++ core for CPUs) or torch.")] = "auto",
    quantize: Annotated[
        str | None, typer.Option(help="q8 or q4: the native engine quantises weights that are not quantised yet.")
    ] = None,
    kv_cache: KV_CACHE = None,
    head: HEAD = None,
    compact: Annotated[
        bool | None,
        typer.Option(
            "--compact/--expanded",
            help="With --engine torch, the weights of a .gguf file: packed (small and slow) or expanded (fast). Not"
            " given: as the free memory allows.",
        ),
    ] = None,
) -> None:
    """Write on from a prompt, as it comes.

    The answer goes to standard output; speed and notes go to standard error. Options that are not given are the
    model's own (generation_config.json). Ctrl-C ends the answer.

    Example: zhixing generate runs/quickstart "def main(" --max-tokens 100 --temperature 0.7
    Example: zhixing generate smollm2-135m "The capital of France is"
    """
    from zhixing.api import load
    from zhixing.core.device import peak_memory_bytes, tune_allocator
    from zhixing.core.errors import BadInput
    from zhixing.core.progress import human_bytes

    if logprobs is not None and not as_json:
        raise BadInput("--logprobs are shown only with --json", remedy="add --json")
    given = {**sampling}
    given |= {name: value for name, value in (("n", samples), ("logprobs", logprobs)) if value is not None}
    text = _read_prompt(prompt)
    tune_allocator()
    model = load(ref, device=device, compact=compact, engine=engine, quantize=quantize, kv_cache=kv_cache, head=head)
    opened = peak_memory_bytes()
    options = in_force(model, given)
    for note in model.notes:
        _say(note)
    if verbose:
        for line in [*model.details, *describe(model, options, given)]:
            _say(line)
    if as_json or no_stream or not options.streamable:
        answers = model.complete(text, **given)
        _print_answers(answers, as_json, {"opened": opened, "written": peak_memory_bytes()})
    else:
        answers = [_stream(model, text, given)]
    for answer in answers:
        _say_facts(answer)
    _say(f"peak memory {human_bytes(peak_memory_bytes())}, {human_bytes(opened)} when the model was open")
    if any(answer.finish_reason == "interrupted" for answer in answers):
        raise typer.Exit(130)


def _read_prompt(prompt: str | None) -> str:
    """Returns the prompt, from standard input where asked; a line end at its very end is left to the shell."""
    from zhixing.core.errors import BadInput

    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        return ""
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"the prompt is not UTF-8 text (byte {error.start})", where="standard input", remedy="convert it with iconv"
        ) from error


def _stream(model: LanguageModel, text: str, options: dict[str, Any]) -> Generation:
    stream = model.stream(text, **options)
    if sys.stdout.isatty():
        typer.secho(text, dim=True, nl=False)
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:  # while printing; inside the model it is the stream that ends
        print(stream.stop(), end="")
    print(flush=True)
    return stream.generation


def _print_answers(answers: list[Generation], as_json: bool, peak_memory: dict[str, int]) -> None:
    import json

    for number, answer in enumerate(answers, start=1):
        if as_json:
            print(json.dumps({**answer.to_json(), "peak_memory": peak_memory}, ensure_ascii=False))
            continue
        if len(answers) > 1:
            print(f"--- {number} of {len(answers)} ---")
        print(answer.text)


def _say_facts(answer: Generation) -> None:
    for note in answer.notes:
        _say(note)
    speed = f", {answer.tokens_per_second:.1f} tokens/s" if answer.tokens_per_second else ""
    _say(
        f"prompt {answer.prompt_tokens} tokens in {answer.prompt_seconds:.2f} s; answer {len(answer.tokens)} tokens"
        f" in {answer.seconds:.2f} s{speed}; {answer.detail}; seed {answer.seed}"
        + (f"; score {answer.score:.4f}" if answer.score is not None else "")
    )


def _say(message: str) -> None:
    from zhixing.core.progress import is_quiet

    if not is_quiet():
        typer.echo(message, err=True)

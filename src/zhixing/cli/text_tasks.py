"""`zhixing translate`, `summarize`, `rewrite` and `complete`: commands that write a text for a text."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zhixing.cli.models import KV_CACHE
from zhixing.cli.task_io import TaskIO, with_task_options

CHAT = "smollm2-135m"
LINES = Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; none: piped in, one on each line.")]
WHOLE = Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; none: one, piped in as a whole.")]
MODEL = Annotated[str, typer.Option("--model", "-m", help="A model trained for it, or a chat model.")]
PROMPT = Annotated[str | None, typer.Option(metavar="FILE", help="A prompt of your own for a chat model.")]
QUANTIZE = Annotated[
    str | None, typer.Option(help="q8 or q4: the native core quantises weights that are not quantised yet.")
]
BEAMS = Annotated[int | None, typer.Option(help="Beams of an encoder-decoder; its own when not given.")]


@with_task_options
def translate(
    texts: LINES = None,
    model: MODEL = CHAT,
    source: Annotated[
        str | None, typer.Option("--from", metavar="LANGUAGE", help="The text's language: en, zh, German.")
    ] = None,
    target: Annotated[str | None, typer.Option("--to", metavar="LANGUAGE", help="The language wanted.")] = None,
    beams: BEAMS = None,
    quantize: QUANTIZE = None,
    kv_cache: KV_CACHE = None,
    prompt: PROMPT = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Translate texts, sentence by sentence or part by part, so that none is too long.

    An encoder-decoder knows its two languages; a chat model is told them.

    Example: zhixing translate -m runs/en-de "Two men are cooking."
    Example: zhixing translate --from en --to zh --file texts.txt --out texts.zh.txt
    """
    from zhixing.tasks.translate import Translate

    core = {"quantize": quantize, "kv_cache": kv_cache}
    io.work(lambda: Translate(model, source, target, prompt=prompt, beams=beams, **core), texts)


@with_task_options
def summarize(
    texts: WHOLE = None,
    model: MODEL = CHAT,
    length: Annotated[str, typer.Option(help="For a chat model: title, sentence, short or long.")] = "short",
    beams: BEAMS = None,
    quantize: QUANTIZE = None,
    kv_cache: KV_CACHE = None,
    prompt: PROMPT = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Summarise texts of any length: long ones part by part.

    Example: cat article.txt | zhixing summarize --length sentence
    Example: zhixing summarize -m runs/titles --file papers.csv --field abstract --out titles.csv
    """
    from zhixing.tasks.summarize import Summarize

    core = {"quantize": quantize, "kv_cache": kv_cache}
    io.work(lambda: Summarize(model, length, prompt=prompt, beams=beams, **core), texts, whole=True)


@with_task_options
def rewrite(
    texts: WHOLE = None,
    model: MODEL = CHAT,
    style: Annotated[
        str | None, typer.Option(help="correct (when not given), shorten, formal, friendly or simple.")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What to do, in your own words, instead.")] = None,
    prompt: PROMPT = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Write texts anew: corrected, shortened, in another style.

    Example: zhixing rewrite "He go to school yesterday" --style correct
    Example: cat mail.txt | zhixing rewrite --instruction "Make it polite."
    """
    from zhixing.tasks.rewrite import Rewrite

    io.work(lambda: Rewrite(model, style, instruction=instruction, prompt=prompt), texts, whole=True)


@with_task_options
def complete(
    texts: WHOLE = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A model that writes.")] = CHAT,
    suffix: Annotated[
        str | None, typer.Option(help="What stands behind: fill in between, where the tokenizer can.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest completion in tokens.")] = 64,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; repeat for more.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Go on with a text or code, or fill in what is missing in its middle.

    Example: zhixing complete "def fibonacci(n):" --max-tokens 40
    Example: zhixing complete -m coder "def add(a, b):" --suffix "    return total"
    """
    from zhixing.tasks.complete import Complete

    options: dict[str, Any] = {"temperature": temperature, "seed": seed, "stop": tuple(stop or ())}
    rows: Any = texts
    if suffix is not None and texts:
        rows = [{"text": text, "suffix": suffix} for text in texts]
    elif suffix is not None:
        from zhixing.core.errors import BadInput

        raise BadInput("--suffix goes with a text", remedy="in files, name the field: --field suffix=FIELD")
    io.work(lambda: Complete(model, max_tokens, **options), rows, whole=True)

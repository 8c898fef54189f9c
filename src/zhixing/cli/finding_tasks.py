"""`zhixing tag`, `answer`, `fill` and `extract`: commands that find something in a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhixing.cli.task_io import TaskIO, labels_of, short, with_task_options
from zhixing.cli.text_tasks import CHAT, LINES, MODEL, PROMPT, WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group
    from rich.table import Table

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


@with_task_options
def tag(
    texts: LINES = None,
    model: MODEL = CHAT,
    labels: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="For a chat model: the types to look for.")
    ] = None,
    prompt: PROMPT = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Find names of people, places and the like, with where they stand in the text.

    Example: zhixing tag -m runs/names "Anna lives in Paris."
    Example: zhixing tag --labels person,city --file news.jsonl --out tagged.jsonl
    """
    from zhixing.tasks.tag import Tag

    io.work(lambda: Tag(model, labels_of(labels), prompt=prompt), texts, show=_tagged)


def _tagged(rows: Sequence[Any], results: Sequence[Any]) -> Group:
    from rich.console import Group
    from rich.text import Text

    from zhixing.cli.chat_output import VISIBLE

    lines = []
    colours: dict[str, str] = {}
    for row, result in zip(rows, results, strict=True):
        line, at = Text(), 0
        for entity in result.entities:
            colour = colours.setdefault(entity.type, COLOURS[len(colours) % len(COLOURS)])
            line.append(row["text"][at : entity.begin].translate(VISIBLE))
            line.append(entity.text.translate(VISIBLE), style=f"bold {colour}")
            line.append(f"[{entity.type}]", style=f"dim {colour}")
            at = entity.end
        line.append(row["text"][at:].translate(VISIBLE))
        lines.append(line)
    return Group(*lines)


@with_task_options
def answer(
    question: Annotated[str | None, typer.Argument(help="The question; with --file, each row has its own.")] = None,
    context: Annotated[str | None, typer.Argument(help="The text that holds the answer; none: piped in.")] = None,
    model: MODEL = CHAT,
    no_answer: Annotated[
        bool, typer.Option("--no-answer", help="A span model may find that the text does not say it.")
    ] = False,
    prompt: PROMPT = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Answer a question from a text: by the part of it that says so, or in words, naming the passage.

    Example: zhixing answer "Where does Anna live?" "Anna lives in Paris." -m runs/spans
    Example: cat handbook.txt | zhixing answer "Who signs?"
    """
    import sys

    from zhixing.core.errors import BadInput
    from zhixing.tasks.answer import AnswerTask

    rows: Any = None
    if io.file is None:
        if question is None:
            raise BadInput("there is no question", remedy='zhixing answer "Where?" "A text."')
        if context is None and sys.stdin.isatty():
            raise BadInput("there is no text to answer from", remedy="give one, or pipe one in")
        if context is None:
            try:
                context = sys.stdin.buffer.read().decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise BadInput(f"not UTF-8 text (byte {error.start + 1})", where="standard input") from error
        rows = [{"question": question, "context": context}]
    elif question is not None:
        raise BadInput("a question and --file were given: choose one", remedy="name its field: --field question=FIELD")
    io.work(lambda: AnswerTask(model, nothing=no_answer, prompt=prompt), rows, show=_answered)


def _answered(rows: Sequence[Any], results: Sequence[Any]) -> Group:
    from rich.console import Group
    from rich.text import Text

    lines = []
    for result in results:
        score = "" if result.score is None else f"  {result.score:.0%}"
        lines.append(Text.assemble((result.text or "no answer", "bold cyan"), (score, "dim")))
        lines.append(Text(f"  from: {short(result.evidence, 100)}", style="dim"))
    return Group(*lines)


@with_task_options
def fill(
    texts: LINES = None,
    model: MODEL = CHAT,
    top: Annotated[int, typer.Option("--top", "-n", help="Words that a masked model shows for each gap.")] = 5,
    prompt: PROMPT = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Fill the gaps of a text, written as [MASK] or ____.

    Example: zhixing fill "The capital of France is ____."
    """
    from zhixing.tasks.fill import Fill

    io.work(lambda: Fill(model, top, prompt=prompt), texts, show=_filled)


def _filled(rows: Sequence[Any], results: Sequence[Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("text", "fillings", box=None, header_style="bold")
    for result in results:
        words = ("; ".join(_word(*pair) for pair in gap.items()) for gap in result.gaps)
        table.add_row(Text(short(result.text)), Text(" | ".join(words), style="cyan"))
    return table


def _word(word: str, probability: float | None) -> str:
    return word if probability is None else f"{word} {probability:.1%}"


@with_task_options
def extract(
    texts: WHOLE = None,
    schema: Annotated[
        str,
        typer.Option(
            metavar="SCHEMA", help="A .json file with a JSON schema, or fields: 'name, age:integer, tags:[string]'."
        ),
    ] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="A model that writes.")] = CHAT,
    prompt: PROMPT = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.")] = None,
    io: TaskIO = None,  # type: ignore[assignment]
) -> None:
    """Extract key information as JSON. Whatever the model is, what it writes fits the schema.

    Example: zhixing extract "Anna, 31, lives in Paris." --schema "name, age:integer, city"
    Example: zhixing extract --schema invoice.json --file mails.jsonl --out invoices.jsonl
    """
    from zhixing.core.errors import BadInput
    from zhixing.tasks.extract import Extract

    if not schema:
        raise BadInput("what is to be extracted?", remedy='--schema "name, age:integer", or a .json file')
    chosen: str | Path = Path(schema) if schema.endswith(".json") else schema
    io.work(lambda: Extract(chosen, model, prompt=prompt, max_tokens=max_tokens), texts, whole=True)

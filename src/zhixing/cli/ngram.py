"""`zhixing ngram`: ARPA files in and out, and a look inside an n-gram model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zhixing.checkpoints.folder import ModelFolder

app = typer.Typer(
    help="N-gram models: ARPA files in and out, a look inside. `zhixing train` counts them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MODEL = "An n-gram model's folder, or its run folder."


def _open(ref: str) -> ModelFolder:
    from zhixing.checkpoints.folder import load_folder
    from zhixing.checkpoints.references import resolve

    return load_folder(resolve(ref))


@app.command("export")
def export(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    file: Annotated[Path, typer.Argument(help="The ARPA file to write; .gz compresses it.")],
) -> None:
    """Write an n-gram model as an ARPA file, which KenLM, SRILM and Kaldi read.

    Tokens are spelled as in the tokenizer, with white space and backslashes as \\uXXXX.

    Example: zhixing ngram export runs/ngram-shakespeare shakespeare.arpa
    """
    from zhixing.checkpoints.arpa import export_arpa

    opened = _open(ref)
    export_arpa(opened, file)
    typer.echo(f"{file}: {opened.model.config.describe()}", err=True)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="An ARPA file; .gz is expanded.")],
    folder: Annotated[Path, typer.Argument(help="The model folder to write.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="The tokenizer whose tokens the words are; default: the words themselves.")
    ] = None,
) -> None:
    """Read an ARPA file into a model folder, which generate and eval take like any other.

    Example: zhixing ngram import model.arpa.gz models/words
    """
    from zhixing.checkpoints.arpa import import_arpa
    from zhixing.core.errors import BadInput
    from zhixing.tokenization.tokenizer import Tokenizer

    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise BadInput("not an empty folder", where=str(folder), remedy="give another folder")
    for note in import_arpa(file, folder, Tokenizer.load(tokenizer) if tokenizer is not None else None):
        typer.echo(note, err=True)
    typer.echo(f"{folder}: {_open(str(folder)).model.config.describe()}", err=True)


@app.command("show")
def show(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    after: Annotated[str | None, typer.Option(help="Show what comes after this text.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Likeliest tokens to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the sizes of an n-gram model, or the likeliest tokens after a text and how much of it they rest on.

    Example: zhixing ngram show runs/ngram-shakespeare --after "to be or not to "
    """
    import json

    from zhixing.checkpoints.arpa import ngram_of
    from zhixing.evaluation.ngram_view import next_tokens

    opened = _open(ref)
    model = ngram_of(opened)
    values: dict[str, object] = {
        "order": model.config.order, "vocab_size": model.config.vocab_size, "n_grams": list(model.config.counts),
    }  # fmt: skip
    if after is None:
        if as_json:
            print(json.dumps(values))
            return
        print(f"order {model.config.order}, vocabulary of {model.config.vocab_size:,} tokens")
        for order, count in enumerate(model.config.counts, 1):
            print(f"{order:>3}-grams  {count:>14,}")
        return
    found = next_tokens(opened, after, top)
    if as_json:
        print(json.dumps({**values, "next": [vars(token) for token in found]}, ensure_ascii=False))
        return
    print(f"{'p':>9}  rests on    token")
    for token in found:
        print(f"{token.probability:9.5f}  {token.order}-gram{' ':5} {token.piece}")

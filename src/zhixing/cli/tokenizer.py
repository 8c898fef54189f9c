"""`zhixing tokenizer train | show | compare`: parse, call the library, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from zhixing.tokenization.view import Comparison, TokenizerFacts, TokenView

app = typer.Typer(help="Learn, look at and compare tokenizers.", no_args_is_help=True, rich_markup_mode="markdown")

KINDS = "byte-bpe, unigram, wordpiece, character or byte"
COLOURS = ("black on #a5d8ff", "black on #ffec99")
SPECIAL_COLOUR = "bold white on #c92a2a"

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text for people.")]
FieldOption = Annotated[str | None, typer.Option(help="The column or key of records that holds the text.")]


@app.command("train")
def train(
    paths: Annotated[
        list[str], typer.Argument(help="Text: files, folders, globs (.txt .jsonl .csv .parquet .zip ...).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write the tokenizer to.")],
    kind: Annotated[str, typer.Option(help=f"{KINDS}.")] = "byte-bpe",
    vocab_size: Annotated[
        int | None, typer.Option(help="Tokens wanted, special ones included. 8192 if not given; characters: all.")
    ] = None,
    special: Annotated[
        list[str] | None, typer.Option(help='A special token; repeat for more. Default: "<|endoftext|>".')
    ] = None,
    no_special: Annotated[bool, typer.Option("--no-special", help="No special tokens at all.")] = False,
    sample_mb: Annotated[
        float | None,
        typer.Option(help="Learn from at most so many MB, sampled evenly; Chinese counts fourfold. 32, for unigram 8."),
    ] = None,
    min_frequency: Annotated[int, typer.Option(help="How often a pair must occur to become a token.")] = 2,
    max_digits: Annotated[int, typer.Option(help="The most digits in one token, 1 to 3.")] = 3,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Without case and accents; wordpiece.")] = False,
    field: FieldOption = None,
    seed: Annotated[int, typer.Option(help="Decides which part of the text is sampled.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a tokenizer that is in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Learns a tokenizer from text and writes it in the Hugging Face layout.

    Example: zhixing tokenizer train texts/ --out tokenizers/mine --vocab-size 16000
    """
    from zhixing.core.errors import BadInput
    from zhixing.data import Problems, find_sources, read_documents
    from zhixing.tokenization.tokenizer import TOKENIZER_FILE
    from zhixing.tokenization.train import train_tokenizer

    if special and no_special:
        raise BadInput("--special and --no-special contradict each other")
    if (out / TOKENIZER_FILE).exists() and not overwrite:
        raise BadInput(
            "there is a tokenizer in this folder", where=str(out), remedy="choose another folder, or add --overwrite"
        )
    problems = Problems()
    documents = read_documents(find_sources(paths, problems), problems, field=field)
    tokenizer, facts = train_tokenizer(
        (document.text for document in documents),
        kind,
        vocab_size,
        special_tokens=[] if no_special else special or None,
        max_bytes=None if sample_mb is None else _sample_bytes(sample_mb),
        min_frequency=min_frequency,
        max_digits=max_digits,
        lowercase=lowercase,
        seed=seed,
    )
    tokenizer.save(out)
    if as_json:
        result = {**facts.to_json(), "folder": str(out), "fingerprint": tokenizer.fingerprint}
        _print_json({**result, "problems": problems.to_json()})
        return
    for line in (*problems.summary(), *facts.summary()):
        typer.echo(line)
    typer.echo(f"written to {out}; look at it: zhixing tokenizer show {out}")


@app.command("show")
def show(
    tokenizer: Annotated[str, typer.Argument(help="A model, as everywhere, or a tokenizer file of any known format.")],
    text: Annotated[str | None, typer.Argument(help="A text to split.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Show each token's id with it.")] = False,
    template: Annotated[
        bool, typer.Option("--template", help="Add what the tokenizer puts around a text (begin of text ...).")
    ] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help='Read "<|endoftext|>" in the text as the special token.')
    ] = False,
    count: Annotated[int, typer.Option(min=0, help="How many pieces of the vocabulary to show.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Shows a tokenizer's facts and readable pieces, and how a text splits.

    A space is shown as ␣, a line end as ⏎, and bytes of a character that was cut as `<E4><BD>`.

    Example: zhixing tokenizer show runs/quickstart/model "Hello 世界"
    """
    from zhixing.checkpoints.model_tokenizer import open_tokenizer
    from zhixing.tokenization.view import describe, split_text

    opened = open_tokenizer(tokenizer)
    facts = describe(opened, count)
    tokens = None if text is None else split_text(opened, text, special=template, parse_special=parse_special)
    if as_json:
        shown = None if tokens is None else [vars(token) for token in tokens]
        _print_json({**facts.to_json(), "text": text, "tokens": shown})
        return
    from rich.console import Console

    console = Console()
    _print_facts(facts, console)
    if text is not None and tokens is not None:
        size = len(text.encode("utf-8", errors="replace"))
        console.print(f"\n{len(tokens)} tokens for {len(text)} characters, {size} bytes:", highlight=False)
        console.print(_coloured(tokens, ids, plain=not console.is_terminal), soft_wrap=True)


@app.command("compare")
def compare(
    tokenizers: Annotated[list[str], typer.Argument(help="Two or more tokenizers: models or tokenizer files.")],
    text: Annotated[str | None, typer.Option("--text", help="Compare on this text.")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Compare on these files; repeat for more.")] = None,
    sample_mb: Annotated[float, typer.Option(help="Use at most so many MB of the files, sampled evenly.")] = 10.0,
    field: FieldOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compares tokenizers on a text: bytes and characters per token, and whether the text comes back exactly.

    Example: zhixing tokenizer compare tokenizers/mine tokenizers/gpt2 --data texts/
    """
    from zhixing.checkpoints.model_tokenizer import open_tokenizer
    from zhixing.core.errors import BadInput
    from zhixing.core.progress import human_bytes
    from zhixing.data import Problems, find_sources, read_documents
    from zhixing.tokenization.sample import Sample
    from zhixing.tokenization.view import compare as compare_tokenizers

    if (text is None) == (not data):
        raise BadInput("give either --text or --data", remedy='for instance: --text "some words"')
    opened = {name: open_tokenizer(name) for name in tokenizers}
    sample = Sample(_sample_bytes(sample_mb))
    problems = Problems()
    if text is not None:
        sample.add(text)
    else:
        documents = read_documents(find_sources(data or [], problems), problems, field=field)
        sample.extend(document.text for document in documents)
    rows = compare_tokenizers(opened, sample.texts())
    facts = {"bytes_used": sample.bytes_used, "bytes_seen": sample.bytes_seen}
    if as_json:
        _print_json({**facts, "rows": [row.to_json() for row in rows], "problems": problems.to_json()})
        return
    for line in problems.summary():
        typer.echo(line)
    used = human_bytes(sample.bytes_used)
    typer.echo(f"on {used}" if sample.whole else f"on {used} sampled evenly from {human_bytes(sample.bytes_seen)}")
    _print_comparison(rows)


def _sample_bytes(megabytes: float) -> int:
    from zhixing.core.errors import BadInput

    if not 0 < megabytes < 1e9:  # also not-a-number
        raise BadInput(f"a sample of {megabytes} MB", where="--sample-mb", remedy="give a number above 0")
    return max(1, int(megabytes * 1_000_000))


def _print_json(value: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False))


def _print_facts(facts: TokenizerFacts, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    roles = {
        name: [role.removesuffix("_token") for role in facts.roles if facts.roles[role] == name]
        for name in facts.special_tokens
    }
    special = [
        f"{name} = {index}{' (' + ', '.join(roles[name]) + ')' if roles[name] else ''}"
        for name, index in facts.special_tokens.items()
    ]
    scripts = [f"{name} {100 * number / facts.vocab_size:.1f} %" for name, number in facts.scripts.items()]
    rows = {
        "kind": facts.kind,
        "tokens": str(facts.vocab_size),
        "fingerprint": facts.fingerprint,
        "special": "\n".join(special) or "none",
        "scripts": ", ".join(scripts),
        "longest": "  ".join(token.piece for token in facts.longest),
        "sample": "  ".join(token.piece for token in facts.sample),
        "note": "\n".join(facts.notes),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    console.print(table)


def _coloured(tokens: list[TokenView], ids: bool, plain: bool) -> Text:
    """Returns the tokens with alternating colours, or with bars between them where there is no colour."""
    from rich.text import Text

    shown = Text()
    for index, token in enumerate(tokens):
        if plain and index and not shown.plain.endswith("\n"):
            shown.append("|")
        shown.append(token.piece, style=SPECIAL_COLOUR if token.special else COLOURS[index % 2])
        if ids:
            shown.append(f":{token.id}" if plain else f"{token.id} ", style="dim")
        if token.piece.endswith("⏎"):
            shown.append("\n")
    return shown


def _short_names(names: list[str]) -> list[str]:
    """Returns the shortest ends of the paths that still tell them apart."""
    parts = [Path(name).parts for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        short = [str(Path(*part[-length:])) for part in parts]
        if len(set(short)) == len(set(names)):
            return short
    return names


def _print_comparison(rows: list[Comparison]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("tokenizer", overflow="fold", min_width=12)
    table.add_column("kind", no_wrap=True)
    for name in ("vocab", "tokens", "bytes/\ntoken", "chars/\ntoken", "unk", "exact", "MB/s"):
        table.add_column(name, justify="right", no_wrap=True)

    def figure(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    for name, row in zip(_short_names([row.name for row in rows]), rows, strict=True):
        table.add_row(
            Text(name),
            row.kind,
            str(row.vocab_size),
            figure(row.tokens, 0),
            figure(row.bytes_per_token, 3),
            figure(row.characters_per_token, 3),
            str(row.unknown),
            "-" if row.round_trip is None else "yes" if row.round_trip else "no",
            figure(row.megabytes_per_second, 1),
        )
    console = Console()
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(f"{row.name}: {row.problem}", highlight=False, markup=False)

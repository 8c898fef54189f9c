"""`zhixing eval`: bits per byte and perplexity of a model on text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zhixing.cli.models import MODEL

if TYPE_CHECKING:
    from zhixing.evaluation.language_modelling import LanguageModelScore


def command(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    data: Annotated[
        list[str], typer.Argument(help="Text: files, folders, globs (.txt .jsonl .csv .parquet, also .gz .zst .zip).")
    ],
    window: Annotated[int | None, typer.Option(help="Longest input in tokens; default: the model's context.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens by which the window moves on; default: half the window.")
    ] = None,
    field: Annotated[str | None, typer.Option(help="The column or key of records that holds the text.")] = None,
    by_file: Annotated[bool, typer.Option("--by-file", help="Also show every file's own figures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model on text: bits per byte and perplexity, with sliding windows.

    Example: zhixing eval runs/quickstart held-out/ --stride 128
    """
    import json

    from zhixing.checkpoints.opening import open_model
    from zhixing.checkpoints.references import resolve
    from zhixing.core.errors import MissingResource
    from zhixing.data.problems import Problems
    from zhixing.data.readers import read_documents
    from zhixing.data.sources import find_sources
    from zhixing.evaluation.language_modelling import evaluate_by_source
    from zhixing.models import ops

    problems = Problems()
    sources = find_sources(data, problems)
    folder = resolve(ref)
    loaded = open_model(folder)
    if loaded.tokenizer is None:
        raise MissingResource(
            "the model has no tokenizer", where=str(folder), remedy="put its tokenizer.json beside it"
        )
    ops.select_matmul()
    plain = all(
        source.format == "text" and source.compression == "none" and source.member is None for source in sources
    )
    score, parts = evaluate_by_source(
        loaded.model,
        loaded.tokenizer,
        read_documents(sources, problems, field=field),
        window=window,
        stride=stride,
        total_bytes=sum(source.size for source in sources) if plain else None,
    )
    if as_json:
        values = {"model": str(folder), **score.to_json(), "problems": problems.to_json()}
        if by_file:
            values["files"] = {name: part.to_json() for name, part in parts.items()}
        print(json.dumps(values, ensure_ascii=False))
        return
    if by_file:
        _print_files(parts)
    _print_score(score, f"{loaded.tokenizer.kind}, {loaded.tokenizer.vocab_size} tokens")
    for line in problems.summary():
        typer.echo(line, err=True)


def _print_score(score: LanguageModelScore, tokenizer: str) -> None:
    from zhixing.core.progress import human_bytes

    print(f"bits per byte  {score.bits_per_byte:.4f}{_interval(score.bits_per_byte_interval, '.4f')}")
    between = _interval(score.perplexity_interval, ".4g")
    print(f"perplexity     {score.perplexity:.4g}{between} per token of {tokenizer} ({score.tokenizer[:12]})")
    print(f"loss           {score.loss:.4f} nats per token")
    print(
        f"measured on    {human_bytes(score.bytes)}, {score.tokens:,} tokens, {score.documents:,} documents; "
        f"window {score.window}, stride {score.stride}"
    )
    for note in score.notes:
        print(f"note           {note}")


def _interval(ends: tuple[float, float] | None, form: str) -> str:
    return f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else ""


def _print_files(parts: dict[str, LanguageModelScore]) -> None:
    """Prints one line a file, the hardest first."""
    from zhixing.core.progress import human_bytes

    print(f"{'bits per byte':>13}  {'perplexity':>10}  {'text':>9}  file")
    for name, part in sorted(parts.items(), key=lambda item: -item[1].bits_per_byte):
        print(f"{part.bits_per_byte:13.4f}  {part.perplexity:10.4g}  {human_bytes(part.bytes):>9}  {name}")
    print()

"""`zhixing eval`: a model on data: bits per byte on text, or a task's measures on records; two models compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhixing.cli.models import MODEL
from zhixing.cli.task_io import labels_of

if TYPE_CHECKING:
    from zhixing.evaluation.language_modelling import LanguageModelScore
    from zhixing.evaluation.metrics.significance import Comparison
    from zhixing.evaluation.task_report import Evaluation


def command(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    data: Annotated[
        list[str],
        typer.Argument(help="A second model to compare with, if any; then files, folders, globs (also .gz .zst .zip)."),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="classify, tag, answer, translate, summarize, rewrite, search, describe, extract, fill;"
            " none: bits per byte."
        ),
    ] = None,
    window: Annotated[int | None, typer.Option(help="Longest input in tokens; default: the model's context.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens by which the window moves on; default: half the window.")
    ] = None,
    field: Annotated[str | None, typer.Option(help="The column or key of records that holds the text.")] = None,
    by_file: Annotated[bool, typer.Option("--by-file", help="Also show every file's own figures.")] = False,
    labels: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Labels to choose from; 0=negative names the data's 0.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="ROLE=NAME", help="Which column is what: label=stars.")
    ] = None,
    measures: Annotated[str | None, typer.Option(help="Measures instead of the usual ones: bleu,chrf.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Of the task itself: target=zh, beams=4.")
    ] = None,
    index: Annotated[
        list[str] | None, typer.Option(help="For search: the file to search in; default: the other records.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure the first so many records only.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for report.html, result.json, predictions; default: evaluations/...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model: bits per byte on text, or with --task how good it is at a task; compare two models.

    With --task, records are found by looking (zhixing data doctor FILE tells how a file is read), and a report with
    intervals, pictures and the worst cases is written.

    Example: zhixing eval runs/quickstart held-out/ --stride 128
    Example: zhixing eval runs/sentiment dev.tsv --task classify
    Example: zhixing eval runs/first runs/second dev.tsv --task classify
    """
    from zhixing.checkpoints.references import names_model
    from zhixing.core.errors import BadInput

    models = [ref]
    if len(data) > 1 and names_model(data[0]):
        models.append(data.pop(0))
    given: dict[str, Any] = {
        "--labels": labels,
        "--column": column,
        "--measures": measures,
        "--index": index,
        "--limit": limit,
    }
    given |= {"--output": output, "--option": option}
    if task is not None:
        others = {"--window": window, "--stride": stride, "--field": field, "--by-file": by_file}
        for name, value in others.items():
            if value:
                raise BadInput(f"{name} is for bits per byte, not for --task {task}", remedy="leave it out")
        _task(task, models, data, given, as_json)
        return
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"{name} is for a task", remedy="add --task, or leave it out")
    if len(models) == 2:
        if by_file:
            raise BadInput("--by-file is for one model", remedy="leave it out, or measure each by itself")
        _two(models, data, window, stride, field, as_json)
    else:
        _bits(ref, data, window, stride, field, by_file, as_json)


def _task(task: str, models: list[str], data: list[str], given: dict[str, Any], as_json: bool) -> None:
    import json

    import yaml

    from zhixing.core.errors import BadInput
    from zhixing.core.files import check_writable
    from zhixing.evaluation.task_report import write_evaluation
    from zhixing.workflows.evaluate import Options, default_folder, evaluate_task

    def pairs(flag: str, form: str, example: str) -> dict[str, Any]:
        found = {}
        for text in given[flag] or ():
            key, equals, value = text.partition("=")
            if not equals or not key or not value:
                raise BadInput(f"{text!r} is not {form}", where=flag, remedy=f"{flag} {example}")
            found[key] = value
        return found

    def value_of(key: str, text: str) -> Any:
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
            raise BadInput(
                f"the value of {key} cannot be read: {text[:60]!r}",
                where="--option",
                remedy=f"--option '{key}=\"TEXT\"'",
            ) from error
        # "Be kind: shorten" is a sentence; only what is written in braces is meant as a mapping.
        return text if isinstance(value, dict) and not text.lstrip().startswith("{") else value

    columns = pairs("--column", "ROLE=NAME", "label=stars")
    settings = {key: value_of(key, value) for key, value in pairs("--option", "KEY=VALUE", "target=zh").items()}
    options = Options(
        labels=labels_of(given["--labels"]),
        names=_names(given["--measures"]),
        limit=given["--limit"],
        columns=columns or None,
        index=tuple(given["--index"] or ()),
        task=settings,
    )
    folder = given["--output"] or default_folder(task, models, data)
    check_writable(folder, "writing the evaluation", folder=True)
    evaluation = evaluate_task(task, models, data, options)
    report = write_evaluation(folder, evaluation)
    if as_json:
        print(json.dumps({**evaluation.to_json(), "report": str(report)}, ensure_ascii=False))
        return
    _print_evaluation(evaluation)
    print(f"\nReport: {report}")


def _names(measures: str | None) -> tuple[str, ...]:
    from zhixing.core.errors import BadInput

    names = tuple(name.strip() for name in (measures or "").split(",") if name.strip())
    if measures is not None and not names:
        raise BadInput("no measure is named", where="--measures", remedy="for example --measures accuracy,macro_f1")
    return names


def _print_evaluation(evaluation: Evaluation) -> None:
    for system in evaluation.systems:
        print(f"\n{system.name}: {evaluation.task}, {len(system.measured.examples):,} examples, {system.seconds:.1f} s")
        for score in system.measured.scores:
            form = ".2f" if score.top == 100 else ".4f"
            ends = (score.interval.low, score.interval.high) if score.interval else None
            print(f"  {score.name:<13} {score.value:{form}}{_interval(ends, form)}  {score.signature}")
    for pair in evaluation.comparisons:
        _print_pair(pair, evaluation.systems[0].name, evaluation.systems[1].name)
    for note in evaluation.notes:
        print(f"note: {note}")


def _print_pair(pair: Comparison, first: str, second: str) -> None:
    between = f" [{pair.interval.low:+.4g}, {pair.interval.high:+.4g}]" if pair.interval else ""
    verdict = pair.verdict.replace("the second", second).replace("the first", first)
    print(f"{pair.name}: {pair.first:.4f} -> {pair.second:.4f}, difference {pair.difference:+.4g}{between}: {verdict}")


def _two(
    models: list[str], data: list[str], window: int | None, stride: int | None, field: str | None, as_json: bool
) -> None:
    import json

    from zhixing.workflows.compare_texts import compare_language_models

    pair = compare_language_models(models, data, window=window, stride=stride, field=field)
    if as_json:
        print(json.dumps({"models": models, **pair.to_json()}, ensure_ascii=False))
        return
    _print_pair(pair, models[0], models[1])
    print(f"{pair.n:,} stretches of text; p = {pair.p_bootstrap:.3g} (paired bootstrap), {pair.p_randomisation:.3g} "
          f"(approximate randomisation)")  # fmt: skip


def _bits(
    ref: str,
    data: list[str],
    window: int | None,
    stride: int | None,
    field: str | None,
    by_file: bool,
    as_json: bool,
) -> None:
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

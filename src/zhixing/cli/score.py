"""`zhixing score`: measure a file of predictions against references, with intervals; compare two systems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zhixing.evaluation.metrics.base import Score
    from zhixing.evaluation.metrics.entries import Entries
    from zhixing.evaluation.metrics.significance import Comparison


def _measures(wanted: bool) -> None:
    if wanted:
        from zhixing.evaluation.metrics.registry import FAMILIES

        for family in FAMILIES:
            print(f"{family.name:<15} {family.summary}\n{'':<15} {', '.join(family.members)}")
        raise typer.Exit


def command(
    measure: Annotated[str, typer.Argument(help="A measure, a family of them, or several with commas: bleu,chrf.")],
    predictions: Annotated[str, typer.Argument(help="What a system put out: .txt (a line each), .jsonl, .csv, .tsv.")],
    references: Annotated[
        list[str] | None, typer.Argument(help="What is right: one file, or several with a reference each.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="PREDICTIONS", help="Another system's predictions, to compare with.")
    ] = None,
    prediction: Annotated[str | None, typer.Option(metavar="FIELD", help="The field or column of predictions.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="FIELD", help="The field or column of references.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the measure: tokenize=zh.")
    ] = None,
    worst: Annotated[int, typer.Option(help="Show so many of the worst examples.")] = 0,
    resamples: Annotated[int, typer.Option(help="Resamples of the interval; 0 for none.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Confidence of the interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    measures: Annotated[
        bool, typer.Option("--measures", callback=_measures, is_eager=True, help="List all measures and stop.")
    ] = False,
) -> None:
    """Measure predictions against references, as the field computes it, with signature and interval.

    Example: zhixing score bleu,chrf output.txt reference.txt --against baseline.txt
    """
    import json

    from zhixing.evaluation.metrics.files import score_files

    scores, comparisons, entries = score_files(
        measure,
        predictions,
        references or [],
        against=against,
        fields=(prediction, reference),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
        options=_options(set_ or []),
    )
    if as_json:
        values: dict[str, Any] = {
            "predictions": entries.source,
            "references": references or [],
            "scores": [one.to_json() for one in scores],
        }
        if comparisons:
            values["against"] = against
            values["comparisons"] = [one.to_json() for one in comparisons]
        if worst:
            values["worst"] = {one.name: _worst(one, entries, worst) for one in scores}
        print(json.dumps(values, ensure_ascii=False))
        return
    width = max(len(one.name) for one in scores)
    for one in scores:
        _print_score(one, width)
    for pair in comparisons:
        _print_comparison(pair, width, str(against), entries.source)
    if worst:
        for one in scores:
            _print_worst(one, entries, worst)


def _options(given: list[str]) -> dict[str, Any]:
    import yaml

    from zhixing.core.errors import BadInput

    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key.strip() or not equals:
            raise BadInput(f"{text!r} is not KEY=VALUE", where="--set", remedy="--set tokenize=zh")
        try:
            # A tokenizer named 13a or none stays a word; numbers, true and false become values.
            found = yaml.safe_load(value)
        except yaml.YAMLError:
            found = value
        options[key.strip()] = found if isinstance(found, bool | int | float) else value.strip()
    return options


def _figure(value: float, top: float | None = None) -> str:
    return f"{value:.2f}" if top == 100 or abs(value) >= 10 else f"{value:.4f}"


def _print_score(one: Score, width: int) -> None:
    interval = ""
    if one.interval:
        low, high = (_figure(end, one.top) for end in (one.interval.low, one.interval.high))
        interval = f"[{low}, {high}]"
    better = "" if one.better == "neither" else f", {one.better} is better"
    print(f"{one.name:<{width}}  {_figure(one.value, one.top):>8}  {interval:<20} n = {one.n:,}{better}")
    print(f"{'':<{width}}  {one.signature}")
    for note in one.notes:
        print(f"{'':<{width}}  note: {note}")


def _print_comparison(pair: Comparison, width: int, first: str, second: str) -> None:
    interval = f" [{pair.interval.low:+.4g}, {pair.interval.high:+.4g}]" if pair.interval else ""
    print(f"\n{pair.name:<{width}}  {pair.first:.4g} ({first}) -> {pair.second:.4g} ({second})")
    print(
        f"{'':<{width}}  difference {pair.difference:+.4g}{interval}; better on {pair.wins:,}, worse on {pair.losses:,}"
    )
    print(
        f"{'':<{width}}  p = {pair.p_bootstrap:.3g} (paired bootstrap), "
        f"{pair.p_randomisation:.3g} (approximate randomisation, {pair.trials:,} shuffles)"
    )
    verdict = pair.verdict.replace("the second", second).replace("the first", first)
    print(f"{'':<{width}}  {verdict}")


def _worst(one: Score, entries: Entries, count: int) -> list[dict[str, Any]]:
    import numpy as np

    order = np.argsort(one.per_example if one.better == "higher" else -one.per_example, kind="stable")[:count]
    return [
        {"where": entries.place(k + 1), "value": float(one.per_example[k]), "prediction": entries.values[k]}
        for k in order.tolist()
    ]


def _print_worst(one: Score, entries: Entries, count: int) -> None:
    print(f"\nWorst by {one.name}:")
    for case in _worst(one, entries, count):
        print(f"  {_figure(case['value'], one.top):>8}  {case['where']}  {str(case['prediction'])[:80]}")

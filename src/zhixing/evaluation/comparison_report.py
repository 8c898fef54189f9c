"""report.html of a comparison: figures with intervals, curves, cost, samples and what may be said of them.

What the figures are is `comparison`'s concern; here they are put on a page.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.comparison_recipe import ComparisonRecipe
from zhixing.core.files import atomic_write
from zhixing.core.progress import human_count, human_time
from zhixing.evaluation.charts import (
    Chart,
    Line,
    Point,
    Scale,
    frame,
    make_scale,
    nice_ticks,
    padded,
    path,
    short_number,
)
from zhixing.evaluation.comparison import Standings
from zhixing.evaluation.pages import render
from zhixing.evaluation.report import mostly_chinese
from zhixing.evaluation.run_folder import number, read_run

REPORT = "report.html"
MOST_COLOURS = 8
"""Colours in the style sheet: v0 to v7; more variants begin again."""


@dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
        variant: Its variant.
        seed: Its seed.
        folder: The run folder.
        value: The measured figure; None when the run failed.
        parameters: Number of learned values.
        tokens: Training tokens seen.
        seconds: Time of training.
        flops: Floating-point operations of training.
        shape: The network's sizes in words.
        curve: (targets, seconds, figures by name) of every validation.
        samples: (prompt, text) that the model wrote.
        reason: Why it failed, "" when it did not.
    """

    variant: str
    seed: int
    folder: Path
    value: float | None = None
    parameters: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    flops: float = 0.0
    shape: str = ""
    curve: tuple[tuple[float, float, Mapping[str, float]], ...] = ()
    samples: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    reason: str = ""

    @classmethod
    def of(
        cls,
        folder: Path,
        variant: str,
        seed: int,
        *,
        value: float | None = None,
        flops: float = 0.0,
        shape: str = "",
        reason: str = "",
    ) -> Trial:
        """Reads the rest from the run folder."""
        run = read_run(folder)
        summary = run.summary()
        figures = [
            {key: known for key, found in row.items() if (known := number(found)) is not None} for row in run.validation
        ]
        curve = tuple((row["tokens"], row["seconds"], row) for row in figures if {"tokens", "seconds"} <= set(row))
        return cls(
            variant, seed, folder, value, summary["parameters"], summary["tokens"], summary["seconds"], flops, shape,
            curve, _written(run.facts), reason,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return self.folder.name

    def facts(self) -> dict[str, Any]:
        """Returns its figures as plain data."""
        keys = ("variant", "seed", "value", "parameters", "tokens", "seconds", "flops", "reason")
        return {key: getattr(self, key) for key in keys}


def _written(facts: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Returns what a model wrote behind prompts, or what it predicted and what is right."""
    for key, first, second in (("samples", "prompt", "text"), ("predictions", "right", "predicted")):
        rows = facts.get(key)
        if isinstance(rows, list) and rows:
            gap = "" if key == "samples" else "\n"
            return tuple((str(one.get(first) or ""), gap + str(one.get(second) or "")) for one in rows)
    return ()


def write_comparison(
    folder: Path,
    recipe: ComparisonRecipe,
    standings: Standings | None,
    sentences: Sequence[str],
    trials: Sequence[Trial],
) -> Path:
    """Writes report.html of a comparison and returns its path.

    Raises:
        MissingResource: The folder cannot be written.
    """
    target = folder / REPORT
    atomic_write(target, render_comparison(recipe, standings, sentences, trials))
    return target


def render_comparison(
    recipe: ComparisonRecipe, standings: Standings | None, sentences: Sequence[str], trials: Sequence[Trial]
) -> str:
    """Returns the page of a comparison as HTML."""
    order = [one.name for one in standings.standings] if standings else list(recipe.variants)
    order += [name for name in recipe.variants if name not in order]
    colours = {name: f"v{list(recipe.variants).index(name) % MOST_COLOURS}" for name in recipe.variants}
    text = "".join(written for trial in trials for _, written in trial.samples)
    return render(
        "comparison.html",
        {
            "name": recipe.name,
            "language": "zh" if mostly_chinese(text) else "en",
            "sentences": sentences,
            "subtitle": _subtitle(recipe),
            "measure": standings.measure.replace("_", " ") if standings else "",
            "better": "lower" if standings and standings.lower_is_better else "higher",
            "signature": standings.signature if standings else "",
            "examples": f"{standings.examples:,}" if standings else "",
            "colours": colours,
            "order": order,
            "dots": _dots(standings, colours) if standings else "",
            "rows": [_row(name, standings, trials) for name in order],
            "pairs": [_pair_row(pair) for pair in standings.pairs] if standings else [],
            "charts": _charts(recipe, standings, trials, colours),
            "samples": _samples(order, trials),
            "samples_note": "Shaded: the prompt." if _on_text(standings) else "Shaded: what is right.",
            "targets": "tokens" if _on_text(standings) else "targets",
            "curve": _curve_key(standings, trials).replace("_", " "),
            "differences": [(name, _settings(recipe.variants[name])) for name in order],
            "base": _settings(recipe.base),
            "recipe": recipe.to_yaml(),
        },
    )


def _subtitle(recipe: ComparisonRecipe) -> str:
    budget = recipe.budget
    if budget.tokens is not None:
        spent = f"{human_count(budget.tokens)} training tokens"
    elif budget.seconds is not None:
        spent = f"{human_time(budget.seconds)} of training"
    elif budget.epochs is not None:
        spent = f"{budget.epochs:g} passes over the training records"
    else:
        spent = f"{human_count(budget.flops or 0)} floating-point operations of training"
    seeds = len(recipe.seeds)
    return f"{len(recipe.variants)} variants, {seeds} seed{'s' if seeds > 1 else ''}, {spent} each"


def _settings(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns nested settings as (dotted key, value)."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _settings(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", str(value)))
    return found


def _row(name: str, standings: Standings | None, trials: Sequence[Trial]) -> dict[str, str]:
    mine = [trial for trial in trials if trial.variant == name]
    done = [trial for trial in mine if not trial.reason]
    standing = next((one for one in standings.standings if one.name == name), None) if standings else None
    first = done[0] if done else None
    between = standing.interval if standing else None
    deviation = standing.seed_deviation if standing else None
    return {
        "name": name,
        "shape": first.shape if first else "",
        "value": f"{standing.mean:.4f}" if standing else "failed",
        "interval": f"{between[0]:.4f} to {between[1]:.4f}" if between else "–",
        "seeds": "counted" if standing and standing.fixed else f"{deviation:.4f}" if deviation is not None else "–",
        "text": f"{standing.example_error:.4f}" if standing else "–",
        "values": ", ".join(f"{value:.4f}" for value in standing.values)
        if standing
        else "; ".join(one.reason for one in mine),
        "parameters": human_count(first.parameters) if first and first.parameters else "–",
        "tokens": human_count(first.tokens) if first and first.tokens else "–",
        "seconds": human_time(mean_seconds(done)) if done else "–",
        "flops": human_count(first.flops) if first and first.flops else "–",
    }  # fmt: skip


def mean_seconds(trials: Sequence[Trial]) -> float:
    """Returns the mean time of training, 0 where none is known."""
    known = [trial.seconds for trial in trials if trial.seconds is not None]
    return sum(known) / len(known) if known else 0.0


def _pair_row(pair: Any) -> dict[str, str]:
    between = f"{pair.interval[0]:+.4f} to {pair.interval[1]:+.4f}" if pair.interval else "–"
    return {
        "better": pair.better,
        "worse": pair.worse,
        "difference": f"{pair.difference:+.4f}",
        "interval": between,
        "p": f"{pair.p_holm:.2g}" if pair.p_holm >= 0.001 else "< 0.001",
        "verdict": "told apart" if pair.told_apart else "not told apart",
    }


def _dots(standings: Standings, colours: dict[str, str]) -> str:
    """Draws the means with their intervals, and each seed's value: one line a variant."""
    shown = standings.standings
    values = [value for one in shown for value in (*one.values, *(one.interval or ()))]
    scale = Scale(*padded(values))
    left, width, high, top = 150, 760, 38, 8
    height = top + high * len(shown) + 34
    foot = top + high * len(shown)

    def across(value: float) -> float:
        return left + (width - left - 30) * scale(value)

    parts = []
    for tick in nice_ticks(scale.low, scale.high, 6):
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {top}V{foot}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{foot + 20}" text-anchor="middle">{short_number(tick)}</text>')
    for row, one in enumerate(shown):
        y = top + high * (row + 0.5)
        colour = colours[one.name]
        told = f"{one.name}: {one.mean:.4f}"
        if one.interval:
            told += f" ({one.interval[0]:.4f} to {one.interval[1]:.4f})"
            low, far = across(one.interval[0]), across(one.interval[1])
            parts.append(
                f'<path class="reach {colour}" d="M{low:.1f} {y}H{far:.1f}M{low:.1f} {y - 6}v12M{far:.1f} {y - 6}v12"/>'
            )
        parts.append(f'<text x="{left - 14}" y="{y + 5}" text-anchor="end">{html.escape(one.name[:20])}</text>')
        parts += [
            f'<circle class="seed {colour}" cx="{across(value):.1f}" cy="{y + 9}" r="2.6"/>' for value in one.values
        ]
        parts.append(
            f'<circle class="mean {colour}" cx="{across(one.mean):.1f}" cy="{y}" r="6">'
            f"<title>{html.escape(told)}</title></circle>"
        )
    label = f"Mean and interval of {len(shown)} variants"
    head = f'<svg class="dots" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    return f"{head}{''.join(parts)}</svg>"


def _charts(
    recipe: ComparisonRecipe, standings: Standings | None, trials: Sequence[Trial], colours: dict[str, str]
) -> list[tuple[str, Chart]]:
    """Returns the curves over tokens and over seconds."""
    key = _curve_key(standings, trials)
    falls = standings is None or key != standings.measure or standings.lower_is_better
    unit = "tokens" if _on_text(standings) else "targets"
    charts = [
        (f"over training {unit}", _curves(trials, colours, 0, unit, key, falls)),
        ("over seconds of training", _curves(trials, colours, 1, "seconds", key, falls)),
    ]
    if recipe.budget.seconds is not None:
        charts.reverse()
    return [(title, chart) for title, chart in charts if chart is not None]


def _on_text(standings: Standings | None) -> bool:
    """Tells whether language models are compared, for which every token is a target."""
    return standings is None or standings.measure == "bits_per_byte"


def _curve_key(standings: Standings | None, trials: Sequence[Trial]) -> str:
    """Returns the figure whose course is drawn: the measure that is compared where every validation has it."""
    wanted = [standings.measure] if standings else []
    for key in (*wanted, "bits_per_byte"):
        if all(key in figures for trial in trials for _, _, figures in trial.curve):
            return key
    return "loss"


def _curves(
    trials: Sequence[Trial], colours: dict[str, str], place: int, unit: str, key: str, falls: bool
) -> Chart | None:
    """Draws the validations of every run; a model that is counted is a level line.

    Args:
        trials: The runs.
        colours: Of the variants.
        place: Of the horizontal value in `Trial.curve`.
        unit: Its name.
        key: The figure to draw.
        falls: Lower is better: the few highest values are those of the beginning, for which the frame has no room.
    """
    trained = [trial for trial in trials if len({point[0] for point in trial.curve}) > 1]
    level = [trial for trial in trials if trial not in trained and trial.value is not None]
    if not trained:
        return None
    x = make_scale([(targets, seconds)[place] for trial in trained for targets, seconds, _ in trial.curve], "linear")
    lines: dict[str, list[Point]] = {}
    for trial in trained:
        lines[trial.name] = [((row[0], row[1])[place], row[2][key]) for row in trial.curve if key in row[2]]
    values = sorted(value for points in lines.values() for _, value in points)
    if not values:
        return None
    shown = values[: max(1, round(0.97 * len(values)))] if falls else values
    ends = [*shown, *(trial.value for trial in level if trial.value is not None)]
    y = Scale(*padded(ends))
    chart = frame(f"Validation over {unit}", x, y)
    chart.unit = unit
    for trial in level:
        assert trial.value is not None
        chart.lines.append(
            Line(f"level {colours[trial.variant]}", path([(x.low, trial.value), (x.high, trial.value)], x, y))
        )
    for trial in trained:
        chart.lines.append(Line(f"curve {colours[trial.variant]}", path(lines[trial.name], x, y)))
    chart.names = [trial.name for trial in trained]
    steps = sorted({step for points in lines.values() for step, _ in points})
    if place == 0 and len(steps) <= 400:
        known = {name: dict(points) for name, points in lines.items()}
        chart.points = [[step, *(known[name].get(step) for name in chart.names)] for step in steps]
    if values and values[-1] > y.high:
        chart.note = f"The first figures, up to {values[-1]:.3g}, lie above the frame."
    return chart


def _samples(order: Sequence[str], trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Returns what the first run of every variant wrote, side by side for each prompt."""
    firsts = {
        name: next((trial for trial in trials if trial.variant == name and trial.samples), None) for name in order
    }
    most = max((len(trial.samples) for trial in firsts.values() if trial), default=0)
    rows = []
    for place in range(min(most, 2)):
        texts = [
            {
                "name": name,
                "prompt": trial.samples[place][0],
                "text": trial.samples[place][1].removeprefix(trial.samples[place][0]),
            }
            for name, trial in firsts.items()
            if trial and place < len(trial.samples)
        ]
        rows.append({"texts": texts})
    return rows

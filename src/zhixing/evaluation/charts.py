"""Geometry of the report's charts: scales, ticks and paths, in coordinates that a stretched SVG can use.

A plot is a square of 1000 x 1000 that the page stretches to any width; labels, in percent of it, are HTML, so that they
stay legible on a telephone. How it looks is the template's and the style sheet's concern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

SIDE = 1000.0
"""Width and height of a plot in its own units."""

BINS = 360
"""Points of a line after thinning: about one for every two pixels on a wide screen."""

CLIFF = 0.05
"""Share of a run whose fall from the first loss may leave the linear frame."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Maps values to [0, 1]."""

    low: float
    high: float
    kind: Literal["linear", "log"] = "linear"

    def __call__(self, value: float) -> float:
        """Returns where a value lies between the ends."""
        if self.kind == "log":
            span = math.log(self.high / self.low)
            return math.log(max(value, self.low * 1e-3) / self.low) / span if span else 0.5
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in percent from the left or from the top."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A curve."""

    style: str
    path: str


@dataclass(frozen=True)
class Mark:
    """A point, or for events a vertical line, in percent from the left and the top."""

    style: str
    x: float
    y: float
    label: str


@dataclass
class Chart:
    """Everything the template needs to draw one plot.

    Attributes:
        label: What it shows, for readers that do not see it.
        axis: Kind of the horizontal axis.
        x: Its ends.
        y: The ends of the vertical axis.
        x_ticks: Labels below.
        y_ticks: Labels at the left.
        lines: Curves.
        marks: Points and events.
        points: What the pointer reads: [step, value of each curve ...].
        names: Names of those values.
        note: What a reader has to know about the frame.
        unit: What the horizontal axis counts, for the pointer.
    """

    label: str
    axis: Literal["linear", "log"]
    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    points: list[list[float | None]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    note: str = ""
    unit: str = "step"


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Returns round values within [low, high], about `wanted` of them, spaced by 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns the powers of ten within [low, high], with 2 and 5 times them when there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
        if len(ticks) >= 4:
            break
    return ticks or [low]


def short_number(value: float) -> str:
    """Formats a number for an axis: 12000 -> '12k', 0.25 -> '0.25'."""
    size = abs(value)
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            unit = 1e3 if suffix == "k" else limit
            return f"{value / unit:.4g}{suffix}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def percent(value: float) -> str:
    """Formats a share: 0.61 -> '61 %'."""
    return f"{100 * value:.3g} %"


def smooth(points: Sequence[Point], share: float = 0.015) -> list[Point]:
    """Returns the mean over a window around every point, `share` of all points to each side; free of lag.

    At the beginning, where the loss falls fast, the window is as narrow as the way to the first point; at the end it
    reaches back only.
    """
    if len(points) < 25:
        return list(points)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    widest = max(2, round(len(points) * share))
    result: list[Point] = []
    for index, (x, _) in enumerate(points):
        half = min(widest, index // 2)
        low, high = index - half, min(len(points), index + half + 1)
        result.append((x, (sums[high] - sums[low]) / (high - low)))
    return result


def thin(points: Sequence[Point], scale: Scale, bins: int = BINS) -> list[Point]:
    """Keeps, of the points that fall into one narrow column of the plot, the lowest and the highest."""
    if len(points) <= 2 * bins:
        return list(points)
    kept: list[Point] = []
    column: list[Point] = []
    place = -1
    for point in points:
        bin_of = int(scale(point[0]) * bins)
        if bin_of != place and column:
            kept += _extremes(column)
            column = []
        place = bin_of
        column.append(point)
    return kept + _extremes(column)


def _extremes(column: list[Point]) -> list[Point]:
    low, high = min(column, key=lambda point: point[1]), max(column, key=lambda point: point[1])
    return sorted({low, high})


def path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    """Returns an SVG path; one point alone becomes a dot (a line of no length, drawn by its round ends)."""
    if not points:
        return ""
    places = [f"{SIDE * x(px):.1f} {SIDE * (1 - y(py)):.1f}" for px, py in points]
    return f"M{places[0]}h0" if len(places) == 1 else "M" + "L".join(places)


def padded(values: Sequence[float], *, zero: bool = False, top: float | None = None) -> tuple[float, float]:
    """Returns the ends of a vertical axis: a little beyond the values, from zero if asked."""
    low, high = min(values), max(values)
    if zero:
        low = min(0.0, low)
    if high <= low:
        space = abs(high) * 0.1 or 1.0
        return (low if zero else low - space), high + space
    space = (high - low) * 0.06
    high = high + space
    return (low if zero else low - space), (min(high, top) if top is not None else high)


def make_scale(steps: Sequence[float], axis: Literal["linear", "log"]) -> Scale:
    """Returns the horizontal axis: from the first step (linear: from zero) to the last."""
    low, high = min(steps), max(steps)
    if axis == "log":
        low = max(low, 1.0)
        return Scale(low, max(high, low * 2), "log")
    return Scale(0.0, max(high if high > low else 2 * high, 1.0))


def frame(
    label: str,
    x: Scale,
    y: Scale,
    *,
    x_wanted: int = 6,
    y_wanted: int = 5,
    y_format: Callable[[float], str] = short_number,
) -> Chart:
    """Returns an empty chart with its axes."""
    at_x = log_ticks(x.low, x.high) if x.kind == "log" else nice_ticks(x.low, x.high, x_wanted)
    at_x = [step for step in at_x if step == round(step)]
    return Chart(
        label=label,
        axis=x.kind,
        x=(x.low, x.high),
        y=(y.low, y.high),
        x_ticks=[Tick(100 * x(value), short_number(value)) for value in at_x],
        y_ticks=[Tick(100 * (1 - y(value)), y_format(value)) for value in nice_ticks(y.low, y.high, y_wanted)],
    )


def small_chart(
    label: str,
    name: str,
    points: Sequence[Point],
    *,
    zero: bool = True,
    top: float | None = None,
    y_format: Callable[[float], str] = short_number,
    robust: bool = False,
) -> Chart | None:
    """Returns a chart of one curve over steps, or None when there is nothing to draw.

    Args:
        label: For readers that do not see it.
        name: Name of the value.
        points: (step, value).
        zero: Let the axis begin at zero.
        top: Never let the axis go beyond this.
        y_format: Format of the labels.
        robust: Let a few extreme values leave the frame (and say so), so that the rest can be seen.
    """
    if not points:
        return None
    values = sorted(value for _, value in points)
    shown = values[: max(1, math.ceil(0.98 * len(values)))] if robust and len(values) >= 50 else values
    ends = padded(shown, zero=zero, top=top)
    if shown is not values and values[-1] <= 1.5 * ends[1]:
        ends = padded(values, zero=zero, top=top)
    x, y = make_scale([step for step, _ in points], "linear"), Scale(*ends)
    chart = frame(label, x, y, x_wanted=4, y_wanted=4, y_format=y_format)
    if beyond := sum(value > ends[1] for value in values):
        chart.note = f"{beyond} value(s) up to {y_format(values[-1])} lie above the frame"
    chart.lines = [Line("main", path(thin(points, x), x, y))]
    chart.points = [[step, value] for step, value in thin(points, x)]
    chart.names = [name]
    return chart


def loss_chart(
    train: Sequence[Point],
    validation: Sequence[tuple[float, float, float | None]],
    best: Point | None,
    events: Sequence[tuple[float, str]],
    axis: Literal["linear", "log"],
) -> Chart | None:
    """Returns the loss over steps, or None when there is no loss.

    Args:
        train: (step, loss).
        validation: (step, loss, bits per byte or None).
        best: (step, loss) of the best validation; one that another measure chose is called the published one.
        events: (step, name) to mark.
        axis: Kind of the horizontal axis.
    """
    measured = [(step, loss) for step, loss, _ in validation]
    everything = [*train, *measured]
    if not everything:
        return None
    steps = [step for step, _ in everything]
    x = make_scale(steps, axis)
    smoothed = smooth(train)
    ends = padded([loss for _, loss in everything])
    note = ""
    if axis == "linear" and len(train) >= 50:
        # The first moments are a cliff; without them the rest of the curve has the frame for itself.
        later = [loss for step, loss in [*smoothed, *measured] if step >= CLIFF * max(steps)]
        close = padded(later)
        spread = max(loss for step, loss in train if step >= CLIFF * max(steps)) + 0.1 * (close[1] - close[0])
        low = min(ends[0], close[0])
        if ends[1] - low > 1.25 * (min(spread, ends[1]) - low):
            high = max(close[1], spread)
            note = f"The first losses, from {train[0][1]:.2f}, lie above the frame; the logarithmic axis shows them."
            ends = (low, high)
    y = Scale(*ends)
    chart = frame("Training and validation loss over steps", x, y)
    chart.note = note
    if len(train) >= 25:
        chart.lines.append(Line("raw", path(thin(train, x), x, y)))
    chart.lines.append(Line("train", path(thin(smoothed, x), x, y)))
    chart.lines.append(Line("validation", path(measured, x, y)))
    for step, name in events:
        if x.low <= step <= x.high:
            chart.marks.append(Mark("event", 100 * x(step), 0.0, name))
    for step, loss, bits in validation:
        text = f"validation at step {step:,.0f}: {loss:.4f} nats" + (f", {bits:.4f} bits per byte" if bits else "")
        if y.low <= loss <= y.high:
            chart.marks.append(Mark("point", 100 * x(step), 100 * (1 - y(loss)), text))
    lowest = min((loss for _, loss in measured), default=math.inf)
    name = "best" if best is None or best[1] <= lowest else "published"
    if best is not None and x.low <= best[0] <= x.high and y.low <= best[1] <= y.high:
        chart.marks.append(Mark("best", 100 * x(best[0]), 100 * (1 - y(best[1])), f"{name}: {best[1]:.4f}"))
    chart.points = _readings(train, smoothed, validation, x)
    chart.names = ["train", "smoothed", "validation", "bits per byte"]
    return chart


def _readings(
    train: Sequence[Point],
    smoothed: Sequence[Point],
    validation: Sequence[tuple[float, float, float | None]],
    x: Scale,
) -> list[list[float | None]]:
    """Returns the rows that the pointer reads, thinned but for the validations."""
    rows: dict[float, list[float | None]] = {}
    last = -1
    for (step, loss), (_, mean) in zip(train, smoothed, strict=True):
        place = int(x(step) * BINS)
        if place != last or len(train) <= BINS:
            rows[step] = [step, round(loss, 5), round(mean, 5), None, None]
        last = place
    for step, loss, bits in validation:
        row = rows.setdefault(step, [step, None, None, None, None])
        row[3], row[4] = round(loss, 5), None if bits is None else round(bits, 5)
    return [rows[step] for step in sorted(rows)]

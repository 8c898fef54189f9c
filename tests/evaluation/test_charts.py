import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.evaluation.charts import (
    BINS,
    Chart,
    Scale,
    log_ticks,
    loss_chart,
    nice_ticks,
    path,
    short_number,
    small_chart,
    smooth,
    thin,
)
from zhixing.evaluation.comparison_report import Trial, _curves

numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(numbers, numbers, st.integers(1, 10))
def test_ticks_are_round_evenly_spaced_and_inside(one: float, other: float, wanted: int) -> None:
    low, high = sorted((one, other))
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-3):
        return
    ticks = nice_ticks(low, high, wanted)
    assert 0 < len(ticks) <= wanted + 1 or wanted == 1
    step = (high - low) / 1e6
    assert all(low - step <= tick <= high + step for tick in ticks)
    for first, second in pairwise(ticks):
        mantissa = float(f"{second - first:.3e}".split("e")[0])
        assert mantissa in (1, 2, 5)


@given(st.floats(1, 1e6), st.floats(1.5, 1e6))
def test_log_ticks_are_inside(low: float, times: float) -> None:
    ticks = log_ticks(low, low * times)
    assert ticks
    assert ticks == [low] or all(low * 0.99 <= tick <= low * times * 1.01 for tick in ticks)
    assert len(ticks) <= 14


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (1234, "1,234"), (12_000, "12k"), (2_500_000, "2.5M"), (0.0002, "2e-4"), (-3, "-3")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short_number(value) == text


def test_smoothing_keeps_lines_straight_and_lowers_noise() -> None:
    line = [(step, 10.0 - 0.01 * step) for step in range(400)]
    for (_, smoothed), (_, exact) in list(zip(smooth(line), line, strict=True))[:390]:
        assert smoothed == pytest.approx(exact)
    noise = [(step, (-1.0) ** step) for step in range(400)]
    assert max(abs(value) for _, value in smooth(noise)[10:]) < 0.2
    assert smooth(noise[:10]) == noise[:10]


def test_thinning_keeps_the_extremes() -> None:
    points = [(step, math.sin(step / 50)) for step in range(50_000)]
    points[31_234] = (31_234, 99.0)
    points[123] = (123, -99.0)
    kept = thin(points, Scale(0, 50_000))
    assert len(kept) <= 2 * BINS + 2
    assert (31_234, 99.0) in kept
    assert (123, -99.0) in kept
    assert kept == sorted(kept)


def test_a_path_goes_up_where_values_go_up() -> None:
    assert path([(0, 0), (10, 1)], Scale(0, 10), Scale(0, 1)) == "M0.0 1000.0L1000.0 0.0"
    assert path([(5, 1)], Scale(0, 10), Scale(0, 1)) == "M500.0 0.0h0"
    assert path([], Scale(0, 1), Scale(0, 1)) == ""


def coordinates(chart: Chart, style: str) -> list[float]:
    (line,) = [line for line in chart.lines if line.style == style]
    return [float(number) for number in re.findall(r"-?\d+\.\d", line.path)]


def test_the_loss_chart_lets_only_the_first_fall_leave_the_frame() -> None:
    train = [(step, 2.0 + 8.0 * math.exp(-step / 5)) for step in range(1, 501)]
    validation = [(250.0, 2.1, 0.9), (500.0, 2.05, 0.8)]
    linear = loss_chart(train, validation, (500.0, 2.05), [(300.0, "resumed")], "linear")
    log = loss_chart(train, validation, (500.0, 2.05), [(300.0, "resumed")], "log")
    assert linear is not None
    assert log is not None
    assert linear.y[1] < 5 < log.y[1]
    assert "from 8.55" in linear.note
    assert log.note == ""
    late = coordinates(linear, "train")[2 * 50 :]
    assert all(-0.1 <= value <= 1000.1 for value in late)
    for chart in (linear, log):
        assert [mark.style for mark in chart.marks] == ["event", "point", "point", "best"]
        assert all(0 <= mark.x <= 100 and 0 <= mark.y <= 100 for mark in chart.marks)
        assert [row for row in chart.points if row[3] is not None][-1][3:] == [2.05, 0.8]
    assert linear.marks[0].x == pytest.approx(60)
    assert linear.marks[-1].label == "best: 2.0500"
    by_another_measure = loss_chart(train, validation, (250.0, 2.1), [], "linear")
    assert by_another_measure is not None
    assert by_another_measure.marks[-1].label == "published: 2.1000"


@pytest.mark.parametrize("axis", ["linear", "log"])
def test_few_points(axis: str) -> None:
    assert loss_chart([], [], None, [], axis) is None  # type: ignore[arg-type]
    one = loss_chart([(0, 2.0)], [], None, [], axis)  # type: ignore[arg-type]
    assert one is not None
    assert one.y[0] < 2.0 < one.y[1]
    only_validation = loss_chart([], [(5.0, 2.0, None)], None, [], axis)  # type: ignore[arg-type]
    assert only_validation is not None
    assert only_validation.points == [[5.0, None, None, 2.0, None]]


def test_a_few_extreme_values_leave_the_frame_and_are_counted() -> None:
    points = [(step, 1.0) for step in range(200)]
    points[100] = (100, 500.0)
    chart = small_chart("norm", "norm", points, robust=True)
    assert chart is not None
    assert chart.y[1] < 2
    assert chart.note == "1 value(s) up to 500 lie above the frame"
    plain = small_chart("norm", "norm", points)
    assert plain is not None
    assert plain.y[1] > 500
    assert small_chart("norm", "norm", []) is None


@pytest.mark.parametrize(("falls", "cut"), [(True, True), (False, False)])
def test_a_comparison_cuts_only_first_losses_never_the_best_figures(falls: bool, cut: bool) -> None:
    course = [float(value) for value in range(60)] + [500.0]
    figures = [(step, float(step), {"bleu": value}) for step, value in enumerate(reversed(course) if falls else course)]
    trial = Trial("a", 0, Path("a"), curve=tuple(figures))
    chart = _curves([trial], {"a": "0"}, 0, "targets", "bleu", falls)
    assert chart is not None
    assert bool(chart.note) == cut

"""Pictures of measures for the report: the confusion matrix and the calibration curve, as SVG that stands in a page.

Colours are the custom properties of the report's style sheet, with the same colours as fallbacks, so that the pictures
follow its light and dark form and can stand alone. Scales and ticks are those of `evaluation.charts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from zhixing.core.errors import BadInput
from zhixing.evaluation.charts import Scale, nice_ticks, percent, short_number
from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.metrics.calibration import Bin

MOST_CLASSES = 20
"""Classes that a picture can show; those with the most errors come first, the rest share one row."""
SIDE = 360
"""Side of the calibration curve."""

INK, SOFT, FAINT = "var(--ink, #1d1b18)", "var(--soft, #6b655c)", "var(--faint, #8c8578)"
RULE, SHEET = "var(--rule, #e5e0d5)", "var(--sheet, #fffefb)"
BLUE, SEAL = "var(--blue, #24566f)", "var(--seal, #c23b22)"
FONT = "var(--sans, ui-sans-serif, system-ui, sans-serif)"

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """Examples of one class that were taken for another.

    Attributes:
        true: The class.
        predicted: What it was taken for.
        count: How often.
        share: Of the examples of that class.
    """

    true: str
    predicted: str
    count: int
    share: float


def most_confused(matrix: Counts, labels: Sequence[Any], count: int = 10) -> list[Confusion]:
    """Returns the most frequent confusions, the worst first.

    Args:
        matrix: As `classification.confusion_matrix` counts it, (true, predicted).
        labels: The classes, in the order of its rows.
        count: How many to return at most.
    """
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    totals = matrix.sum(axis=1)
    found = []
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:count].tolist():
        row, column = divmod(cell, len(labels))
        if wrong[row, column]:
            share = float(wrong[row, column] / totals[row])
            found.append(Confusion(str(labels[row]), str(labels[column]), int(wrong[row, column]), share))
    return found


def shortened(matrix: Counts, labels: Sequence[Any], most: int = MOST_CLASSES) -> tuple[Counts, list[str]]:
    """Keeps the classes with the most errors, in their order, and adds all others up in a last one.

    Raises:
        BadInput: There are not as many labels as rows.
    """
    if matrix.shape != (len(labels), len(labels)):
        raise BadInput(f"a confusion matrix of {matrix.shape} does not fit {len(labels)} class(es)")
    names = [str(label) for label in labels]
    if len(names) <= most:
        return matrix, names
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    kept = np.sort(np.argsort(-errors, kind="stable")[: most - 1])
    group = np.full(len(names), most - 1)
    group[kept] = np.arange(most - 1)
    small = np.zeros((most, most), dtype=np.int64)
    np.add.at(small, (group[:, None], group[None, :]), matrix)
    return small, [*(names[k] for k in kept.tolist()), f"{len(names) - most + 1} others"]


def confusion_svg(matrix: Counts, labels: Sequence[Any], *, most: int = MOST_CLASSES) -> str:
    """Draws a confusion matrix: a row for each class, shaded by the share of its examples.

    Args:
        matrix: As `classification.confusion_matrix` counts it, (true, predicted).
        labels: The classes, in the order of its rows.
        most: Classes to show; of more, those with the most errors, and the rest together.

    Returns:
        An `<svg>` element; texts are escaped.

    Raises:
        BadInput: There are not as many labels as rows, or none.
    """
    small, names = shortened(matrix, labels, most)
    n = len(names)
    if not n:
        raise BadInput("there is no class to draw")
    cell = 80 if n <= 4 else 44 if n <= 10 else 32
    left = 28 + max(40, min(150, 8 * max(map(_width, names))))
    top = 26 + max(24, min(110, 6 * max(map(_width, names))))
    width, height = left + n * cell + top - 20, top + n * cell + 10
    parts = [_text(left + n * cell / 2, 14, "predicted", fill=SOFT, anchor="middle")]
    parts.append(_text(12, top + n * cell / 2, "true", fill=SOFT, anchor="middle", turn=-90))
    totals = np.maximum(small.sum(axis=1), 1)
    for row, name in enumerate(names):
        parts.append(_text(left - 8, top + (row + 0.5) * cell + 4, _cut(name), anchor="end"))
        parts.append(_text(left + (row + 0.5) * cell - 2, top - 8, _cut(name), turn=-40))
        for column, other in enumerate(names):
            count, share = int(small[row, column]), float(small[row, column] / totals[row])
            x, y = left + column * cell, top + row * cell
            colour = BLUE if row == column else SEAL
            told = f"{name} taken for {other}: {count:,} of {int(small[row].sum()):,} ({percent(share)})"
            parts.append(
                f'<g><title>{escape(told)}</title><rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" '
                f'rx="3" fill="{RULE}" fill-opacity=".35"/>'
                f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" rx="3" fill="{colour}" '
                f'fill-opacity="{0 if not count else 0.12 + 0.88 * share:.3f}"/>'
            )
            if count:
                ink = SHEET if share > 0.5 else INK
                parts.append(_text(x + cell / 2, y + cell / 2 + 4, short_number(count), fill=ink, anchor="middle"))
            parts.append("</g>")
    right, total = int(np.diag(small).sum()), int(small.sum())
    told = f"Confusion matrix of {len(labels)} classes: {right:,} of {total:,} right"
    if n < len(labels):  # what is confused among the others must not count as right
        told = f"Confusion matrix: the {n - 1} classes with the most errors of {len(labels)}"
    return _svg(width, height, told, parts, "confusion")


def calibration_svg(score: Score) -> str:
    """Draws how often predictions are right against how sure they are, with the number of predictions below.

    Args:
        score: What `calibration.calibration` returned.

    Returns:
        An `<svg>` element.

    Raises:
        BadInput: The score has no bins.
    """
    if "bins" not in score.details:
        raise BadInput(f"{score.name} has no bins of confidence to draw")
    bins = [Bin(**one) for one in score.details["bins"]]
    left, top, low = 52, 14, 70
    scale = Scale(0.0, 1.0)

    def across(value: float) -> float:
        return left + SIDE * scale(value)

    def down(value: float) -> float:
        return top + SIDE * (1 - scale(value))

    parts = []
    for tick in nice_ticks(0.0, 1.0, 5):
        parts.append(f'<path d="M{left} {down(tick):.1f}h{SIDE}" stroke="{RULE}" fill="none"/>')
        parts.append(_text(left - 8, down(tick) + 4, percent(tick), fill=FAINT, anchor="end"))
        parts.append(_text(across(tick), top + SIDE + low + 18, percent(tick), fill=FAINT, anchor="middle"))
    filled = [one for one in bins if one.count]
    most = max((one.count for one in filled), default=1)
    for one in filled:
        wide = SIDE * (one.high - one.low)
        told = (
            f"confidence {percent(one.low)} to {percent(one.high)}: {one.count:,} predictions, "
            f"{percent(one.accuracy)} right, {percent(one.confidence)} expected"
        )
        gap = abs(one.accuracy - one.confidence) * SIDE
        tall = max(1.0, (low - 16) * one.count / most)
        parts.append(
            f"<g><title>{escape(told)}</title>"
            f'<rect x="{across(one.low) + 1:.1f}" y="{down(one.accuracy):.1f}" width="{wide - 2:.1f}" '
            f'height="{SIDE * one.accuracy:.1f}" fill="{BLUE}" fill-opacity=".55"/>'
            f'<rect x="{across(one.low) + 1:.1f}" y="{down(max(one.accuracy, one.confidence)):.1f}" '
            f'width="{wide - 2:.1f}" height="{gap:.1f}" fill="{SEAL}" fill-opacity=".3"/>'
            f'<rect x="{across(one.low) + 1:.1f}" y="{top + SIDE + low - tall:.1f}" width="{wide - 2:.1f}" '
            f'height="{tall:.1f}" fill="{FAINT}" fill-opacity=".6"/></g>'
        )
    parts.append(
        f'<path d="M{left} {top + SIDE}L{left + SIDE} {top}" stroke="{SEAL}" stroke-width="1.4" '
        'stroke-dasharray="5 5" fill="none"/>'
    )
    parts.append(
        f'<path d="M{left} {top + SIDE}h{SIDE}M{left} {top + SIDE + low}h{SIDE}" stroke="{FAINT}" fill="none"/>'
    )
    parts.append(_text(14, top + SIDE / 2, "right", fill=SOFT, anchor="middle", turn=-90))
    parts.append(_text(14, top + SIDE + low / 2, "number", fill=SOFT, anchor="middle", turn=-90))
    parts.append(_text(left + SIDE / 2, top + SIDE + low + 38, "confidence", fill=SOFT, anchor="middle"))
    told = f"Calibration: expected error {score.value:.3f}, {percent(score.details['accuracy'])} right"
    return _svg(left + SIDE + 24, top + SIDE + low + 48, told, parts, "calibration")


def _svg(width: float, height: float, label: str, parts: Sequence[str], style: str) -> str:
    return (
        f'<svg class="{style}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg" style="max-width:{width:.0f}px;width:100%" font-size="12" '
        f'font-family="{FONT}">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, *, fill: str = INK, anchor: str = "start", turn: int = 0) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'


def _width(text: str) -> int:
    """Returns the width of a text in half characters: Chinese ones are twice as wide."""
    return sum(2 if ord(character) > 0x2E7F else 1 for character in text)


def _cut(text: str, width: int = 18) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"

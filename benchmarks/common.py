"""The one form of all benchmarks: a table for people, or one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Attributes:
        name: What was measured.
        value: The figure.
        unit: Its unit.
        peer: Whom it is compared with, or None.
        peer_value: The peer's figure.
        ratio: How many times better than the peer, above 1 is better; None without a peer.
        roof_share: Share of what the machine could do at most; None when no roof was measured.
        runs: The single values that `value` was taken from.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    roof_share: float | None = None
    runs: list[float] = field(default_factory=list)


def report(measurements: Sequence[Measurement], as_json: bool) -> None:
    """Prints the measurements."""
    if as_json:
        for measurement in measurements:
            print(json.dumps(asdict(measurement), ensure_ascii=False))
        return
    header = ("measured", "value", "unit", "peer", "its value", "ratio", "of roof")
    rows = [header] + [
        (
            item.name, f"{item.value:.4g}", item.unit, item.peer or "-",
            "-" if item.peer_value is None else f"{item.peer_value:.4g}",
            "-" if item.ratio is None else f"{item.ratio:.2f}x",
            "-" if item.roof_share is None else f"{item.roof_share:.0%}",
        )
        for item in measurements
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

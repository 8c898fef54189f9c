"""The one form of all benchmarks: a table for people, or one JSON object a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


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


class Peer:
    """A peer in a process of its own: orders and answers are JSON objects, one a line.

    Args:
        python: The Python that has the peer.
        script: The file in this folder that runs it.
        arguments: What the script is called with.
        threads: Threads that the peer may use.
    """

    def __init__(self, python: str, script: str, arguments: Sequence[str], threads: int) -> None:
        path = str(Path(__file__).with_name(script))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [python, path, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the peer ended before it answered; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __call__(self, order: dict[str, Any]) -> dict[str, Any]:
        """Sends an order; returns what the peer answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the peer."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


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

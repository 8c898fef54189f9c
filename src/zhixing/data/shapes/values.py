"""What a column without a known name holds, told by its values: running text, labels, numbers, always the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MOST_LABELS = 300
LONGEST_LABEL = 60

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?$")


@dataclass(frozen=True)
class Column:
    """A column by its values.

    Attributes:
        name: Its name or number.
        kind: label: few values that come again; number: numbers that do not; constant: always the same.
        different: How many different values were seen.
        described: The finding in words.
    """

    name: str
    kind: Literal["text", "label", "number", "constant", "empty"]
    different: int
    described: str


def look_at(name: str, values: Sequence[str]) -> Column:
    """Tells what the values of a column are."""
    filled = [value.strip() for value in values if value.strip()]
    different = len(set(filled))
    if not filled:
        return Column(name, "empty", 0, f"column {name} is empty")
    if different == 1 and len(filled) > 2:
        return Column(name, "constant", 1, f"column {name} is always {filled[0][:30]!r}")
    longest = max(map(len, filled))
    repeated = different <= max(2, len(filled) / 4)
    if longest <= LONGEST_LABEL and different <= MOST_LABELS and repeated:
        shown = ", ".join(sorted(set(filled))[:3]) + (", ..." if different > 3 else "")
        return Column(name, "label", different, f"column {name} holds {different} labels ({shown})")
    if all(_NUMBER.match(value) for value in filled):
        return Column(name, "number", different, f"column {name} holds numbers")
    return Column(name, "text", different, f"column {name} holds text")

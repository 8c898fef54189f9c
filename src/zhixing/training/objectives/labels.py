"""The labels of a task: collected from the training records, fixed, and looked up with a message that helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from zhixing.core.errors import BadInput, nearest
from zhixing.data.shapes.records import Misfit, brief

MOST_LABELS = 10_000
SHOWN = 12


class Labels:
    """Labels by number.

    Args:
        fixed: The labels in order, where the recipe names them; else they are those that are observed.
    """

    def __init__(self, fixed: Sequence[str] | None = None) -> None:
        self.names: tuple[str, ...] = tuple(fixed or ())
        self.counts: Counter[str] = Counter()
        self._seen: set[str] = set()  # also in records that are held out by the hash of their content
        self._settled = bool(fixed)
        self._index = {name: number for number, name in enumerate(self.names)}
        if len(self._index) < len(self.names):
            raise BadInput("a label is named twice", where="task.labels", remedy="name each label once")

    def observe(self, name: str, held_out: bool = False) -> None:
        """Counts a label of a record.

        Raises:
            Misfit: It is not one of the labels.
        """
        if self._settled:
            self.number(name)
        elif len(self._seen) > MOST_LABELS:
            raise Misfit(
                f"the label {brief(name)} is the {MOST_LABELS + 1:,}th: these are not labels",
                "name the column that holds them: --set data.columns={label: NAME}",
            )
        self._seen.add(name)
        if not held_out:
            self.counts[name] += 1

    def settle(self, names: Iterable[str] | None = None) -> None:
        """Fixes the labels: those given, or those that were observed, numbers in their order and texts sorted."""
        if not self._settled or names is not None:
            self.names = tuple(sorted(self._seen, key=_order) if names is None else names)
            self._index = {name: number for number, name in enumerate(self.names)}
            self._settled = True

    def number(self, name: str) -> int:
        """Returns a label's number.

        Raises:
            Misfit: It is not one of the labels.
        """
        found = self._index.get(name)
        if found is None:
            guess = nearest(name, self.names)
            shown = ", ".join(self.names[:SHOWN]) + (", ..." if len(self.names) > SHOWN else "")
            raise Misfit(
                f"unknown label {brief(name)}",
                f"{f'did you mean {guess}? ' if guess else ''}the labels are {shown}",
            )
        return found

    def __len__(self) -> int:
        return len(self.names)


def _order(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name

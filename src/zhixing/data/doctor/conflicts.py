"""Contradictions between records: one answer preferred to another and the other way round, one text with two labels."""

from __future__ import annotations

from collections.abc import Iterator

from zhixing.data.doctor.fields import said
from zhixing.data.doctor.likeness import fingerprint
from zhixing.data.shapes.records import Labelled, Preference, Record, Tagged, UnpairedPreference


class Conflicts:
    """Remembers what every record says of its text, and finds those that disagree."""

    def __init__(self) -> None:
        self._said: dict[bytes, list[tuple[int, bytes]]] = {}
        self._better: dict[bytes, list[tuple[bytes, bytes, int]]] = {}

    def add(self, record: Record, number: int) -> None:
        """Remembers a record."""
        if isinstance(record, Preference):
            prompt, chosen, rejected = (
                fingerprint("\n".join(said(part))) for part in (record.prompt, record.chosen, record.rejected)
            )
            self._better.setdefault(prompt, []).append((chosen, rejected, number))
        for key, verdict in _verdicts(record):
            self._said.setdefault(key, []).append((number, verdict))

    def groups(self) -> list[list[int]]:
        """Returns the numbers of records that contradict each other, group by group."""
        return [
            sorted({number for number, _ in entries})
            for entries in self._said.values()
            if len({verdict for _, verdict in entries}) > 1
        ] + [group for pairs in self._better.values() if len(pairs) > 1 for group in _circles(pairs)]


def _circles(pairs: list[tuple[bytes, bytes, int]]) -> Iterator[list[int]]:
    """Yields the numbers of preferences that lead in a circle, so that an answer would be better than itself.

    Two that say the opposite of each other are such a circle too.
    """
    below: dict[bytes, set[bytes]] = {}
    for chosen, rejected, _ in pairs:
        below.setdefault(chosen, set()).add(rejected)

    def reached(start: bytes) -> set[bytes]:
        seen, waiting = set(), [start]
        while waiting:
            for one in below.get(waiting.pop(), ()):
                if one not in seen:
                    seen.add(one)
                    waiting.append(one)
        return seen

    reach = {answer: reached(answer) for answer in below}
    rounds: dict[frozenset[bytes], list[int]] = {}
    for chosen, rejected, number in pairs:
        if chosen in reach.get(rejected, ()):
            rounds.setdefault(frozenset(reach[chosen] & {a for a in reach if chosen in reach[a]}), []).append(number)
    yield from (sorted(numbers) for numbers in rounds.values())


def _verdicts(record: Record) -> Iterator[tuple[bytes, bytes]]:
    """Yields what a record is about, and what it says of it."""
    if isinstance(record, UnpairedPreference):
        yield fingerprint(*said(record.prompt), "\0", *said(record.completion)), b"1" if record.good else b"0"
    elif isinstance(record, Tagged):
        yield fingerprint(*record.tokens), fingerprint(*record.tags)
    elif isinstance(record, Labelled):
        # Another way of writing a label is a fault of its own, and no other verdict.
        labels = (record.label,) if isinstance(record.label, str) else record.label
        meant = sorted(" ".join(label.casefold().split()) for label in labels)
        yield fingerprint(record.text, record.second or ""), fingerprint(*meant)

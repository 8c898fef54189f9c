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

    def add(self, record: Record, number: int) -> None:
        """Remembers a record."""
        for key, verdict in _verdicts(record):
            self._said.setdefault(key, []).append((number, verdict))

    def groups(self) -> list[list[int]]:
        """Returns the numbers of records that contradict each other, group by group."""
        return [
            sorted({number for number, _ in entries})
            for entries in self._said.values()
            if len({verdict for _, verdict in entries}) > 1
        ]


def _verdicts(record: Record) -> Iterator[tuple[bytes, bytes]]:
    """Yields what a record is about, and what it says of it."""
    if isinstance(record, Preference):
        prompt, chosen, rejected = ("\n".join(said(part)) for part in (record.prompt, record.chosen, record.rejected))
        pair = sorted((fingerprint(chosen), fingerprint(rejected)))
        yield fingerprint(prompt) + pair[0] + pair[1], fingerprint(chosen)
    elif isinstance(record, UnpairedPreference):
        yield fingerprint(*said(record.prompt), "\0", *said(record.completion)), b"1" if record.good else b"0"
    elif isinstance(record, Tagged):
        yield fingerprint(*record.tokens), fingerprint(*record.tags)
    elif isinstance(record, Labelled):
        labels = (record.label,) if isinstance(record.label, str) else tuple(sorted(record.label))
        yield fingerprint(record.text, record.second or ""), fingerprint(*labels)

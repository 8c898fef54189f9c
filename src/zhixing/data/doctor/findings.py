"""What the doctor can find: the kinds of faults, with what is done about each, and findings with their places."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        title: What it is, as a heading.
        mend: What the mended copy does about it; "" when nothing, because only a person can.
    """

    title: str
    mend: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind("files that cannot be read", ""),
    "shape": Kind("files whose shape cannot be told", ""),
    "json": Kind("broken JSON", "slips such as a comma too many are mended, other lines left out"),
    "table": Kind("broken rows of a table", "left out"),
    "encoding": Kind("text in another encoding than UTF-8", "written in UTF-8"),
    "mojibake": Kind("UTF-8 that was read as another encoding (Ã© for é)", "turned back"),
    "control": Kind("characters that no text holds (NUL, control characters, byte-order marks)", "removed"),
    "entity": Kind("HTML entities in plain text (&amp; for &)", "turned back"),
    "lost": Kind("characters that were lost before (U+FFFD)", ""),
    "special": Kind("special tokens of a model inside the text", "removed at the ends of a text"),
    "placeholder": Kind("placeholders that were not filled in", ""),
    "misfit": Kind("records that do not fit their shape", "left out"),
    "empty": Kind("empty questions, answers and texts", "left out"),
    "role": Kind("misspelled roles of turns", "written right"),
    "missing_turn": Kind("missing turns of a conversation", "cut before the gap, or left out"),
    "repeated_turn": Kind("turns of the same speaker in a row", "a repetition is removed, other turns are joined"),
    "turn_order": Kind("turns in the wrong place", "the system's turn is moved to the beginning; others are left out"),
    "offset": Kind("answers that stand elsewhere in the text", "their place is corrected"),
    "tag": Kind("entities that begin with I in a BIO file", "written with B"),
    "label": Kind("labels written in several ways", "written in the most frequent way"),
    "same": Kind("source and target that are the same", "left out"),
    "contradiction": Kind("contradictions: the same text judged or labelled differently", "all of them left out"),
    "duplicate": Kind("exact duplicates", "the first is kept"),
    "id": Kind("ids that come again, where almost every record has its own", ""),
    "near_duplicate": Kind("near duplicates", "the first is kept"),
    "long": Kind("over-long records", "conversations are cut after the last exchange that fits, others left out"),
    "personal": Kind("likely personal data", "replaced by <email>, <phone>, ..."),
    "overlap": Kind("overlap with the evaluation set", "left out"),
}
"""Every kind of fault, in the order in which they are shown."""


class Finding(NamedTuple):
    """A fault, where it stands, and what would mend it."""

    kind: str
    source: str
    line: int | None
    message: str
    mend: str = ""

    @property
    def place(self) -> str:
        """`file:line`."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


class Flaw(NamedTuple):
    """A fault within a row, before its place is known."""

    kind: str
    message: str
    mend: str = ""


@dataclass
class Findings:
    """All that was found; memory is bounded by keeping the first of each kind.

    Attributes:
        keep: How many findings of each kind are kept with their text.
        counts: How many there are of each kind.
        kept: The first ones.
    """

    keep: int = 1000
    counts: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Counts a finding.

        Raises:
            KeyError: It is of no known kind.
        """
        if finding.kind not in KINDS:
            raise KeyError(finding.kind)
        self.counts[finding.kind] += 1
        group = self.kept.setdefault(finding.kind, [])
        if len(group) < self.keep:
            group.append(finding)

    @property
    def total(self) -> int:
        """How many there are of all kinds."""
        return self.counts.total()

    def ordered(self) -> list[tuple[str, list[Finding]]]:
        """Returns the kept findings by kind, in the order of KINDS."""
        return [(kind, self.kept[kind]) for kind in KINDS if kind in self.kept]

    def to_json(self) -> dict[str, Any]:
        """Returns counts and findings as plain data."""
        return {
            "counts": {kind: self.counts[kind] for kind in KINDS if self.counts[kind]},
            "findings": [finding._asdict() for _, group in self.ordered() for finding in group],
        }

"""Examining files: every row is mended in mind, built into records, and compared with all others.

Nothing is written here. What a mended copy would hold is kept as a plan for each file: rows to leave out, rows to write
anew. `mended` carries it out.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from zhixing.core.errors import BadInput, ZhixingError
from zhixing.data.doctor.conflicts import Conflicts
from zhixing.data.doctor.encodings import to_utf8
from zhixing.data.doctor.fields import alike_parts, asked_text, mend_row, whole_text
from zhixing.data.doctor.findings import Finding, Findings, Flaw
from zhixing.data.doctor.likeness import Likeness, fingerprint
from zhixing.data.doctor.overlap import EvaluationTexts
from zhixing.data.doctor.raw import Raw, Shell, read_raw
from zhixing.data.doctor.turns import is_call, role_of
from zhixing.data.problems import Problems
from zhixing.data.readers import fault_reason
from zhixing.data.shapes import read as read_shape
from zhixing.data.shapes.captioned import Surroundings
from zhixing.data.shapes.detect import Detection, detect
from zhixing.data.shapes.layouts import Layout
from zhixing.data.shapes.parallel import LINES, Twins, find_twins
from zhixing.data.shapes.read import layout_of
from zhixing.data.shapes.records import Labelled, Misfit, Pair, Question, Record, Shape, Text, brief
from zhixing.data.sources import Source, find_sources
from zhixing.data.streams import read_faults, require_packages

LONGEST = 32_000
"""Characters above which a record is over-long, unless a number of tokens is given: about 8,000 tokens of English."""
TEXT_LINE = 200
"""Lines of plain text that come again are told as duplicates only from so many characters on."""
NESTED = frozenset(("SQuAD", "CMRC"))
"""Layouts whose rows hold several questions."""
_MISFITS = {"empty": "empty", "moved": "offset"}
"""Kinds of misfits that have a kind of their own here."""


@dataclass(frozen=True)
class Options:
    """What to look for.

    Attributes:
        shape: The shape that is wanted; found by looking when None.
        columns: Which column holds which role.
        against: Files of an evaluation set.
        longest: How long a record may be, as `measure` measures it.
        measure: Measures a text; characters when None.
        unit: What it measures in.
        keep: Kinds of faults that are reported, but left as they are in a mended copy.
    """

    shape: Shape | None = None
    columns: Mapping[str, str] | None = None
    against: Sequence[str | Path] = ()
    longest: int = LONGEST
    measure: Callable[[str], int] | None = None
    unit: str = "characters"
    keep: frozenset[str] = frozenset()


@dataclass
class Plan:
    """What was understood of a file, and what a mended copy of it holds.

    Attributes:
        source: The file as it was named.
        readable: The same in UTF-8.
        found: How it was understood; None when it was not.
        rows: Rows that were read.
        records: Records that are good, or good after mending.
        left_out: Numbers of rows, counted from 0, that the copy does not hold.
        anew: Rows that it holds in another form, as they are.
        questions: Questions to leave out of nested rows.
        labels: Labels to be written in another way.
        shell: What stands around the rows of JSON.
        shortened: Lines behind this one have no partner in the other of two parallel files.
        broken_off: The file is JSON that cannot be read to its end: a mended copy closes it behind its last good row.
    """

    source: Source
    readable: Source
    found: Detection | None = None
    rows: int = 0
    records: int = 0
    left_out: set[int] = field(default_factory=set)
    anew: dict[int, Any] = field(default_factory=dict)
    questions: dict[int, list[Question]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    shell: Shell = field(default_factory=Shell)
    shortened: int | None = None
    broken_off: bool = False

    @property
    def touched(self) -> bool:
        """Whether a mended copy differs from the file."""
        return (
            bool(self.left_out or self.anew or self.labels or self.questions or self.shortened is not None)
            or self.broken_off
            or self.readable is not self.source
        )


@dataclass
class Diagnosis:
    """All that was found in some files. Close it to remove what was set aside for reading (or use it in a `with`).

    Attributes:
        plans: What was understood of each file.
        findings: The faults.
        options: What was looked for.
    """

    plans: list[Plan]
    findings: Findings
    options: Options
    folder: Path | None = None

    def close(self) -> None:
        """Removes temporary files; a mended copy can no longer be written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def to_json(self) -> dict[str, Any]:
        """Returns the diagnosis as plain data."""
        return {
            "files": [
                {
                    "file": plan.source.name,
                    "read_as": plan.found.to_json() if plan.found else None,
                    "rows": plan.rows,
                    "records": plan.records,
                    "left_out": len(plan.left_out),
                    "written_anew": len(plan.anew),
                }
                for plan in self.plans
            ],
            **self.findings.to_json(),
        }


def examine(paths: str | Path | Sequence[str | Path], options: Options | None = None) -> Diagnosis:
    """Examines files.

    Args:
        paths: Files, folders and globs, also compressed.
        options: What to look for.

    Raises:
        MissingResource: A path is not there, or a package for its format.
        BadInput: Nothing can be read at all, or an evaluation set cannot be used.
    """
    options = options or Options()
    if options.longest < 1:
        raise BadInput(f"the longest record cannot be {options.longest}", remedy=f"--longest {LONGEST}")
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    problems = Problems(keep=1000)
    sources = find_sources(named, problems)
    require_packages(sources)
    evaluation = _evaluation_texts(options.against) if options.against else None
    folder = Path(tempfile.mkdtemp(prefix="zhixing-doctor-"))
    try:
        examiner = _Examiner(options, evaluation, folder)
        for kind in ("unreadable", "unsupported"):
            for problem in problems.examples.get(kind, []):
                examiner.findings.add(Finding("unreadable", problem.source, problem.line, problem.message))
        twins = find_twins(sources, named, options.shape, options.columns, problems)
        if twins:
            for number, pair in enumerate(twins):
                examiner.twins(pair, folder / f"pair {number}")
        for number, source in enumerate([] if twins else sources):
            examiner.file(source, folder / str(number))
        examiner.finish()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Diagnosis(examiner.plans, examiner.findings, options, folder)


def _evaluation_texts(paths: Sequence[str | Path]) -> EvaluationTexts:
    reading = read_shape(list(paths))
    texts = EvaluationTexts((placed.place, asked_text(placed.record)) for placed in reading)
    if not texts.count:
        raise BadInput("the evaluation set holds no record", where=", ".join(map(str, paths)))
    return texts


class _Examiner:
    """Goes through files, remembering what comparisons between records need."""

    def __init__(self, options: Options, evaluation: EvaluationTexts | None, folder: Path) -> None:
        self.options, self.evaluation, self.folder = options, evaluation, folder
        self.plans: list[Plan] = []
        self.findings = Findings()
        self._likeness = Likeness()
        self._conflicts = Conflicts()
        self._places: list[tuple[Plan, int, int]] = []  # plan, row and line of each record that is compared
        self._ids: dict[str, list[tuple[Plan, int, int]]] = {}  # plan, row and line
        self._labels: dict[str, Counter[str]] = {}
        self._label_places: dict[str, list[tuple[Plan, int]]] = {}

    def file(self, source: Source, folder: Path) -> None:
        """Examines one file."""
        folder.mkdir()
        plan = Plan(source, source)
        self.plans.append(plan)
        try:
            plan.readable, odd = to_utf8(source, folder)
            self._encodings(plan, odd)
            around = Surroundings.of(source)
            found = detect(plan.readable, shape=self.options.shape, columns=self.options.columns, around=around)
            plan.found = replace(found, source=source)
            if found.shape is None or not found.sure:
                fault = replace(found, source=source).error()
                self.findings.add(Finding("shape", source.name, None, fault.cause, fault.remedy or ""))
                return
            self._rows(plan)
        except read_faults() as error:
            self.findings.add(Finding("unreadable", source.name, None, fault_reason(error), "fetch it again"))
        except ZhixingError as error:
            where = (error.where or source.name).replace(plan.readable.name, source.name)
            place, _, line = where.rpartition(":")
            numbered = line.isdigit() and place != ""
            self.findings.add(Finding("unreadable", place if numbered else where, int(line) if numbered else None,
                                      error.cause, error.remedy or ""))  # fmt: skip

    def _encodings(self, plan: Plan, odd: list[tuple[int, str, str]]) -> None:
        codecs = Counter(codec for _, codec, _ in odd)
        for line, codec, text in odd:
            if codec.startswith("utf") or (len(codecs) == 1 and len(odd) > 20):
                whole = f"{len(odd):,} line(s) in {codec.upper()}"
                self.findings.add(Finding("encoding", plan.source.name, line, whole, "write the file in UTF-8"))
                return
            if not text.isascii():
                told = f"not UTF-8; it reads as {codec.upper()}: {brief(text.strip())}"
                self.findings.add(Finding("encoding", plan.source.name, line, told, "write it in UTF-8"))

    def _rows(self, plan: Plan) -> None:
        found = plan.found
        assert found is not None
        layout = layout_of(found)

        for number, raw in enumerate(read_raw(plan.readable, found.form, plan.shell, self._of_file(plan))):
            plan.rows += raw.row is not None or bool(raw.flaws and raw.text)
            self._flaws(plan, raw.line, raw.flaws)
            if raw.row is None:
                if raw.flaws and not self._kept(raw.flaws):
                    plan.left_out.add(number)
                continue
            self._row(plan, found, layout, number, raw)

    def _kept(self, flaws: Sequence[Flaw]) -> bool:
        return any(flaw.kind in self.options.keep for flaw in flaws)

    def _flaws(self, plan: Plan, line: int, flaws: Sequence[Flaw]) -> None:
        for flaw in flaws:
            self.findings.add(Finding(flaw.kind, plan.source.name, line, flaw.message, flaw.mend))

    def _row(self, plan: Plan, found: Detection, layout: Layout, number: int, raw: Raw) -> None:
        mended = mend_row(raw.row, found, self.options.keep)
        self._flaws(plan, raw.line, mended.flaws)
        if mended.row is None:
            plan.left_out.add(number)
            return
        row, changed = mended.row, mended.changed or raw.mended
        if isinstance(row, Mapping) and isinstance(name := row.get("id"), str | int) and not isinstance(name, bool):
            self._ids.setdefault(str(name), []).append((plan, number, raw.line))
        if found.shape == "text" and found.form.kind == "lines":
            if row["text"].strip():
                self._text_line(plan, number, raw.line, row["text"])
        else:
            records, faults = _build(layout, row, found)
            told = [fault for fault in faults if not any(flaw.kind == fault.kind for flaw in mended.flaws)]
            self._flaws(plan, raw.line, told)
            # Faults of single questions in a nested record are mended there; a row without any record is left out.
            if not records:
                if not self._kept(faults):
                    plan.left_out.add(number)
                return
            row, cut = self._lengths(plan, found, layout, number, raw.line, row, records)
            if row is None:
                return
            changed = changed or cut
            for record in records:
                if self._record(plan, number, raw.line, record):
                    plan.records += 1
        if changed and number not in plan.left_out:
            plan.anew[number] = row

    def _text_line(self, plan: Plan, number: int, line: int, text: str) -> None:
        plan.records += 1
        if len(text) >= TEXT_LINE:
            self._compare(plan, number, line, text, Text(text))

    def _lengths(
        self, plan: Plan, found: Detection, layout: Layout, number: int, line: int, row: Any, records: list[Record]
    ) -> tuple[Any, bool]:
        """Cuts a conversation that is too long; leaves other records out. Returns the row, None when it is left out."""
        longest, measure = self.options.longest, self.options.measure or len
        sizes = [measure(whole_text(record)) for record in records]
        if max(sizes) <= longest:
            return row, False
        told = f"{max(sizes):,} {self.options.unit}, but {longest:,} are the most"
        column = found.columns.get("messages")
        if found.shape == "chat" and column and isinstance(row.get(column), list):
            turns = row[column]
            for end in range(len(turns) - 1, 1, -1):
                shorter = {**row, column: turns[:end]}
                built, _ = _build(layout, shorter, found)
                if built and _ends_well(turns[:end]) and measure(whole_text(built[0])) <= longest:
                    mend = f"keep its first {end} turn(s)"
                    self._flaws(plan, line, [Flaw("long", told, mend)])
                    return (row, False) if "long" in self.options.keep else (shorter, True)
        self._flaws(plan, line, [Flaw("long", told, "shorten it, or raise the limit; it is left out")])
        if "long" in self.options.keep:
            return row, False
        plan.left_out.add(number)
        return None, False

    def _record(self, plan: Plan, number: int, line: int, record: Record) -> bool:
        """Looks at one record and compares it with all before; tells whether it stays."""
        if isinstance(record, Pair) and record.source.strip() == record.target.strip():
            told = f"source and target are the same: {brief(record.source)}"
            self._flaws(plan, line, [Flaw("same", told, "translate it, or leave it out")])
            if self._leave_out("same", plan, number, record):
                return False
        if isinstance(record, Labelled):
            for label in (record.label,) if isinstance(record.label, str) else record.label:
                self._labels.setdefault(" ".join(label.casefold().split()), Counter())[label] += 1
                self._label_places.setdefault(label, [])
                if len(self._label_places[label]) < self.findings.keep:
                    self._label_places[label].append((plan, line))
        self._conflicts.add(record, len(self._places))
        return self._compare(plan, number, line, repr(record), record) and not self._overlaps(
            plan, number, line, record
        )

    def _overlaps(self, plan: Plan, number: int, line: int, record: Record) -> bool:
        if self.evaluation is None or (hit := self.evaluation.find(asked_text(record))) is None:
            return False
        place, how = hit
        told = f"overlaps with {place}: {brief(how, 160)}"
        self._flaws(plan, line, [Flaw("overlap", told, "leave it out of training")])
        return self._leave_out("overlap", plan, number, record)

    def _leave_out(self, kind: str, plan: Plan, number: int, record: Record) -> bool:
        """Plans to leave a record out, unless its kind of fault is to be kept; tells whether it is left out.

        Of a row with several questions only the one is taken.
        """
        if kind in self.options.keep:
            return False
        if isinstance(record, Question) and plan.found is not None and plan.found.layout in NESTED:
            plan.questions.setdefault(number, []).append(record)
        else:
            plan.left_out.add(number)
        return True

    def _compare(self, plan: Plan, number: int, line: int, identity: str, record: Record) -> bool:
        """Compares a record with those before it; tells whether it stays."""
        place = len(self._places)
        self._places.append((plan, number, line))
        earlier = self._likeness.same(fingerprint(identity), place)
        kind, mend, told = "duplicate", "leave it out", "the same as"
        if earlier is None:
            parts = alike_parts(record)
            near = self._likeness.near(parts, place) if parts else None
            if near is None:
                return True
            earlier, kind, told = near[0], "near_duplicate", f"{100 * near[1]:.0f} % the same as"
        other, _, at = self._places[earlier]
        text = brief(whole_text(record).strip())
        self._flaws(plan, line, [Flaw(kind, f"{told} {other.source.name}:{at}: {text}", mend)])
        return not self._leave_out(kind, plan, number, record)

    def finish(self) -> None:
        """Finds what only all records together show."""
        self._doubled_ids()
        for group in self._conflicts.groups():
            places = [self._places[number] for number in group]
            for plan, number, line in places:
                others = ", ".join(f"{p.source.name}:{n}" for p, _, n in places if (p, n) != (plan, line))
                told = f"says otherwise than {brief(others, 160)[1:-1]}"
                mend = "decide which is right, and leave the others out"
                self.findings.add(Finding("contradiction", plan.source.name, line, told, mend))
                if "contradiction" not in self.options.keep and number not in plan.left_out:
                    plan.left_out.add(number)
                    plan.records -= 1
        for variants in self._labels.values():
            if len(variants) < 2:
                continue
            usual = max(variants, key=lambda label: (variants[label], label))
            for label in variants:
                if label == usual:
                    continue
                for plan, line in self._label_places[label]:
                    told = f"the label {label!r} is written {usual!r} elsewhere"
                    self.findings.add(Finding("label", plan.source.name, line, told, f"write {usual!r}"))
                    if "label" not in self.options.keep:
                        plan.labels[label] = usual

    def _doubled_ids(self) -> None:
        """Finds ids that come again in records that stay."""
        staying = {
            name: [(plan, line) for plan, number, line in places if number not in plan.left_out]
            for name, places in self._ids.items()
        }
        again = {name: places for name, places in staying.items() if len(places) > 1 and name.strip()}
        # Where many share an id, it names something else, such as the document that they are about.
        if sum(map(len, again.values())) > 0.5 * sum(map(len, staying.values())):
            return
        for name, ((first, at), *others) in again.items():
            for plan, line in others:
                told = f"the id {brief(name)} is that of {first.source.name}:{at} too"
                self.findings.add(Finding("id", plan.source.name, line, told, "give it one of its own"))

    def twins(self, pair: Twins, folder: Path) -> None:
        """Examines parallel files, whose lines are left out together."""
        folder.mkdir()
        (folder / "target").mkdir()
        one, odd = to_utf8(pair.source, folder)
        other, odd_too = to_utf8(pair.target, folder / "target")
        columns = {"source": "source", "target": "target"}
        found = Detection(pair.source, "pair", "parallel files", columns, 1.0, LINES.why, LINES)
        plan, twin = Plan(pair.source, one, found), Plan(pair.target, other, found)
        self.plans += [plan, twin]
        self._encodings(plan, odd)
        self._encodings(twin, odd_too)
        number = -1
        rows = (read_raw(side.readable, LINES, side.shell, self._of_file(side)) for side in (plan, twin))
        for number, (left, right) in enumerate(zip_longest(*rows)):
            if left is None or right is None:
                longer, short = (plan, twin) if right is None else (twin, plan)
                told = f"{short.source.name} ends after {number:,} line(s): this line has no partner"
                mend = "line N of one file must belong to line N of the other; what has no partner is left out"
                self.findings.add(Finding("misfit", longer.source.name, number + 1, told, mend))
                longer.shortened = number
                break
            self._pair(plan, twin, number, left, right)
        plan.rows = twin.rows = number + 1

    def _pair(self, plan: Plan, twin: Plan, number: int, left: Raw, right: Raw) -> None:
        assert plan.found is not None
        row = {side: raw.text.strip() for side, raw in (("source", left), ("target", right))}
        mended = mend_row(row, plan.found, self.options.keep)
        self._flaws(plan, number + 1, mended.flaws)
        for name, side in (("source", plan), ("target", twin)):
            if not mended.row[name]:
                self._flaws(side, number + 1, [Flaw("empty", "an empty line", "translate it; its pair is left out")])
                plan.left_out.add(number)
        if number not in plan.left_out and self._record(plan, number, number + 1, Pair(**mended.row)):
            plan.records += 1
            twin.records += 1
        if number in plan.left_out:
            twin.left_out.add(number)
        elif mended.changed:
            for name, side in (("source", plan), ("target", twin)):
                if mended.row[name] != row[name]:
                    side.anew[number] = {"text": mended.row[name]}

    def _of_file(self, plan: Plan) -> Callable[[str, int | None, str], None]:
        def report(kind: str, line: int | None, message: str) -> None:
            plan.broken_off = plan.broken_off or kind == "json"
            mend = "correct it by hand" + ("; a mended copy ends here" if kind == "json" else "")
            self.findings.add(Finding(kind, plan.source.name, line, message, mend))

        return report


def _build(layout: Layout, row: Any, found: Detection) -> tuple[list[Record], list[Flaw]]:
    records: list[Record] = []
    flaws: list[Flaw] = []
    try:
        for built in layout.build(row, found.columns, found.context):
            if isinstance(built, Misfit):
                flaws.append(Flaw(_MISFITS.get(built.kind, "misfit"), built.cause, built.remedy))
            else:
                records.append(built)
    except Misfit as misfit:
        flaws.append(Flaw(_MISFITS.get(misfit.kind, "misfit"), misfit.cause, misfit.remedy))
    return records, flaws


def _ends_well(turns: list[Any]) -> bool:
    return role_of(turns[-1]) == "assistant" and not is_call(turns[-1])

"""From files of records to a run's examples: every record is checked before anything is trained.

Two passes over the files. The first checks each record and lets the objective learn what it must know of all of them
(its labels); the second encodes. What is wrong is said once, with file, line, value and remedy, and how many more there
are. The result lies in the run folder (`examples/`): resuming needs nothing else.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, ZhixingError
from zhixing.core.files import atomic_folder, read_json
from zhixing.core.progress import human_count, progress_bar
from zhixing.core.recipe import Recipe
from zhixing.data.examples import ExampleStore, ExampleWriter, hash_parts
from zhixing.data.inputs import inputs_to_json, look_at_inputs
from zhixing.data.problems import NOTES, Problems
from zhixing.data.shapes import ImageText, Labelled, Pair, Placed, Question, Reading, Record, Tagged, read
from zhixing.data.shapes.read import texts_of
from zhixing.data.shapes.records import Misfit, brief
from zhixing.data.sources import find_sources
from zhixing.data.split import document_hash, held_out
from zhixing.data.word_bounds import spaced
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives import RecordObjective
from zhixing.training.run import Run
from zhixing.workflows.console import say

FOLDER = "examples"
FACTS = "facts.json"
HARMLESS = (NOTES | {"unsupported"}) - {"empty"}
"""What does not make a record wrong: files that are no records are left out, and said."""


@dataclass
class Tally:
    """What became of the records of a run.

    Attributes:
        train: Records, examples and tokens to train on.
        validation: Likewise, held out.
        cut: Records of which a part did not fit, and the tokens left out.
        dropped: Records left out because they were too long.
        empty: Records that gave no example.
        faulty: Records left out because they were wrong.
        first_cut: Where the first one stands that was too long.
    """

    train: dict[str, int] = field(default_factory=lambda: {"records": 0, "examples": 0, "tokens": 0})
    validation: dict[str, int] = field(default_factory=lambda: {"records": 0, "examples": 0, "tokens": 0})
    cut: int = 0
    cut_tokens: int = 0
    dropped: int = 0
    empty: int = 0
    faulty: int = 0
    first_cut: str = ""

    def lines(self, longest: int) -> list[str]:
        """Says what was left out."""
        found = []
        if self.cut:
            found.append(
                f"{self.cut:,} record(s) longer than {longest} tokens were cut, {self.cut_tokens:,} tokens left out"
                f" (the first: {self.first_cut})"
            )
        if self.dropped:
            found.append(f"{self.dropped:,} record(s) longer than {longest} tokens left out (first: {self.first_cut})")
        if self.empty:
            found.append(f"{self.empty:,} record(s) gave nothing to learn from")
        if self.faulty:
            found.append(f"{self.faulty:,} wrong record(s) left out, as data.skip_faulty asks")
        return found


@dataclass(frozen=True)
class Examples:
    """The examples of a run, and what was learned from its records.

    Attributes:
        train: To train on.
        validation: Held out.
        facts: Of the objective, of the tally and of the inputs.
        hash: Over all of it.
    """

    train: ExampleStore
    validation: ExampleStore
    facts: dict[str, Any]
    hash: str


class Records:
    """The records of a recipe, in two parts.

    Args:
        recipe: Its data section names the files.
        objective: Says which shapes it reads.
        most: Stop behind so many records of `data.paths` (and of `data.validation_paths`); a tokenizer still learns
            from all of them.

    Attributes:
        more: There were more records than `most`.
    """

    def __init__(self, recipe: Recipe, objective: type[RecordObjective], most: int | None = None) -> None:
        self.data, self.objective, self.most = recipe.data, objective, most
        self.more = False

    @property
    def harmless(self) -> frozenset[str]:
        """The kinds of problems that are worth a word but no error: an empty line of running text is none."""
        return HARMLESS | {"empty"} if self.objective.shapes == ("text",) else HARMLESS

    def read(self, paths: Sequence[str], problems: Problems, advance: Any = None) -> Reading:
        """Opens one part.

        Raises:
            BadInput: It is of another shape than the objective reads.
        """
        shapes = self.objective.shapes
        reading = read(
            paths, shape=shapes[0] if len(shapes) == 1 else None, columns=self.data.columns, problems=problems,
            advance=advance,
        )  # fmt: skip
        if reading.shape not in shapes:
            raise BadInput(
                f"the records are of the shape {reading.shape!r}, {self.objective.name!r} reads {' or '.join(shapes)}",
                where=reading.detections[0].source.name,
                remedy="a record may look like this: " + json.dumps(dict(self.objective.sample), ensure_ascii=False),
            )
        return reading

    def __call__(self, problems: Problems, *, title: str = "") -> Iterator[tuple[Placed, bool]]:
        """Yields every record and whether it is held out: first all that are in `data.paths`, then the others."""
        data = self.data
        total = sum(source.size for source in find_sources([*data.paths, *data.validation_paths], Problems()))
        with contextlib.nullcontext() if not title else progress_bar(title, total) as bar:
            advance = None if bar is None else bar.advance
            for placed in self._first(self.read(data.paths, problems, advance)):
                yield placed, not data.validation_paths and self.is_held_out(placed.record)
            if data.validation_paths:
                for placed in self._first(self.read(data.validation_paths, problems, advance)):
                    yield placed, True

    def _first(self, reading: Reading) -> Iterator[Placed]:
        for number, placed in enumerate(reading):
            if number == self.most:
                self.more = True
                return
            yield placed

    def is_held_out(self, record: Record) -> bool:
        """Tells whether a record is held out, by the hash of what is asked in it (not of its answer)."""
        return held_out(document_hash(asked(record)), self.data.validation_fraction, self.data.seed)

    def training_texts(self) -> Iterator[str]:
        """Yields the texts of the training records, for a tokenizer."""
        every = copy.copy(self)
        every.most = None
        for placed, is_held_out in every(Problems()):
            if is_held_out:
                continue
            if isinstance(placed.record, Tagged):
                yield "".join(spaced(placed.record.tokens))
            else:
                yield from texts_of(placed.record)


def asked(record: Record) -> str:
    """Returns what a record asks, without the answer: equal questions fall to the same part."""
    match record:
        case Labelled():
            return record.text if record.second is None else f"{record.text}\n{record.second}"
        case Tagged():
            return "\n".join(record.tokens)
        case Question():
            return record.context
        case Pair():
            return record.source
        case ImageText():
            content = record.image if isinstance(record.image, bytes) else record.image.read_bytes()
            return hashlib.sha256(content).hexdigest()
        case _:
            return "\n".join(texts_of(record))


@dataclass(frozen=True)
class Checked:
    """What a first pass over the records found: what was skipped or odd, and the numbers of the wrong ones."""

    problems: Problems
    wrong: frozenset[int]


def check_records(records: Records, objective: RecordObjective) -> Checked:
    """Passes over all records once: each is checked, and the objective learns what it must know of all of them.

    Raises:
        BadInput: A record is wrong; the first is named, the others are counted. With `data.skip_faulty` they are
            left out instead.
    """
    problems, wrong = Problems(), set[int]()
    settled = False
    for number, (placed, is_held_out) in enumerate(records(problems, title="Checking records")):
        if is_held_out and records.data.validation_paths and not settled:
            objective.settle()
            settled = True
        try:
            _check_size(placed.record, objective)
            # With a share held out by hash, all labels are known from all records.
            objective.observe(placed.record, is_held_out)
        except Misfit as fault:
            problems.report(fault.kind, placed.source, str(fault), line=placed.line)
            wrong.add(number)
    _refuse_faults(problems, records)
    if not settled:
        objective.settle()
    return Checked(problems, frozenset(wrong))


def _check_size(record: Record, objective: RecordObjective) -> None:
    most = objective.most_characters
    if most is None:
        return
    for text in texts_of(record):
        if len(text) > most:
            raise Misfit(
                f"a text of {len(text):,} characters ({brief(text, 40)}); at most {most:,} are read",
                "is a line break missing? Divide the text, or leave the record out",
                kind="long",
            )


def _refuse_faults(problems: Problems, records: Records) -> None:
    faults = {kind: count for kind, count in problems.counts.items() if kind not in records.harmless}
    if not faults or records.data.skip_faulty:
        return
    first = next(problem for kind, found in problems.examples.items() if kind in faults for problem in found)
    more = sum(faults.values()) - 1
    cause, _, remedy = first.message.partition("; ")
    others = f" ({more:,} more record(s) are wrong; all of them: zhixing data doctor {first.source})" if more else ""
    raise BadInput(
        cause + others,
        where=first.source if first.line is None else f"{first.source}:{first.line}",
        remedy=(f"{remedy}; or " if remedy else "") + "leave out what is wrong: --set data.skip_faulty=true",
    )


def open_examples(folder: Path, objective: RecordObjective, fingerprint: str) -> Examples | None:
    """Opens examples that were built before; None when they are missing, damaged, or for another tokenizer."""
    try:
        facts = read_json(folder / FACTS) if (folder / FACTS).is_file() else None
        if not isinstance(facts, dict) or facts.get("fingerprint") != fingerprint:
            return None
        train, validation = ExampleStore(folder / "train"), ExampleStore(folder / "validation")
        if facts.get("hash") != hash_parts(train, validation, facts=facts["objective"]):
            return None
        objective.load_facts(facts["objective"])
    except (ZhixingError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return Examples(train, validation, facts, facts["hash"])


def build_examples(
    run: Run, records: Records, objective: RecordObjective, tokenizer: Tokenizer, checked: Checked
) -> Examples:
    """Encodes all records into the run folder.

    Args:
        run: The run.
        records: Checked by `check_records`.
        objective: With its tokenizer attached.
        tokenizer: Of the network.
        checked: What `check_records` found.

    Raises:
        BadInput: A record cannot be encoded, or is too long and `data.too_long` refuses that.
    """
    data, folder = run.recipe.data, run.folder / FOLDER
    paths = [*data.paths, *data.validation_paths]
    inputs = inputs_to_json(look_at_inputs(find_sources(paths, Problems())))
    tally, faults = Tally(), Problems()
    with atomic_folder(folder) as part:
        with (
            ExampleWriter(part / "train", objective.fields) as train,
            ExampleWriter(part / "validation", objective.fields) as validation,
        ):
            for number, (placed, is_held_out) in enumerate(records(Problems(), title="Encoding records")):
                if number in checked.wrong:
                    continue
                writer, counts = (validation, tally.validation) if is_held_out else (train, tally.train)
                _encode(placed, number, objective, data.too_long, writer, counts, tally, faults)
        _refuse_faults(faults, records)
        found = checked.problems.counts + faults.counts
        tally.faulty = sum(count for kind, count in found.items() if kind not in records.harmless)
        stores = ExampleStore(part / "train"), ExampleStore(part / "validation")
        learned = objective.facts()
        facts = {
            "fingerprint": tokenizer.fingerprint, "objective": learned, "hash": hash_parts(*stores, facts=learned),
            "tally": vars(tally), "problems": checked.problems.to_json(), "inputs": inputs,
        }  # fmt: skip
        (part / FACTS).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    opened = open_examples(folder, objective, tokenizer.fingerprint)
    if opened is None:
        raise BadInput("the examples that were just written cannot be read back", where=str(folder))
    return opened


def _encode(
    placed: Placed, number: int, objective: RecordObjective, too_long: str, writer: ExampleWriter,
    counts: dict[str, int], tally: Tally, faults: Problems,
) -> None:  # fmt: skip
    """Encodes one record and writes its examples."""
    try:
        _check_size(placed.record, objective)
        encoded = objective.encode_row(placed.record, placed.row)
    except Misfit as fault:
        if fault.kind == "long" and too_long == "drop":  # so long that cutting it leaves nothing to learn
            tally.first_cut = tally.first_cut or placed.place
            tally.dropped += 1
            return
        faults.report(fault.kind, placed.source, str(fault), line=placed.line)
        return
    if encoded.cut:
        tally.first_cut = tally.first_cut or placed.place
        if too_long == "refuse":
            message = f"a record {encoded.cut:,} tokens longer than {objective.longest} tokens; shorten it"
            faults.report("long", placed.source, message, line=placed.line)
            return
        if too_long == "drop":
            tally.dropped += 1
            return
        tally.cut, tally.cut_tokens = tally.cut + 1, tally.cut_tokens + encoded.cut
    if not encoded.examples:
        tally.empty += 1
        return
    counts["records"] += 1
    for example in encoded.examples:
        length = objective.length(example)
        writer.add(example, length, number)
        counts["examples"], counts["tokens"] = counts["examples"] + 1, counts["tokens"] + length


def report_examples(run: Run, examples: Examples, objective: RecordObjective) -> None:
    """Says what was read, and writes it into the run's facts."""
    facts = examples.facts
    tally: dict[str, Any] = facts["tally"]
    train, validation = tally["train"], tally["validation"]
    say(
        f"Data: {train['records']:,} records, {human_count(train['tokens'])} tokens to train on;"
        f" {validation['records']:,} records, {human_count(validation['tokens'])} tokens held out"
    )
    problems = Problems.from_json(facts["problems"])
    for line in [*Tally(**tally).lines(objective.longest), *problems.summary(0)]:
        say(f"  {line}")
    run.add_facts(
        data={
            "shape": " or ".join(objective.shapes), "train": train, "validation": validation,
            **{key: tally[key] for key in ("cut", "cut_tokens", "dropped", "empty", "faulty")},
            "problems": facts["problems"], "inputs": facts["inputs"], "data_hash": examples.hash,
            "paths": [*run.recipe.data.paths, *run.recipe.data.validation_paths],
        },
        objective={"name": objective.name, **examples.facts["objective"]},
    )  # fmt: skip

"""Reading a run folder for people: its recipe, metrics, facts and state, in whatever state they are.

A run may be going on, may have been killed while it wrote a line, or may have failed before its first figure. What is
missing is empty here, what is damaged is named in `faults`, and nothing is an error but a folder that is no run.
Writing these files is training's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from zhixing.core.errors import BadInput, MissingResource, nearest
from zhixing.core.files import in_use, os_fault

Status = Literal["preparing", "running", "finished", "interrupted", "failed", "stopped", "unknown"]

RUNS = Path("runs")
"""Where runs are looked for when only a name is given."""

MARKS = ("recipe.yaml", "metrics.jsonl", "state.json", "facts.json")
"""The files of which a run folder has at least one."""


@dataclass
class Run:
    """What a run folder says.

    Attributes:
        folder: The folder.
        recipe: The text of recipe.yaml, empty when there is none.
        train: Training records by step, superseded ones (before a resume) left out.
        validation: Validation records by step, likewise.
        events: Event records in the order they were written.
        facts: facts.json.
        state: state.json.
        status: What the run is doing; a "running" that no living process holds is "stopped".
        updated: When it was last changed.
        inputs: The files of text it read, with their sizes and hashes.
        faults: What could not be read, one sentence each.
    """

    folder: Path
    recipe: str = ""
    train: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    status: Status = "unknown"
    updated: datetime | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.folder.resolve().name

    @property
    def best(self) -> dict[str, Any] | None:
        """The best validation: that of state.json, else the one with the lowest loss, else None."""
        best = self.state.get("best")
        if isinstance(best, dict) and number(best.get("loss")) is not None:
            return best
        measured = [record for record in self.validation if number(record.get("loss")) is not None]
        return min(measured, key=lambda record: float(record["loss"]), default=None)

    @property
    def of_tokens(self) -> bool:
        """Whether its loss is that of tokens, and not of labels, places or rewards."""
        measures = "measures" in section(self.facts, "evaluation")
        return not measures and (self.best or {}).get("measure", "loss") == "loss"

    def summary(self) -> dict[str, Any]:
        """Returns the figures that stand for the run, None where it has none."""
        last = self.train[-1] if self.train else {}
        training, evaluation = section(self.facts, "training"), section(self.facts, "evaluation")
        best = self.best or {}
        loss = number(best.get("loss"))
        perplexity = number(evaluation.get("perplexity")) or number(best.get("perplexity"))
        if perplexity is None and loss is not None and loss < 700 and self.of_tokens:
            perplexity = math.exp(loss)
        steps = [number(self.state.get("step")), number(last.get("step"))]
        return {
            "name": self.name,
            "folder": str(self.folder),
            "state": self.status,
            "reason": self.state.get("reason"),
            "step": int(max((step for step in steps if step is not None), default=0)),
            "steps": self.state.get("steps"),
            "bits_per_byte": first_number(evaluation.get("bits_per_byte"), best.get("bits_per_byte")),
            "perplexity": perplexity,
            "validation_loss": loss,
            "best_step": best.get("step"),
            "measures": _measures(evaluation, best),
            "intervals": _intervals(evaluation),
            "train_loss": number(last.get("loss")),
            "tokens": first_number(training.get("tokens"), last.get("tokens")),
            "seconds": first_number(last.get("seconds"), training.get("seconds"), self.state.get("seconds")),
            "tokens_per_second": typical(self.train, "tokens_per_second"),
            # Zero is written where the peak was not measured.
            "matmul_share": typical(self.train, "matmul_share") or None,
            "parameters": number(section(self.facts, "model").get("parameters")),
            "updated": self.updated.isoformat(timespec="seconds") if self.updated else None,
        }


def _intervals(evaluation: dict[str, Any]) -> dict[str, list[float]]:
    """Returns the 95 % intervals of the final measurement, by measure."""
    found: dict[str, list[float]] = {}
    for name in ("bits_per_byte", "perplexity"):
        ends = evaluation.get(f"{name}_interval")
        if isinstance(ends, list) and len(ends) == 2:
            found[name] = ends
    scores = evaluation.get("scores")
    for one in scores if isinstance(scores, list) else []:
        interval = one.get("interval") if isinstance(one, dict) else None
        if isinstance(interval, dict) and {"low", "high"} <= interval.keys():
            found[str(one.get("measure"))] = [interval["low"], interval["high"]]
    return found


MEASURED_OTHERWISE = frozenset({"step", "loss", "bits_per_byte", "perplexity", "measure", "tokens"})


def _measures(evaluation: dict[str, Any], best: dict[str, Any]) -> dict[str, float]:
    """Returns an objective's own measures: of the finished model, else of the best validation; the first decides."""
    recorded = section(evaluation, "measures")
    found = recorded or {key: value for key, value in best.items() if key not in MEASURED_OTHERWISE}
    return {str(key): value for key, entry in found.items() if (value := number(entry)) is not None}


def section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns a section of the facts, empty when it is absent or is no mapping."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float | None:
    """Returns a finite number, or None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def first_number(*values: Any) -> float | None:
    """Returns the first of the values that is a finite number."""
    return next((found for value in values if (found := number(value)) is not None), None)


def typical(records: Iterable[dict[str, Any]], key: str) -> float | None:
    """Returns the median of a field: steady against the first, slow steps."""
    found = sorted(value for record in records if (value := number(record.get(key))) is not None)
    return found[len(found) // 2] if found else None


def is_run(folder: Path) -> bool:
    """Tells whether a folder is a run."""
    return folder.is_dir() and any((folder / mark).is_file() for mark in MARKS)


def find_run(name: str | Path) -> Path:
    """Returns the run folder that a path or a name in runs/ stands for.

    Raises:
        MissingResource: There is no such folder; the nearest name is given.
        BadInput: It is not a run.
    """
    given = Path(name)
    for folder in (given, RUNS / given):
        if is_run(folder):
            return folder
    if given.is_dir():
        raise BadInput(
            "not a run folder: it has no recipe.yaml, metrics.jsonl or state.json",
            where=str(given),
            remedy="`zhixing runs` lists the runs",
        )
    known = [path.name for path in sorted(RUNS.iterdir()) if is_run(path)] if RUNS.is_dir() else []
    close = nearest(given.name, known)
    hint = f"did you mean {RUNS / close}? " if close else ""
    raise MissingResource("no such run", where=str(given), remedy=f"{hint}`zhixing runs` lists the runs")


def read_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        MissingResource: It is not there.
        BadInput: It is not a run.
    """
    if not is_run(folder):
        find_run(folder)
    run = Run(folder)
    run.recipe = _text(folder / "recipe.yaml", run.faults)
    run.facts = _mapping(folder / "facts.json", run.faults)
    run.state = _mapping(folder / "state.json", run.faults)
    _read_metrics(run, _text(folder / "metrics.jsonl", run.faults))
    run.inputs = _inputs(run)
    run.status = _status(run)
    run.updated = _updated(run)
    return run


def _text(path: Path, faults: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        faults.append(f"{path.name} is not UTF-8 text (byte {error.start})")
        return ""
    except OSError as error:
        raise os_fault(error, path, "reading the run") from error


def _mapping(path: Path, faults: list[str]) -> dict[str, Any]:
    text = _text(path, faults)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        faults.append(f"{path.name} is not valid JSON: {error}")
        return {}
    if isinstance(value, dict):
        return value
    faults.append(f"{path.name} is not a mapping")
    return {}


def _inputs(run: Run) -> list[dict[str, Any]]:
    """Returns the list of inputs from the facts, else the one that is kept with the token shards."""
    recorded = section(run.facts, "data").get("inputs")
    if not isinstance(recorded, list):
        text = _text(run.folder / "shards" / "inputs.json", run.faults)
        try:
            recorded = json.loads(text) if text else []
        except ValueError as error:
            run.faults.append(f"shards/inputs.json is not valid JSON: {error}")
    return [entry for entry in recorded if isinstance(entry, dict)] if isinstance(recorded, list) else []


def _read_metrics(run: Run, text: str) -> None:
    lines = text.splitlines()
    broken: list[int] = []
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            broken.append(place)
            continue
        if not isinstance(record, dict):
            broken.append(place)
            continue
        kind, step = record.get("kind"), number(record.get("step"))
        if kind == "event":
            run.events.append(record)
        elif kind in ("train", "validation") and step is not None:
            _append(run.train if kind == "train" else run.validation, {**record, "step": int(step)})
    # A writer that was killed leaves half a last line, which resuming mends; that alone is not worth a word.
    if broken and broken != [len(lines)]:
        named = ", ".join(map(str, broken[:5])) + (" and more" if len(broken) > 5 else "")
        run.faults.append(f"{len(broken)} line(s) of metrics.jsonl cannot be read: {named}")


def _append(records: list[dict[str, Any]], record: dict[str, Any]) -> None:
    """Adds a record; a step that comes again (after a resume) replaces what was there from it on."""
    while records and records[-1]["step"] >= record["step"]:
        records.pop()
    records.append(record)


def _status(run: Run) -> Status:
    said = run.state.get("state")
    # These are trusted as they stand: the process that writes them may still hold the lock while it closes the run.
    if said in ("finished", "interrupted", "failed"):
        return cast(Status, said)
    if in_use(run.folder):
        return "preparing" if said == "preparing" else "running"
    return "stopped" if said in ("running", "preparing") else "unknown"


def _updated(run: Run) -> datetime | None:
    said = run.state.get("updated")
    if isinstance(said, str):
        try:
            return datetime.fromisoformat(said).astimezone()
        except ValueError:
            run.faults.append(f"state.json: 'updated' is not a time: {said!r}")
    if (moment := number(said)) is not None:
        try:
            return datetime.fromtimestamp(moment, UTC).astimezone()
        except (OverflowError, ValueError, OSError):
            run.faults.append(f"state.json: 'updated' is not a time: {said!r}")
    try:
        times = [(run.folder / mark).stat().st_mtime for mark in MARKS if (run.folder / mark).exists()]
    except OSError:
        return None
    return datetime.fromtimestamp(max(times), UTC).astimezone() if times else None

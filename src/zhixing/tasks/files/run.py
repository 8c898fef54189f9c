"""A task over a file, chunk by chunk, that can be killed at any byte and goes on where it was.

Beside OUT stand OUT.part, what is written so far, and OUT.state, which says how many rows and bytes of it are certain
and what they were made with. A chunk counts once OUT.state says so; what OUT.part holds beyond is cut off. Chunks begin
at the same rows in every run and are computed from their rows alone, so the file is the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from zhixing.core.errors import BadInput, Interrupted, command
from zhixing.core.files import atomic_write, hash_json, os_fault, read_json, sync_folder
from zhixing.core.progress import progress_bar, say
from zhixing.models import ops
from zhixing.tasks.base import Fault, Task, run_rows
from zhixing.tasks.files.products import settled_matmul
from zhixing.tasks.files.reading import InputRow, Reader
from zhixing.tasks.files.writing import Writer, check_target

FORMAT = 1
KEPT_FAULTS = 20


@dataclass
class FileRun:
    """What came of a file.

    Attributes:
        out: The file that was written.
        rows: Rows read.
        bad: Rows without a result.
        faults: The first of them: line and message.
        resumed: Rows that an earlier, interrupted run had done.
    """

    out: Path
    rows: int = 0
    bad: int = 0
    faults: list[tuple[int | None, str]] = field(default_factory=list)
    resumed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        faults = [{"line": line, "message": message} for line, message in self.faults]
        return {"out": str(self.out), "rows": self.rows, "bad": self.bad, "resumed": self.resumed, "faults": faults}


def run_file(
    task: Task,
    path: str | Path,
    out: str | Path,
    *,
    fields: Sequence[str] = (),
    skip_bad: bool = False,
    overwrite: bool = False,
    restart: bool = False,
    prefix: str = "",
    say: Callable[[str], None] = say,
) -> FileRun:
    """Runs a task on every row of a file; a run that was stopped goes on when it is called again.

    Args:
        task: What to do.
        path: JSON Lines, JSON, CSV, TSV, Parquet or lines of text; also .gz.
        out: .jsonl, .csv, .tsv or .txt; also .gz.
        fields: Which fields the task reads, where they have no usual names; see `Reader`.
        skip_bad: Go on behind rows that cannot be worked on; their place in `out` says why. Else the first stops the
            run, which goes on behind the rows done when the input is mended or this is set.
        overwrite: Replace an `out` that is there.
        restart: Forget what an interrupted run did.
        prefix: Before the names of the results.
        say: Is told what the user should know.

    Raises:
        BadInput: A row is bad, or the file; or an unfinished run was made with other settings.
        MissingResource: A file is not there or cannot be written.
        Interrupted: Ctrl-C; what is done is kept.
    """
    source, target = Path(path), Path(out)
    if source.resolve() == target.resolve():
        raise BadInput("the results would replace their own input", where=str(target), remedy="name another --out")
    check_target(target, overwrite)
    reader, writer = Reader(source, task.columns, fields, say), Writer(target, task.outputs, prefix)
    job = _Job(task, reader, writer, target, skip_bad)
    if restart:
        job.forget()
    return job.run()


class _Job:
    """One run over a file."""

    def __init__(self, task: Task, reader: Reader, writer: Writer, target: Path, skip_bad: bool) -> None:
        self.task, self.reader, self.writer, self.target = task, reader, writer, target
        self.part = target.with_name(target.name + ".part")
        self.state_path = target.with_name(target.name + ".state")
        self.skip_bad = skip_bad
        self.outcome = FileRun(target)

    def forget(self) -> None:
        """Removes what an interrupted run left."""
        for path in (self.state_path, self.part):
            path.unlink(missing_ok=True)

    def _identity(self) -> dict[str, Any]:
        status = self.reader.source.path.stat()
        return {
            "format": FORMAT,
            "task": self.task.name,
            "settings": hash_json(self.task.identity()),
            "input": [status.st_size, status.st_mtime_ns],
            "fields": hash_json([[column.name for column in self.task.columns], self.reader._asked]),
            "chunk": self.task.chunk,
            "prefix": self.writer.prefix,
        }

    def _resume(self) -> dict[str, Any]:
        """Returns the state of an interrupted run, or that of a new one."""
        identity = self._identity()
        fresh: dict[str, Any] = {"identity": identity, "rows": 0, "bytes": 0, "bad": 0, "faults": []}
        fresh |= {"columns": None, "matmul": settled_matmul()}
        if not self.state_path.exists():
            return fresh
        state = read_json(self.state_path)
        old = state.get("identity") if isinstance(state, dict) else None
        again = f"remove {command(self.state_path)} or start anew with --restart"
        if not isinstance(old, dict):
            raise BadInput("not the state of an interrupted run", where=str(self.state_path), remedy=again)
        words = {"input": "input file", "settings": "model or settings"}
        if changed := [words.get(key, key) for key in identity if old.get(key) != identity[key]]:
            raise BadInput(
                f"an interrupted run is here that began with another {' and '.join(changed)}",
                where=str(self.state_path),
                remedy="go on with the same, or start anew with --restart",
            )
        if not self.part.exists() or self.part.stat().st_size < state["bytes"]:
            raise BadInput("what the interrupted run wrote is gone", where=str(self.part), remedy="--restart")
        found: dict[str, Any] = state
        return found

    def run(self) -> FileRun:
        """Works through the file."""
        state = self._resume()
        # Rounding depends on the library of the products: the whole file is computed with one.
        ops.set_matmul(state["matmul"])
        self.writer.columns = state["columns"]
        self.outcome.rows = self.outcome.resumed = state["rows"]
        self.outcome.bad, self.outcome.faults = state["bad"], [tuple(fault) for fault in state["faults"]]
        if state["rows"]:
            say(f"going on behind row {state['rows']:,}")
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            with self.part.open("r+b" if state["rows"] else "wb") as file:
                file.truncate(state["bytes"])
                file.seek(state["bytes"])
                self._work(file, state)
            self.part.replace(self.target)
            self.state_path.unlink(missing_ok=True)
            sync_folder(self.target.parent)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; {state['rows']:,} rows are kept", where=str(self.part), remedy="the same command goes on"
            ) from None
        except OSError as error:
            raise os_fault(error, self.part, "writing results") from error
        finally:
            if not state["rows"]:
                self.part.unlink(missing_ok=True)
        return self.outcome

    def _work(self, file: BinaryIO, state: dict[str, Any]) -> None:
        with progress_bar(self.task.name.capitalize(), self.reader.source.size) as bar:
            rows = self.reader(lambda count: bar.advance(count, f"{self.outcome.rows:,} rows"))
            for _ in islice(rows, state["rows"]):
                pass
            with contextlib.closing(rows):
                for chunk in _chunks(rows, self.task.chunk):
                    self.writer.check(chunk)
                    done = self._done(chunk)
                    bad = next((index for index, one in enumerate(done) if isinstance(one, Fault)), None)
                    if bad is not None and not self.skip_bad:
                        self._stop(chunk[bad], done[bad], state["rows"])
                    data = self.writer.chunk(chunk[: len(done)], done, state["rows"] == 0, self.reader.header)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    self._commit(state, chunk, done, len(data))

    def _done(self, chunk: list[InputRow]) -> list[Any]:
        return run_rows(self.task, [one.row for one in chunk])

    def _stop(self, row: InputRow, fault: Any, kept: int) -> None:
        place = f"{self.reader.source.name}:{row.line}" if row.line else self.reader.source.name
        begun = f" The {kept:,} rows before its group are kept; the same command goes on." if kept else ""
        raise BadInput(
            fault.message, where=place, remedy=f"mend the row, or pass over such rows with --skip-bad.{begun}"
        )

    def _commit(self, state: dict[str, Any], chunk: list[InputRow], done: list[Any], size: int) -> None:
        for row, result in zip(chunk, done, strict=True):
            if isinstance(result, Fault):
                self.outcome.bad += 1
                if len(self.outcome.faults) < KEPT_FAULTS:
                    self.outcome.faults.append((row.line, result.message))
        state["rows"] += len(chunk)
        state["bytes"] += size
        state |= {"bad": self.outcome.bad, "faults": self.outcome.faults, "columns": self.writer.columns}
        atomic_write(self.state_path, json.dumps(state, ensure_ascii=False))
        self.outcome.rows = state["rows"]


def _chunks(rows: Iterator[InputRow], size: int) -> Iterator[list[InputRow]]:
    while chunk := list(islice(rows, size)):
        yield chunk

"""What every task's command takes and gives: texts as arguments, from standard input or from files; results as a table
for people, as plain lines for pipes, as JSON for scripts, or as a file that can be gone on with.

    @with_task_options
    def command(texts: ..., io: TaskIO) -> None:

gives the command the options of `_declared`; `io.work` does the rest.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from zhixing.tasks.base import Fault, Result, Row, Task

FILES = "Files"

Show = Callable[[Sequence["Row"], Sequence[Any]], "RenderableType"]
"""Draws results for a terminal, from rows and what came of them."""


def _option(help_: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=FILES, **more)


def _declared(
    file: Annotated[Path | None, _option("Work on every row: .jsonl .csv .tsv .txt .parquet, also .gz.")] = None,
    out: Annotated[
        Path | None, _option("Write the results to .jsonl, .csv, .tsv or .txt, also .gz. Stopped, it goes on.")
    ] = None,
    field: Annotated[
        list[str] | None, _option("The field to read, or NAME=FIELD; found by its name otherwise.", metavar="FIELD")
    ] = None,
    skip_bad: Annotated[bool, _option("Go on behind bad rows; their place says why.", "--skip-bad")] = False,
    overwrite: Annotated[bool, _option("Replace the output file.", "--overwrite")] = False,
    restart: Annotated[bool, _option("Forget what a stopped run did.", "--restart")] = False,
    prefix: Annotated[str, _option("Put before the names of the results in the output.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per result.")] = False,
) -> None: ...


@dataclass(frozen=True)
class TaskIO:
    """Where rows come from and results go; see `_declared`."""

    file: Path | None
    out: Path | None
    field: list[str] | None
    skip_bad: bool
    overwrite: bool
    restart: bool
    prefix: str
    as_json: bool

    def work(
        self,
        opening: Callable[[], Task],
        texts: Sequence[str] | Sequence[Row] | None,
        *,
        whole: bool = False,
        show: Show | None = None,
    ) -> None:
        """Runs a task on what the user gave.

        Args:
            opening: Opens the task, once it is known that there is something to do.
            texts: Given on the command line; None or none: standard input, or the file.
            whole: Standard input is one text, not one per line.
            show: Draws results for a terminal; else they are printed as they are.
        """
        from zhixing.core.device import tune_allocator
        from zhixing.core.errors import BadInput

        if texts and self.file is not None:
            raise BadInput("a text and --file were given: choose one", remedy="leave one out")
        if self.out is not None and self.file is None:
            raise BadInput("--out goes with --file", remedy="name the input with --file, or use > FILE")
        self._check_idle()
        if self.file is not None:
            self._check_file()
        elif not texts and sys.stdin.isatty():
            raise BadInput("there is nothing to work on", remedy="give a text, pipe one in, or name a --file")
        tune_allocator()
        task = opening()
        if self.file is not None and self.out is not None:
            self._to_file(task, self.file, self.out)
        elif self.file is not None:
            self._print(task, _of_file(task, self.file, self.field or []), show)
        elif texts:
            self._print(task, ((_row(task, text), None) for text in texts), show)
        else:
            self._print(task, ((row, None) for row in _of_input(task, whole)), show)

    def _check_idle(self) -> None:
        """Refuses options that would do nothing."""
        from zhixing.core.errors import BadInput

        if self.field and self.file is None:
            raise BadInput(
                "this goes with --file", where="--field", remedy="name the input with --file, or leave it out"
            )
        for name in ("overwrite", "restart", "prefix"):
            if getattr(self, name) and self.out is None:
                raise BadInput(
                    "this goes with --out", where=f"--{name}", remedy="name the output with --out, or leave it out"
                )

    def _check_file(self) -> None:
        """Finds faults of the paths before a model is opened."""
        from zhixing.core.errors import MissingResource
        from zhixing.tasks.files.writing import check_target

        assert self.file is not None
        if not self.file.exists():
            raise MissingResource("no such file", where=str(self.file), remedy="check the path")
        if self.out is not None:
            check_target(self.out, self.overwrite)

    def _to_file(self, task: Task, file: Path, out: Path) -> None:
        from zhixing.tasks.files import run_file

        outcome = run_file(
            task, file, out, fields=self.field or [], skip_bad=self.skip_bad, overwrite=self.overwrite,
            restart=self.restart, prefix=self.prefix,
        )  # fmt: skip
        for line, message in outcome.faults:
            _say(f"{file}{f':{line}' if line else ''}: {message}")
        if self.as_json:
            print(json.dumps(outcome.to_json(), ensure_ascii=False))
            return
        bad = f", {outcome.bad:,} of them bad" if outcome.bad else ""
        _say(f"{outcome.rows:,} rows{bad}: {out}")

    def _print(self, task: Task, placed: Iterator[tuple[Row | Fault, str | None]], show: Show | None) -> None:
        """Prints the results of rows, each of which comes with its place in a file, if it has one."""
        from zhixing.core.errors import BadInput
        from zhixing.tasks.base import Fault, run_rows

        draw = show if show is not None and sys.stdout.isatty() and not self.as_json else None
        place = 0
        while given := list(islice(placed, task.chunk)):
            chunk = [row for row, _ in given]
            results = run_rows(task, chunk)
            bad = next((index for index, one in enumerate(results) if isinstance(one, Fault)), None)
            if bad is not None and not self.skip_bad:
                self._emit(chunk[:bad], results[:bad], draw)
                fault = results[bad]
                assert isinstance(fault, Fault)
                where = given[bad][1] or (f"text {place + bad + 1}" if place + len(chunk) > 1 else None)
                remedy = "pass over such texts with --skip-bad" if where else None
                raise BadInput(fault.message, where=where, remedy=remedy)
            self._emit(chunk, results, draw)
            place += len(chunk)
        if not place:
            raise BadInput("there is nothing to work on: the input is empty", where="standard input")

    def _emit(self, rows: Sequence[Row | Fault], results: Sequence[Result | Fault], draw: Show | None) -> None:
        from zhixing.cli.chat_output import show as show_text
        from zhixing.tasks.base import Fault

        good = [(row, one) for row, one in zip(rows, results, strict=True) if not isinstance(one, Fault)]
        if draw is not None:
            from rich.console import Console

            if good:
                Console().print(draw([row for row, _ in good], [one for _, one in good]))  # type: ignore[misc]
            for one in results:
                if isinstance(one, Fault):
                    _say(f"bad text: {one.message}")
            return
        for one in results:
            if isinstance(one, Fault):
                _say(f"bad text: {one.message}")
            if self.as_json:
                values = {"error": one.message} if isinstance(one, Fault) else one.to_json()
                print(json.dumps(values, ensure_ascii=False))
            else:
                show_text("" if isinstance(one, Fault) else str(one), "\n")
        sys.stdout.flush()


def with_task_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of files; its parameter `io` gets them."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    shared = list(inspect.signature(_declared, eval_str=True).parameters.values())

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        io = TaskIO(**{parameter.name: values.pop(parameter.name) for parameter in shared})
        command(**values, io=io)

    parameters = [*(parameter for parameter in own if parameter.name != "io"), *shared]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    wrapped.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
    return wrapped


def _row(task: Task, text: str | Row) -> Row:
    return {task.columns[0].name: text} if isinstance(text, str) else text


def _of_file(task: Task, file: Path, fields: Sequence[str]) -> Iterator[tuple[Row | Fault, str | None]]:
    """Yields the rows of a file, each with its place."""
    from zhixing.tasks.files.reading import Reader

    return (
        (one.row, f"{file}:{one.line}" if one.line else str(file)) for one in Reader(file, task.columns, fields, _say)()
    )


def _of_input(task: Task, whole: bool) -> Iterator[Row | Fault]:
    """Yields the texts of standard input; bytes that are no UTF-8 are a fault of their line."""
    from zhixing.tasks.base import Fault

    pieces: Iterable[bytes] = [sys.stdin.buffer.read()] if whole else sys.stdin.buffer
    for piece in pieces:
        try:
            text = piece.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield Fault(f"not UTF-8 text (byte {error.start + 1}); convert it with iconv")
            continue
        if text or not whole:
            yield _row(task, text.rstrip("\r\n"))


def read_argument(text: str | None) -> str | None:
    """Returns the text of an argument; '-' stands for standard input."""
    return None if text == "-" else text


def labels_of(text: str | None) -> list[str] | None:
    """Returns labels from 'a,b,c', or from the lines of '@file'.

    Raises:
        MissingResource: There is no such file.
    """
    if text is None:
        return None
    if text.startswith("@"):
        from zhixing.core.errors import BadInput
        from zhixing.core.files import os_fault

        path = Path(text[1:])
        try:
            return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise BadInput(f"not UTF-8 text (byte {error.start})", where=str(path)) from error
        except OSError as error:
            raise os_fault(error, path, "reading labels") from error
    return [label.strip() for label in text.replace("，", ",").split(",") if label.strip()]


def short(text: str, width: int = 60) -> str:
    """Returns the beginning of a text on one line, safe to show on a terminal."""
    from zhixing.cli.chat_output import VISIBLE

    line = " ".join(text[: 4 * width].translate(VISIBLE).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _say(message: str) -> None:
    from zhixing.core.progress import say

    say(message)

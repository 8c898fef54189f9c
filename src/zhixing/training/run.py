"""The run folder: its recipe, metrics, facts and state, and the lock that keeps a second process out.

What is not here: checkpoints (`training.state`) and what the numbers mean.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, TextIO

from zhixing.core.errors import BadInput, MissingResource, ZhixingError, command
from zhixing.core.files import FolderLock, atomic_write, os_fault, read_json
from zhixing.core.recipe import Recipe, load_recipe
from zhixing.training.resolve import check_resolved


class Run:
    """A run folder, locked by this process.

    Args:
        folder: The folder.
        recipe: The recipe; written to the folder by `save_recipe`.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        self.lock = FolderLock(folder)
        self._metrics: TextIO | None = None

    @classmethod
    def create(cls, folder: Path, recipe: Recipe) -> Run:
        """Starts a new run.

        Raises:
            BadInput: The folder already holds a run, which is never overwritten, or other files.
        """
        if (folder / "recipe.yaml").exists():
            raise BadInput(
                "this folder already holds a run, which is never overwritten",
                where=str(folder),
                remedy=f"go on with it: {command('zhixing', 'resume', folder)}; or give another folder: --run FOLDER",
            )
        if folder.is_file():
            raise BadInput("a run is a folder, this is a file", where=str(folder), remedy="give a folder: --run FOLDER")
        if folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
            raise BadInput("not an empty folder", where=str(folder), remedy="give another folder: --run FOLDER")
        run = cls(folder, recipe)
        try:
            run.save_recipe()
            run.set_state("preparing")
        except ZhixingError:
            run.discard()
            raise
        return run

    def discard(self) -> None:
        """Removes the folder: for a run that failed before anything of it was worth keeping."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Opens an existing run.

        Raises:
            MissingResource: The folder is not there or holds no run.
        """
        if not (folder / "recipe.yaml").exists():
            raise MissingResource("no run here (no recipe.yaml)", where=str(folder), remedy="`zhixing runs` lists them")
        recipe = load_recipe(folder / "recipe.yaml")
        check_resolved(recipe, str(folder / "recipe.yaml"))
        return cls(folder, recipe)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.folder / "checkpoints"

    def save_recipe(self) -> None:
        """Writes the recipe as it now stands."""
        atomic_write(self.folder / "recipe.yaml", self.recipe.to_yaml())

    def set_state(self, state: str, **details: Any) -> None:
        """Records whether the run is preparing, running, finished, interrupted or failed, and what goes with it."""
        values = {**self.state(), "state": state, **details, "updated": time.time()}
        atomic_write(self.folder / "state.json", json.dumps(values, indent=1))

    def state(self) -> dict[str, Any]:
        """Returns the recorded state; empty before the first."""
        return self._mapping("state.json")

    def facts(self) -> dict[str, Any]:
        """Returns what is known of data, tokenizer, model, machine and results."""
        return self._mapping("facts.json")

    def _mapping(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.exists():
            return {}
        remedy = f"it is written again: {command('rm', path)} && {command('zhixing', 'resume', self.folder)}"
        try:
            values = read_json(path)
        except BadInput as error:
            raise BadInput(error.cause, where=error.where, remedy=remedy) from error
        if not isinstance(values, dict):
            raise BadInput("not a mapping", where=str(path), remedy=remedy)
        return values

    def add_facts(self, **sections: Any) -> None:
        """Adds or replaces sections of the facts."""
        values = {**self.facts(), **sections}
        atomic_write(self.folder / "facts.json", json.dumps(values, indent=1, ensure_ascii=False))

    def log(self, kind: str, **values: Any) -> None:
        """Appends one line to metrics.jsonl."""
        try:
            if self._metrics is None:
                self._metrics = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._metrics.write(json.dumps({"kind": kind, **values}, ensure_ascii=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise os_fault(error, self.folder / "metrics.jsonl", "writing metrics") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Reads metrics.jsonl; a last line that a crash cut short is left out."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                row = None
            if isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("step"), int):
                rows.append(row)
            elif number < len(lines):
                raise BadInput(
                    "this line is no record of a step or an event",
                    where=f"{path}:{number}",
                    remedy=f"remove the line (its figures are lost, training is not): sed -i.bak {number}d "
                    + command(path),
                )
        return rows

    def rewind_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drops the measurements after `step` from metrics.jsonl and returns them: they will be computed again."""
        rows = self.metrics()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        after = [row for row in rows if row["kind"] != "event" and row["step"] > step]
        kept = [row for row in rows if row["kind"] == "event" or row["step"] <= step]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        if rows:
            atomic_write(self.folder / "metrics.jsonl", content)
        return after

    def sync(self) -> None:
        """Makes the metrics durable."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """Closes the files and gives the lock back."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        self.lock.release()

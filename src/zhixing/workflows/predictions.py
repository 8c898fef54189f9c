"""What a finished run predicted for its held-out records, kept in its folder: for people, and to compare runs by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import atomic_file, os_fault

FILE = "predictions.jsonl"


def keep_predictions(folder: Path, predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """Writes predictions beside what is right, one record on each line.

    Raises:
        MissingResource: The folder cannot be written.
    """
    with atomic_file(folder / FILE) as file:
        for one, right in zip(predictions, references, strict=False):
            line = json.dumps({"prediction": one, "reference": right}, ensure_ascii=False, default=_plain)
            file.write((line + "\n").encode("utf-8", "replace"))


def _plain(value: Any) -> Any:
    """Turns what JSON does not know into what it does: tuples of tuples, numbers of numpy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, set | frozenset) else str(value)


def kept_predictions(folder: Path) -> tuple[list[Any], list[Any]]:
    """Returns the predictions of a finished run, and what is right.

    Raises:
        MissingResource: The run kept none.
        BadInput: The file is damaged.
    """
    path = folder / FILE
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [row["prediction"] for row in rows], [row["reference"] for row in rows]
    except FileNotFoundError as error:
        raise MissingResource("the run kept no predictions", where=str(path), remedy="train it anew") from error
    except OSError as error:
        raise os_fault(error, path, "reading the predictions") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput("this is no file of predictions", where=str(path), remedy="train the run anew") from error

"""Task files of one's own for benchmarks: lm-eval's YAML beside JSONL, CSV or Parquet files, read as data.

lm-eval lets a task file name Python functions (`!function`), classes and metrics that are fetched and run. A file that
was downloaded could so run anything; here such a file is refused, and templates are filled in a sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import os_fault

READERS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
SUFFIXES = (".yaml", ".yml")
REFUSED = {
    "class": "a class of Python",
    "hf_evaluate": "a metric that is fetched and run",
    "unsafe_code": "generated code that is run",
}
"""Keys that would run code, and what of."""


class _Loader(yaml.SafeLoader):
    """Plain YAML without lm-eval's `!function`."""


def _refuse(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    raise BadInput(
        f"the task names code to run (!{suffix})",
        where=f"line {node.start_mark.line + 1}",
        remedy="use a template instead: doc_to_text, doc_to_target and doc_to_choice take jinja2",
    )


_Loader.add_multi_constructor("!", _refuse)


def is_task_file(name: str) -> bool:
    """Tells whether a task's name is that of a file."""
    return name.lower().endswith(SUFFIXES)


def load_task_file(path: Path) -> dict[str, Any]:
    """Reads a task file, with what it includes.

    `dataset_path` may name a file of data beside the task file; paths in `dataset_kwargs.data_files` likewise.

    Raises:
        MissingResource: The task file or its data are not there.
        BadInput: It is no task, or one that would run code.
    """
    values = _read(path, ())
    if not isinstance(values.get("task"), str):
        raise BadInput("a task file names its task: `task: my-task`", where=str(path))
    for key, what in REFUSED.items():
        if values.get(key):
            raise BadInput(f"the task names {what} ({key})", where=str(path), remedy="leave it out")
    for metric in values.get("metric_list") or ():
        if isinstance(metric, dict) and metric.get("hf_evaluate"):
            raise BadInput("the task names a metric that is fetched and run (hf_evaluate)", where=str(path))
    _local_data(values, path)
    return values


def _read(path: Path, seen: Iterable[Path]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise BadInput("the task file includes itself", where=str(path))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except BadInput as fault:
        raise BadInput(fault.cause, where=f"{path}: {fault.where}", remedy=fault.remedy) from None
    except FileNotFoundError as error:
        raise MissingResource("no such task file", where=str(path)) from error
    except OSError as error:
        raise os_fault(error, path, "reading the task") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise BadInput("not valid YAML", where=f"{path}:{mark.line + 1}" if mark else str(path)) from error
    if not isinstance(values, dict):
        raise BadInput("a task file is a mapping", where=str(path), remedy="see docs/benchmarking.md")
    included = values.pop("include", None) or []
    merged: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        merged |= _read(path.parent / str(name), (*seen, path))
    return merged | values


def _local_data(values: dict[str, Any], path: Path) -> None:
    """Turns names of data files into what the `datasets` library takes."""
    folder = path.resolve().parent
    source = values.get("dataset_path")
    if isinstance(source, str) and (kind := _reader(source)) is not None:
        data = folder / source
        if not data.is_file():
            raise MissingResource("the task's data are not there", where=str(data), remedy=f"named in {path}")
        split = values.get("test_split") or values.get("validation_split") or "test"
        values.setdefault("test_split", split)
        values["dataset_path"] = kind
        more = {"delimiter": "\t"} if ".tsv" in data.suffixes else {}
        values["dataset_kwargs"] = {**more, **(values.get("dataset_kwargs") or {}), "data_files": {split: str(data)}}
        return
    kwargs = values.get("dataset_kwargs")
    if isinstance(kwargs, dict) and kwargs.get("data_files") and source in READERS.values():
        kwargs["data_files"] = _placed(kwargs["data_files"], folder, path)


def _reader(name: str) -> str | None:
    suffixes = Path(name).suffixes
    if suffixes and suffixes[-1] in (".gz", ".zst", ".xz", ".bz2"):
        suffixes = suffixes[:-1]
    return READERS.get(suffixes[-1].lower()) if suffixes else None


def _placed(files: Any, folder: Path, path: Path) -> Any:
    if isinstance(files, dict):
        return {split: _placed(several, folder, path) for split, several in files.items()}
    if isinstance(files, list):
        return [_placed(one, folder, path) for one in files]
    place = folder / str(files)
    if not place.exists() and "*" not in str(files):
        raise MissingResource("the task's data are not there", where=str(place), remedy=f"named in {path}")
    return str(place)

"""Writing a mended copy: good rows byte for byte as they were, others as the diagnosis plans it; never over the
original."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from zhixing.core.errors import BadInput
from zhixing.core.files import atomic_file
from zhixing.data.doctor.examine import NESTED, Diagnosis, Plan
from zhixing.data.doctor.raw import Raw, Shell, read_raw, write_row
from zhixing.data.shapes.detect import Detection
from zhixing.data.sources import Source
from zhixing.data.streams import open_source

BATCH = 256
"""Rows of Parquet written at a time."""
ENDINGS = {"jsonl": {".jsonl"}, "json": {".json"}, "table": {".csv", ".tsv"}, "parquet": {".parquet"}}
"""Endings that say how a file is written, by the form that they say."""
PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


def write_mended(diagnosis: Diagnosis, out: str | Path) -> list[Path]:
    """Writes a mended copy of every file that was understood.

    Args:
        diagnosis: What `examine` returned.
        out: A file, when one file was examined and its name has the same ending; else a folder.

    Returns:
        The files that were written, in the order of `diagnosis.plans`.

    Raises:
        BadInput: A file is there already, its name promises another form than the original's, or nothing was
            understood.
        MissingResource: It cannot be written.
    """
    plans = [plan for plan in diagnosis.plans if plan.found is not None and plan.rows]
    if not plans:
        raise BadInput("no file was understood, so there is nothing to mend", remedy="see what was found first")
    targets = _targets(plans, Path(out))
    for plan, target in zip(plans, targets, strict=True):
        if target.exists():
            raise BadInput("it is there already", where=str(target), remedy="choose another place for the mended copy")
        if target.resolve() == plan.source.path.resolve():
            raise BadInput("a mended copy is not written over the original", where=str(target))
    for plan, target in zip(plans, targets, strict=True):
        _write(plan, target)
    return targets


def _targets(plans: list[Plan], out: Path) -> list[Path]:
    if len(plans) == 1 and out.suffix and not out.is_dir():
        _check_ending(plans[0], out)
        return [out]
    names = [_name(plan.source) for plan in plans]
    parents = [str(name.parent) for name in names]
    common = Path(os.path.commonpath(parents)) if len(plans) > 1 else names[0].parent
    return [out / name.relative_to(common) for name in names]


def _ending(name: str) -> str:
    """Returns the ending of a file's name, without that of its compression."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def _check_ending(plan: Plan, out: Path) -> None:
    """Refuses a name that would make readers expect another form than the original's, which the copy has too."""
    assert plan.found is not None
    kind, ending, own = plan.found.form.kind, _ending(out.name), _ending(plan.source.member or plan.source.path.name)
    if kind == "json" and plan.shell.style == "values":
        kind = "jsonl"  # one value after the other, whatever the name
    promised = any(ending in endings for endings in ENDINGS.values())
    if promised and ending != own and (kind == "table" or ending not in ENDINGS.get(kind, set())):
        raise BadInput(
            f"a mended copy is written as the original is ({own or 'plain lines'}), and {ending} names another form",
            where=str(out),
            remedy=f"name it {out.name.removesuffix(out.suffix) if out.suffix not in PACKED else 'mended'}{own}",
        )


def _name(source: Source) -> Path:
    """Returns the path of a file, of a zip member the path inside a folder named like the archive."""
    path = source.path.absolute()
    return path if source.member is None else path.with_suffix("") / source.member


def _write(plan: Plan, target: Path) -> None:
    as_packed = PACKED.get(target.suffix.lower(), "none") == plan.source.compression
    if not plan.touched and plan.source.member is None and as_packed:
        with atomic_file(target) as file, plan.source.path.open("rb") as original:
            shutil.copyfileobj(original, file, 1 << 20)
        return
    found = plan.found
    assert found is not None
    with ExitStack() as stack:
        written: Any = stack.enter_context(atomic_file(target))
        if found.form.kind == "parquet":
            _write_parquet(plan, found, written)
            return
        if target.suffix.lower() == ".gz":
            written = stack.enter_context(gzip.GzipFile(fileobj=written, mode="wb", mtime=0))
        elif target.suffix.lower() in (".zst", ".zstd"):
            import zstandard

            written = stack.enter_context(zstandard.ZstdCompressor().stream_writer(written, closefd=False))
        for text in _texts(plan, found):
            written.write(text.encode("utf-8"))


def _texts(plan: Plan, found: Detection) -> Iterator[str]:
    """Yields the text of the mended file, in pieces."""
    shell = Shell()
    rows = _rows(plan, found, shell)
    if found.form.kind != "json":
        for raw, row in rows:
            yield raw.text if row is None else write_row(row, raw, found.form)
        return
    between = ""
    for raw, row in rows:
        if not between:
            # A reader knows what stands around the rows once it has seen the first one.
            yield {"array": "[\n", "data": _opening(shell.others)}.get(shell.style, "")
        yield between + (raw.text if row is None else write_row(row, raw, found.form))
        between = "\n" if shell.style == "values" else ",\n"
    if not between:
        yield {"array": "[", "data": _opening(shell.others)}.get(plan.shell.style, "")
    yield {"array": "\n]\n", "data": "\n]}\n"}.get(plan.shell.style, "\n")


def _opening(others: Mapping[str, Any]) -> str:
    fields = "".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}, " for key, value in others.items())
    return f'{{{fields}"data": [\n'


def _rows(plan: Plan, found: Detection, shell: Shell) -> Iterator[tuple[Raw, Any]]:
    """Yields the rows that stay, each with its mended form, None when it stays as it is."""

    def silent(kind: str, line: int | None, message: str) -> None:
        """Was reported when the file was examined."""

    for number, raw in enumerate(read_raw(plan.readable, found.form, shell, silent)):
        if number in plan.left_out or (plan.shortened is not None and number >= plan.shortened):
            continue
        row = plan.anew.get(number)
        if number in plan.questions:
            row = _without_questions(row if row is not None else raw.row, plan, found, number)
        if plan.labels and raw.row is not None:
            row = _relabelled(row if row is not None else raw.row, plan, found) or row
        yield raw, row


def _relabelled(row: Any, plan: Plan, found: Detection) -> Any:
    column = found.columns.get("label")
    if column is None or not isinstance(row, Mapping):
        return None
    value = row.get(column)
    if isinstance(value, list):
        new: Any = [plan.labels.get(str(one).strip(), one) for one in value]
    else:
        new = plan.labels.get(str(value).strip(), value)
    return None if new == value else {**row, column: new}


def _without_questions(row: Any, plan: Plan, found: Detection, number: int) -> Any:
    """Takes questions out of a nested row, each as often as it was planned, the last ones first."""
    assert found.layout in NESTED
    column = found.columns.get("paragraphs")
    paragraphs = [dict(one) for one in (row[column] if column else [row])]
    for unwanted in reversed(plan.questions[number]):
        for paragraph in reversed(paragraphs):
            asked = list(paragraph.get("qas", ()))
            places = [
                place
                for place, entry in enumerate(asked)
                if str(entry.get("id", entry.get("query_id", ""))) == unwanted.id
                and entry.get("question", entry.get("query_text")) == unwanted.question
            ]
            if places:
                del asked[places[-1]]
                paragraph["qas"] = asked
                break
    return {**row, column: paragraphs} if column else paragraphs[0]


def _write_parquet(plan: Plan, found: Detection, file: BinaryIO) -> None:
    import pyarrow
    import pyarrow.parquet

    with open_source(plan.readable) as stream:
        schema = pyarrow.parquet.read_schema(pyarrow.BufferReader(stream.read()))
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        batch = []
        for raw, row in _rows(plan, found, Shell()):
            batch.append(raw.row if row is None else row)
            if len(batch) == BATCH:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))

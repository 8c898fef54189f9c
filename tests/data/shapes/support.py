"""Small files in every layout."""

import gzip
import json
import zipfile

import pyarrow
import pyarrow.parquet
import zstandard

from zhixing.data import shapes
from zhixing.data.problems import Problems


def write(path, content):
    """Writes text, bytes, or a value as JSON."""
    if not isinstance(content, str | bytes):
        content = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def lines(rows):
    """Returns rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def records(path, **options):
    """Reads all records of a file, without any problem allowed but notes."""
    problems = Problems()
    found = [placed.record for placed in shapes.read(path, problems=problems, **options)]
    assert not problems.faults, problems.summary()
    return found


def faulty(path, **options):
    """Reads all records of a file; returns them and what was reported, without the notes on shapes."""
    problems = Problems(keep=100)
    found = [placed.record for placed in shapes.read(path, problems=problems, **options)]
    told = [problem for kind, group in problems.examples.items() if kind != "shape" for problem in group]
    return found, told


def packed(path, data, kind):
    """Writes bytes plain or compressed, and returns the path."""
    if kind == "gz":
        return write(path.with_name(path.name + ".gz"), gzip.compress(data))
    if kind == "zst":
        return write(path.with_name(path.name + ".zst"), zstandard.ZstdCompressor().compress(data))
    if kind == "zip":
        target = path.with_name("packed.zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.name, data)
        return target
    return write(path, data)


def parquet(path, rows):
    """Writes rows as Parquet."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path

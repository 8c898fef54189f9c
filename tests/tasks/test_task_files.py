"""Tasks over files: order, bad rows, formats, and runs that are killed at any point."""

import csv
import gzip
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from zhixing.core.errors import BadInput, Interrupted, MissingResource
from zhixing.models import ops
from zhixing.tasks.base import TEXT, Column, Fault, Row, run_rows
from zhixing.tasks.files import run_file
from zhixing.tasks.files.products import settled_matmul
from zhixing.tasks.files.reading import Reader


class Upper:
    """Writes texts in capitals; refuses what holds 'bad'; dies when told to."""

    name = "upper"
    columns = (TEXT,)
    outputs = ("prediction", "length")
    chunk = 4

    def __init__(self, dies_after: int = 10**9, setting: int = 0) -> None:
        self.left, self.setting = dies_after, setting

    def identity(self) -> dict[str, Any]:
        return {"setting": self.setting}

    def run(self, rows: list[Row]) -> list["Shout"]:
        for row in rows:
            if "bad" in row["text"]:
                raise BadInput("this text is bad")
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return [Shout(row["text"].upper()) for row in rows]


class Shout:
    def __init__(self, text: str) -> None:
        self.text = text

    def to_json(self) -> dict[str, Any]:
        return {"prediction": self.text, "length": len(self.text)}

    def __str__(self) -> str:
        return self.text


def lines(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"id": n, "text": f"text {n}\nx"}) + "\n" for n in range(count)))
    return path


def test_rows_keep_their_order_and_bad_ones_their_place(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"text": "one"}\n{"text": "so bad"}\n\n{oops\n{"text": ""}\n'
        '{"text": "a\\u0000b"}\n{"text": 3}\n7\n{"text": "two"}\n'
    )
    outcome = run_file(Upper(), path, tmp_path / "out.jsonl", skip_bad=True)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row.get("prediction") for row in rows] == ["ONE", None, None, None, None, None, None, "TWO"]
    assert [line for line, _ in outcome.faults] == [2, 4, 5, 6, 7, 8]
    assert outcome.bad == 6
    assert "bad" in rows[1]["error"]
    assert "JSON" in rows[2]["error"]
    assert "empty" in rows[3]["error"]
    assert "NUL" in rows[4]["error"]
    assert "not text" in rows[5]["error"]


def test_without_skipping_the_first_bad_row_stops_the_run_and_what_is_done_is_kept(tmp_path: Path) -> None:
    path = lines(tmp_path / "in.jsonl", 10)
    whole = path.read_text()
    path.write_text(whole.replace("text 6", "text bad"))
    with pytest.raises(BadInput, match=r"in.jsonl:7: this text is bad[\s\S]*--skip-bad[\s\S]*4 rows"):
        run_file(Upper(), path, tmp_path / "out.jsonl")
    outcome = run_file(Upper(), path, tmp_path / "out.jsonl", skip_bad=True)
    assert (outcome.resumed, outcome.rows, outcome.bad) == (4, 10, 1)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.tsv", "out.txt", "out.jsonl.gz", "out.csv.gz"])
def test_a_killed_run_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "in.jsonl", 33)
    run_file(Upper(), path, tmp_path / "whole" / name, skip_bad=True)
    target = tmp_path / "parts" / name
    stops = 0
    for attempt in range(30):
        try:
            run_file(Upper(dies_after=attempt % 3), path, target, skip_bad=True)
            break
        except Interrupted as stopped:
            stops += 1
            assert "kept" in str(stopped)
            part = target.with_name(name + ".part")
            if part.exists() and attempt % 2:  # what a kill leaves behind the last commit
                part.write_bytes(part.read_bytes() + random.Random(attempt).randbytes(50))
    assert stops > 5
    assert target.read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(file.name for file in target.parent.iterdir()) == [name]


def test_tables_and_packed_files(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,Text\n1,"a, b"\n2,"c\nd"\n3,\n4\n')
    run_file(Upper(), tmp_path / "in.csv", tmp_path / "out.csv.gz", skip_bad=True)
    rows = list(csv.DictReader(io.StringIO(gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).decode())))
    assert [row["prediction"] for row in rows] == ["A, B", "C\nD", "", ""]
    assert [row["id"] for row in rows] == ["1", "2", "3", ""]
    assert rows[2]["error"] == "the text is empty"
    assert "cells" in rows[3]["error"]
    (tmp_path / "in.tsv").write_text("7\tseven\n8\teight\n")
    run_file(Upper(), tmp_path / "in.tsv", tmp_path / "out.txt", fields=["2"])
    assert (tmp_path / "out.txt").read_text() == "SEVEN\nEIGHT\n"
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress("知行\nsecond\\\n".encode()))
    run_file(Upper(), tmp_path / "in.txt.gz", tmp_path / "lines.txt")
    assert (tmp_path / "lines.txt").read_text() == "知行\nSECOND\\\\\n"


def test_a_gb18030_file_is_read_and_said(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes("知行合一，道可道，非常道。\n学而时习之，不亦说乎？\n".encode("gb18030"))
    said: list[str] = []
    run_file(Upper(), tmp_path / "in.txt", tmp_path / "out.jsonl", say=said.append)
    assert "知行合一" in (tmp_path / "out.jsonl").read_text()
    assert any("GB18030" in note for note in said)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"headline": "x"}\n', {}, r"no field has a usual name of the text[\s\S]*--field text=FIELD[\s\S]*headline"),
        ('{"headline": "x"}\n', {"fields": ["headlin"]}, r"no field 'headlin'[\s\S]*did you mean 'headline'"),
        ('{"text": "x"}\n', {"fields": ["foo=text"]}, "this task reads text"),
        ('{"text": "x", "prediction": 1}\n', {}, r"field 'prediction' already[\s\S]*--prefix"),
        ("", {}, "empty"),
        ("\n \n", {}, "white space"),
        ("\x00\x01\x02" * 500, {}, "binary"),
    ],
)
def test_what_cannot_be_read_is_said(content: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(BadInput, match=message):
        run_file(Upper(), tmp_path / "in.jsonl", tmp_path / "out.jsonl", **options)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl"]


def test_a_run_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    path, out = lines(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    with pytest.raises(Interrupted):
        run_file(Upper(dies_after=1), path, out)
    with pytest.raises(BadInput, match="another model or settings"):
        run_file(Upper(setting=1), path, out)
    lines(path, 12)
    with pytest.raises(BadInput, match=r"another input file[\s\S]*--restart"):
        run_file(Upper(), path, out)
    assert run_file(Upper(setting=1), path, out, restart=True).rows == 12
    with pytest.raises(BadInput, match="--overwrite"):
        run_file(Upper(), path, out)
    with pytest.raises(BadInput, match="own input"):
        run_file(Upper(), path, path, overwrite=True)
    with pytest.raises(BadInput, match=r"\.xml"):
        run_file(Upper(), path, tmp_path / "out.xml")
    with pytest.raises(MissingResource):
        run_file(Upper(), tmp_path / "none.jsonl", out, overwrite=True)
    with pytest.raises(BadInput, match="folder"):
        run_file(Upper(), tmp_path, out, overwrite=True)


def test_a_damaged_state_is_said(tmp_path: Path) -> None:
    path, out = lines(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    with pytest.raises(Interrupted):
        run_file(Upper(dies_after=2), path, out)
    shutil.move(tmp_path / "out.jsonl.part", tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="is gone"):
        run_file(Upper(), path, out)
    (tmp_path / "out.jsonl.state").write_text("[]")
    with pytest.raises(BadInput, match="not the state"):
        run_file(Upper(), path, out)


def test_several_columns_are_found_or_named(tmp_path: Path) -> None:
    columns = (Column("question", ("query",)), Column("context", ("passage",)), Column("hint", (), optional=True))
    path = tmp_path / "in.jsonl"
    path.write_text('{"Query": "q", "passage": ["a", "b"], "x": "h"}\n{"Query": "q2", "passage": "p"}\n')
    rows = [one.row for one in Reader(path, columns, ["hint=x", "context=passage"], print)()]
    assert rows == [{"question": "q", "context": "a\nb", "hint": "h"}, {"question": "q2", "context": "p"}]
    (tmp_path / "in.txt").write_text("one\n")
    with pytest.raises(BadInput, match="question and context"):
        list(Reader(tmp_path / "in.txt", columns, [], print)())


def test_a_group_that_fails_is_halved() -> None:
    rows: list[Row | Fault] = [{"text": word} for word in "a b bad c d bad e".split()]
    rows[3] = Fault("broken")
    results = run_rows(Upper(), rows)
    assert [str(one) if isinstance(one, Shout) else one.message for one in results] == [
        "A", "B", "this text is bad", "broken", "D", "this text is bad", "E",
    ]  # fmt: skip


def test_the_library_of_products_is_settled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    before = ops.matmul_backend()
    try:
        ops.set_matmul("onednn")
        assert settled_matmul() == "onednn"
        ops.set_matmul("torch")  # another measurement, on a busy machine
        assert settled_matmul() == "onednn"
        (tmp_path / "cache" / "products.json").write_text("[]")
        assert settled_matmul() == "torch"
        monkeypatch.setenv("ZHIXING_CACHE", "/dev/null/nowhere")
        ops.set_matmul("onednn")
        assert settled_matmul() == "torch"  # what cannot be kept must not depend on a measurement
    finally:
        ops.set_matmul(before)

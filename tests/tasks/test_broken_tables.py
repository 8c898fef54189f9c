"""Tables and records that are broken: each fault in its place, and no row behind it lost."""

import csv
import datetime
import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.tasks.support import run
from tests.tasks.test_task_files import Upper
from zhixing.core.errors import BadInput, MissingResource
from zhixing.tasks.files import run_file


def outcome(path: Path, out: str = "out.jsonl", **options: object) -> list[dict[str, object]]:
    target = path.with_name(out)
    run_file(Upper(), path, target, skip_bad=True, say=lambda _: None, **options)  # type: ignore[arg-type]
    if out.endswith(".jsonl"):
        return [json.loads(line) for line in target.read_text().splitlines()]
    with target.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('id,text\n1,"a film\n2,second\n3,third\n', 2),  # to the end of the file
        ('id,text\n1,first\n2,"a film\n3,a "third" film\n4,"fourth"\n', 3),  # to the next mark, which is another one's
        ('id,text\n1,"a film\n2,"second"\n3,"two\nlines"\n', 2),
    ],
)
def test_a_mark_that_is_not_closed_costs_one_row(content: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(content)
    with pytest.raises(BadInput, match=rf"in\.csv:{line}: a quotation mark opens a cell in this line"):
        run_file(Upper(), path, tmp_path / "out.csv", say=lambda _: None)
    rows = outcome(path, "out.csv")
    expected = len(content.replace("two\n", "").splitlines()) - 1
    assert len(rows) == expected
    assert [number for number, row in enumerate(rows) if row["error"]] == [line - 2]


def test_marks_within_a_line_and_in_tsv_are_read_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,text\n1,"a wonderful" film\n2,5" wide\n3,"two\nlines"\n4,"a ""b"""\n')
    assert [row["text"] for row in outcome(tmp_path / "in.csv")] == [
        "a wonderful film",
        '5" wide',
        "two\nlines",
        'a "b"',
    ]
    (tmp_path / "in.tsv").write_text('id\ttext\n1\t"Go" he said\n2\t"never ends\n3\t"two\nlines"\n4\tx\n')
    rows = outcome(tmp_path / "in.tsv", "tsv.jsonl")
    assert [row["text"] for row in rows] == ['"Go" he said', '"never ends', "two\nlines", "x"]


def test_lines_are_counted_behind_one_that_does_not_decode(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,text\n" + b"1,x\n" * 40 + b"2,caf\xff\n3,bad\n")
    rows = outcome(tmp_path / "in.csv")
    assert "line" in rows[40]
    with pytest.raises(BadInput, match=r"in\.csv:42: not UTF-8"):
        run_file(Upper(), tmp_path / "in.csv", tmp_path / "again.jsonl", say=lambda _: None)
    (tmp_path / "in.csv").write_bytes(b"id,text\n" + b"1,x\n" * 40 + b"2,caf\xff\n3\n")
    assert [row.get("line") for row in outcome(tmp_path / "in.csv", "third.jsonl")[40:]] == [42, 43]


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("text,id,text", "two columns have the name 'text'; give each its own"),
        ("text,id,id", "two columns have the name 'id'; give each its own"),
        ("text,,", "two columns have no name; give each its own"),
        ('text,"id,other', "the row that names the columns is broken"),
    ],
)
def test_columns_that_cannot_be_told_apart(header: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"{header}\na,b,c\nd,e,f\n")
    for skip in (False, True):
        with pytest.raises(BadInput) as fault:
            run_file(Upper(), tmp_path / "in.csv", tmp_path / "out.csv", skip_bad=skip)
        assert f"in.csv:1: {told}" in str(fault.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ('{"text": null}', "the field 'text' is not text: null"),
        ('{"text": 5}', "the field 'text' is not text: 5"),
        ("null", "a record with named fields is expected, got null"),
        ("[1, 2]", "a record with named fields is expected, got [1, 2]"),
        ("{}", "the record is empty"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_record_without_text_is_a_bad_row_wherever_it_stands(
    bad: str, told: str, first: bool, tmp_path: Path
) -> None:
    lines = ['{"text": "a film"}'] * 5
    lines.insert(0 if first else 5, bad)
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines))
    for out in ("stopped.jsonl", "stopped.csv"):
        with pytest.raises(BadInput) as fault:
            run_file(Upper(), path, tmp_path / out)
        assert f"in.jsonl:{1 if first else 6}: {told}" in str(fault.value)
    for out in ("out.jsonl", "out.csv"):
        rows = outcome(path, out)
        assert [row.get("error") or "" for row in rows] == ["" if line != bad else told for line in lines]


def test_lines_of_a_text_are_one_from_the_first_row_on(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": ["a film", "boring"]}\n{"text": []}\n{"text": [1]}\n{"text": "x"}\n')
    rows = outcome(tmp_path / "in.jsonl")
    assert [row.get("prediction") for row in rows] == ["A FILM\nBORING", None, None, "X"]
    (tmp_path / "in.tsv").write_text("a film\t1\nboring\t2\n")
    with pytest.raises(
        BadInput, match=r"--field text=FIELD \(its number, if there is no header row\); fields: a film, 1"
    ):
        outcome(tmp_path / "in.tsv", "tsv.jsonl")


def test_a_table_whose_first_rows_are_all_bad(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n" + "1\n" * 9 + "2,a film\n")
    rows = outcome(tmp_path / "in.csv", "out.csv")
    assert list(rows[0])[:2] == ["id", "text"]
    assert rows[9]["prediction"] == "A FILM"


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.txt"])
def test_a_file_in_another_encoding_is_no_bad_row(name: str, tmp_path: Path) -> None:
    lines = ["id,text", *(f"{k},caf\u00e9 tr\u00e8s d\u00e9j\u00e0" for k in range(9))]
    if name.endswith("l"):
        lines = [json.dumps({"text": "caf\u00e9 d\u00e9j\u00e0"}, ensure_ascii=False)] * 9
    (tmp_path / name).write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(BadInput, match="not UTF-8"):
        run_file(Upper(), tmp_path / name, tmp_path / "out.jsonl", skip_bad=True)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("out", ["out.jsonl", "out.csv"])
def test_a_field_that_a_result_would_hide_is_said_before_the_work(out: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,prediction\na film,x\n")
    with pytest.raises(BadInput, match="has a field 'prediction' already"):
        run_file(Upper(dies_after=0), tmp_path / "in.csv", tmp_path / out)


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a film\n")
    for out, kind in (("in.txt/out.jsonl", BadInput), ("/proc/nowhere/out.jsonl", MissingResource)):
        with pytest.raises(kind):
            run_file(Upper(dies_after=0), tmp_path / "in.txt", tmp_path / out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--field", "text"], "--field: this goes with --file"),
        (["--overwrite"], "--overwrite: this goes with --out"),
        (["--restart"], "--restart: this goes with --out"),
        (["--prefix", "x_"], "--prefix: this goes with --out"),
    ],
)
def test_options_that_would_do_nothing(words: list[str], message: str, models: Path, monkeypatch, capsys) -> None:
    ended = run(monkeypatch, capsys, "classify", "-m", models / "classifier", "a film", *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


def test_parquet_has_all_of_its_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    day = datetime.date(2020, 2, 1)
    columns = {"id": [1, 2], "day": [day, None], "raw": [b"\xff", b""], "cost": [Decimal("1.50")] * 2}
    parquet.write_table(pyarrow.table({**columns, "text": ["a film", None]}), tmp_path / "in.parquet")
    for out in ("out.jsonl", "out.csv"):
        first, second = outcome(tmp_path / "in.parquet", out)
        assert first["prediction"] == "A FILM"
        assert (str(first["id"]), first["day"], first["raw"], first["cost"]) == ("1", "2020-02-01", "/w==", "1.50")
        assert second["error"] == "the field 'text' is not text: null"

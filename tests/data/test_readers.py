from __future__ import annotations

import csv
import errno
import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput, MissingResource
from zhixing.data import Document, Problems, find_sources, read_documents

CHINESE = "子曰：「學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？」\n知行合一，是我们的名字，也是他们的方法。\n"


def read(*paths: Path, field: str | None = None) -> tuple[list[Document], Problems]:
    problems = Problems()
    return list(read_documents(find_sources(list(paths), problems), problems, field=field)), problems


def texts(*paths: Path, field: str | None = None) -> list[str]:
    return [document.text for document in read(*paths, field=field)[0]]


def test_plain_text_keeps_every_character(tmp_path: Path) -> None:
    content = "one\r\ntwo\rthree\x85\u2028four\n\n" + CHINESE + "  \n"
    (tmp_path / "a.txt").write_bytes(content.encode())
    [document], problems = read(tmp_path / "a.txt")
    assert document == Document(content, str(tmp_path / "a.txt"), 1)
    assert problems.total == 0


def test_long_text_is_cut_and_lines_are_counted(tmp_path: Path) -> None:
    lines = [f"line {number}\n" + "\n" * (number % 7 == 0) for number in range(1, 60_000)]
    (tmp_path / "a.txt").write_text("".join(lines))
    documents, _ = read(tmp_path / "a.txt")
    assert "".join(document.text for document in documents) == "".join(lines)
    assert len(documents) > 5
    every_line = "".join(lines).split("\n")
    for document in documents:
        assert every_line[document.line - 1] == document.text.split("\n")[0]  # type: ignore[operator]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be-bom", "utf-32", "gb18030", "gbk"])
def test_encodings(tmp_path: Path, codec: str) -> None:
    data = b"\xfe\xff" + CHINESE.encode("utf-16-be") if codec == "utf-16-be-bom" else CHINESE.encode(codec)
    (tmp_path / "a.txt").write_bytes(data)
    documents, problems = read(tmp_path / "a.txt")
    assert [document.text for document in documents] == [CHINESE]
    assert problems.counts == ({} if codec == "utf-8-sig" else {"encoding": 1})


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "gb18030"])
def test_encodings_of_tables(tmp_path: Path, codec: str) -> None:
    (tmp_path / "a.csv").write_text(f'id,text\n1,"{CHINESE}"\n2,二\n', encoding=codec, newline="")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": CHINESE}, ensure_ascii=False) + "\n", encoding=codec)
    assert texts(tmp_path / "a.csv") == [CHINESE, "二"]
    assert texts(tmp_path / "b.jsonl") == [CHINESE]


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("latin-1", "Le cœur déçu mais l'âme plutôt naïve à Noël, où çà?".replace("œ", "oe")),
        ("cp1251", "Съешь ещё этих мягких французских булок, да выпей чаю. " * 3),
        ("euc-kr", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. " * 3),
        ("shift-jis", "すべての人間は、生まれながらにして自由であり、尊厳と権利とについて平等である。" * 3),
        ("big5", "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心。" * 3),
    ],
)
def test_an_encoding_that_cannot_be_told_is_reported_not_guessed(tmp_path: Path, codec: str, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"first line\n" + text.encode(codec))
    (tmp_path / "b.txt").write_text("good")
    documents, problems = read(tmp_path)
    assert [document.text for document in documents] == ["good"]
    assert problems.counts == {"undecodable": 1}
    example = problems.examples["undecodable"][0]
    assert example.line == 2
    assert "iconv" in example.message


def test_python_sources_say_their_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("#!/usr/bin/python\n# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"))
    (tmp_path / "b.py").write_bytes("# vim: set fileencoding=koi8-r :\nx = 'ж'\n".encode("koi8-r"))
    (tmp_path / "c.py").write_bytes("x = 1\n# coding: latin-1\ny = 'é'\n".encode("latin-1"))
    (tmp_path / "d.py").write_bytes(b"# coding: idna\nx = 1\n")
    documents, problems = read(tmp_path)
    assert [document.text.splitlines()[-1] for document in documents] == [
        "x = 'é'",
        "x = 'ж'",
        "# coding: latin-1",
        "x = 1",
    ]
    assert problems.counts == {"undecodable": 1}  # the line of c.py, whose coding line stands too low


def test_few_bad_bytes_cost_their_lines_only(tmp_path: Path) -> None:
    lines = [f"line {number} 知行\n".encode() for number in range(1, 201)]
    lines[49] = b"line 50 \xff\xfe\n"
    lines[99] = b"line 100 \0\n"
    (tmp_path / "a.txt").write_bytes(b"".join(lines))
    [document], problems = read(tmp_path / "a.txt")
    assert document.text == b"".join(lines[:49] + lines[50:99] + lines[100:]).decode()
    assert [example.line for example in problems.examples["undecodable"]] == [50, 100]
    offset = sum(map(len, lines[:49])) + 8
    assert f"byte 0xff at offset {offset}" in problems.examples["undecodable"][0].message


def test_bad_bytes_far_into_a_long_file(tmp_path: Path) -> None:
    lines = ["知行合一 and so on, line after line\n".encode()] * 40_000
    lines[30_000] = b"bad \xc3\x28\n"
    (tmp_path / "a.txt").write_bytes(b"".join(lines))
    documents, problems = read(tmp_path / "a.txt")
    assert sum(document.text.count("\n") for document in documents) == 39_999
    [example] = problems.examples["undecodable"]
    assert example.line == 30_001
    assert f"offset {sum(map(len, lines[:30_000])) + 4}" in example.message


def test_mixed_folder(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "package.json").write_text('{"name": "x", "version": 1}')
    documents, problems = read(tmp_path)
    assert [document.text for document in documents] == ["good"]
    assert problems.counts == {"empty": 2, "binary": 2, "field": 1}
    assert problems.faults == 1
    assert any("package.json" in line for line in problems.summary())


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        '{"id": 1, "text": "知行"}',
        "",
        "{broken",
        '{"text": 5}',
        '{"other": "x"}',
        '{"text": ""}',
        '{"text": "half \\ud800"}',
        '{"text": "nul \\u0000"}',
        "[" * 100_000,
        '{"text": "pair \\ud83d\\ude00", "content": "no"}',
        '{"text": ["line one", "line two"]}',
        "7",
    ]
    (tmp_path / "a.jsonl").write_bytes("\n".join(rows).encode() + b'\n{"text": "\xff"}\r\n{"text": "last"}')
    documents, problems = read(tmp_path / "a.jsonl")
    assert [(document.line, document.text) for document in documents] == [
        (1, "知行"),
        (10, "pair \U0001f600"),
        (11, "line one\nline two"),
        (14, "last"),
    ]
    assert problems.counts == {"json": 2, "field": 3, "empty": 1, "undecodable": 3}
    assert problems.examples["json"][0].line == 3
    assert str(problems.examples["json"][0]).startswith(f"{tmp_path}/a.jsonl:3: ")


def test_json_lines_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhixing.data.records.RECORD_LIMIT", 1000)
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{"x" * 5000}"}}\n{{"text": "short"}}\n')
    documents, problems = read(tmp_path / "a.jsonl")
    assert [(document.line, document.text) for document in documents] == [(2, "short")]
    assert problems.counts == {"long": 1}


@pytest.mark.parametrize(
    ("content", "expected", "counts"),
    [
        ('["a", "b"]', ["a", "b"], {}),
        ('[{"content": "a"}, {"content": "b"}]', ["a", "b"], {"chosen": 1}),
        ('{"data": [{"text": "a"}], "version": 1}', ["a"], {}),
        ('{"chapter": "大學", "paragraphs": ["大學之道", "在明明德"]}', ["大學之道\n在明明德"], {"chosen": 1}),
        ('[{"content": 1, "text": "a"}]', ["a"], {}),
        ('[{"text": "a"}, {"text": "b"', ["a"], {"json": 1}),
        ('[{"text": "a"} {"text": "b"}]', ["a"], {"json": 1}),
        ('{"text": "a"} extra', ["a"], {"json": 1}),
        ('{"text": "a"}\n{"text": "b"}', ["a", "b"], {}),
    ],
)
def test_json(tmp_path: Path, content: str, expected: list[str], counts: dict[str, int]) -> None:
    (tmp_path / "a.json").write_text(content)
    documents, problems = read(tmp_path / "a.json")
    assert [document.text for document in documents] == expected
    assert problems.counts == counts


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(min_size=1).filter(lambda t: t.strip()), json_values), min_size=1, max_size=6))
def test_streamed_json_gives_what_json_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list) -> None:
    monkeypatch.setattr("zhixing.data.records.CHUNK", 7)
    rows = [(text.replace("\0", ""), other) for text, other in rows]
    rows = [row for row in rows if row[0].strip()] or [("x", 1)]
    for indent, ascii_only in ((None, True), (2, False)):
        content = json.dumps(
            [{"x": other, "text": text} for text, other in rows], indent=indent, ensure_ascii=ascii_only
        )
        (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        assert texts(tmp_path / "a.json") == [text for text, _ in rows]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from([".txt", ".jsonl", ".json", ".csv", ".tsv", ".gz", ".zip", ".parquet"]))
def test_any_bytes_give_documents_or_problems_but_no_crash(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    problems = Problems()
    try:
        documents = list(read_documents(find_sources([path], problems), problems))
    except BadInput as error:
        assert str(error)
        assert suffix in (".csv", ".tsv") or problems.total
    else:
        for document in documents:
            document.text.encode("utf-8")
            assert "\0" not in document.text


def test_csv(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["id", "Content"], [1, 'a "quoted", text\nover two lines'], [2, "知行"], [3], [4, ""], [5, "e"]]
        )
    documents, problems = read(tmp_path / "a.csv")
    assert [(document.line, document.text) for document in documents] == [
        (2, 'a "quoted", text\nover two lines'),
        (4, "知行"),
        (7, "e"),
    ]
    assert problems.counts == {"csv": 1, "empty": 1, "chosen": 1}
    assert problems.examples["csv"][0].line == 5


def test_csv_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "semicolon.csv").write_text("id;text\n1;a, b\n")
    (tmp_path / "tab.tsv").write_text("text\tlabel\na, b\t1\n")
    (tmp_path / "old.csv").write_bytes(b"id,text\r1,first\r2,second\r")
    (tmp_path / "headless.tsv").write_text("Hi.\t嗨。\nRun!\t跑！\n")
    assert texts(tmp_path / "semicolon.csv") == ["a, b"]
    assert texts(tmp_path / "tab.tsv") == ["a, b"]
    assert texts(tmp_path / "old.csv") == ["first", "second"]
    assert texts(tmp_path / "headless.tsv", field="2") == ["嗨。", "跑！"]


def test_no_field_holds_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nq,a\n")
    with pytest.raises(BadInput, match="question, answer"):
        read(tmp_path / "a.csv")
    with pytest.raises(BadInput, match="did you mean 'question'"):
        read(tmp_path / "a.csv", field="qestion")
    assert texts(tmp_path / "a.csv", field="answer") == ["a"]
    (tmp_path / "b.jsonl").write_text('{"question": "q"}\n' * 5000)
    with pytest.raises(BadInput, match="question"):
        read(tmp_path / "b.jsonl")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [f"知行 {number}" for number in range(1000)]
    table = pyarrow.table({"id": list(range(1002)), "text": [*rows, None, ""]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    documents, problems = read(tmp_path / "a.parquet")
    assert [document.text for document in documents] == rows
    assert documents[5].line == 6
    assert problems.counts == {"field": 1, "empty": 1}
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "x.parquet")
    (tmp_path / "c.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert texts(tmp_path / "b.zip") == texts(tmp_path / "c.parquet.gz") == rows
    with pytest.raises(BadInput, match="id, text"):
        read(tmp_path / "a.parquet", field="body")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    _, problems = read(tmp_path)
    assert problems.counts["unreadable"] == 1


def test_missing_packages_are_said_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt.zst").write_bytes(b"")
    (tmp_path / "c.parquet").write_bytes(b"")
    for package, name in (("zstandard", "b.txt.zst"), ("pyarrow", "c.parquet")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingResource, match=r"zhixing\[data\]") as missing:
            next(read_documents(find_sources([tmp_path / "a.txt", tmp_path / name]), Problems()))
        assert package in str(missing.value)


def test_damaged_archives_cost_only_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text " * 100_000)[:-20])
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x.txt", "some text that will be damaged")
        archive.writestr("y.txt", "whole")
    data = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(data.replace(b"will be", b"was not"))
    (tmp_path / "c.txt").write_text("last")
    documents, problems = read(tmp_path)
    assert [document.text for document in documents if document.source.endswith(("y.txt", "c.txt"))] == [
        "whole",
        "last",
    ]
    assert problems.counts == {"unreadable": 2}


def test_file_that_vanishes_or_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    problems = Problems()
    sources = find_sources([tmp_path], problems)
    (tmp_path / "a.txt").unlink()
    assert [document.text for document in read_documents(sources, problems)] == ["b"]
    assert "No such file" in str(problems.examples["unreadable"][0])


def test_no_permission_and_input_output_errors_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    opened = Path.open

    def failing(path: Path, *arguments: object) -> object:
        if path.name != "c.txt":
            code = errno.EACCES if path.name == "a.txt" else errno.EIO
            raise OSError(code, os.strerror(code))
        return opened(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", failing)
    documents, problems = read(tmp_path)
    assert [document.text for document in documents] == ["c"]
    assert [example.message for example in problems.examples["unreadable"]] == [
        "no permission to read it",
        f"cannot be read: {os.strerror(errno.EIO)}",
    ]


def test_progress_counts_the_bytes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text " * 100_000)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000))
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.txt", "text " * 1000)
    sources = find_sources([tmp_path])
    seen: list[int] = []
    list(read_documents(sources, Problems(), advance=seen.append))
    assert sum(seen) == sum(source.size for source in sources)


def test_long_records_are_cut_like_files(tmp_path: Path) -> None:
    text = "a paragraph of the text\n\n" * 20_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n")
    documents, _ = read(tmp_path / "a.jsonl")
    assert len(documents) > 5
    assert "".join(document.text for document in documents) == text

"""What users really give: each gets one clear message, or is worked on as it is; nothing that was done is lost."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.support import run
from zhixing.tasks.search import Index, Item

CLASSIFY = ["classify", "-m", "{models}/classifier"]
GOOD = '{"text": "a wonderful film"}\n'


def content(data: bytes | str, name: str = "in.jsonl") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return make


# Texts that are odd, but texts: each gets a label.
FINE = {
    "only emoji": "😀🎉👍",
    "one character": "a",
    "right to left": "שלום עולם مرحبا بالعالم",
    "right-to-left marks": "abc\u202edef\u202c",
    "unknown language": "ᚠᛇᚻ ᛒᛦᚦ ᚠᚱᚩᚠᚢᚱ",
    "combining characters": "Z͑ͫa̴l̷g̸o",
    "control characters": "a\x07b\x1b[31mred",
    "zero-width characters": "a\u200bb\ufeffc",
    "looks like a special token": "[CLS] [SEP] <|im_start|>system",
    "a megabyte on one line": "a wonderful film " * 60_000,
    "a word of 100,000 letters": "a" * 100_000,
    "html": "<script>alert(1)</script>&nbsp;",
    "a line separator inside": "one\u2028two",
    "private use": "\ue000\uf8ff",
    "beyond the basic plane": "𠮷野家𝒳",
}


@pytest.mark.parametrize("name", FINE)
def test_odd_texts_are_worked_on(name: str, models: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": FINE[name]}) + "\n" + GOOD)
    words = [*CLASSIFY, "--file", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl"]
    ended = run(monkeypatch, capsys, *(str(word).format(models=models) for word in words))
    assert ended.code == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    assert rows[0]["text"] == FINE[name]
    assert all(row["prediction"] in ("good", "bad") for row in rows)


# Rows that no task can work on: named with file and line; with --skip-bad the others are done.
BAD_ROWS = {
    "empty string": ('{"text": ""}', "the text is empty"),
    "only white space": ('{"text": " \\u3000\\n"}', "the text is empty"),
    "NUL": ('{"text": "a\\u0000b"}', "the text holds a NUL character (character 2)"),
    "half a surrogate pair": ('{"text": "a\\ud800"}', "the text holds half of a surrogate pair"),
    "a number": ('{"text": 3}', "the field 'text' is not text: 3"),
    "null": ('{"text": null}', "the field 'text' is not text: null"),
    "another field": ('{"txt": "a"}', "no field 'text'"),
    "no object": ("[1, 2]", "a record with named fields is expected"),
    "broken JSON": ('{"text": "a"', "not valid JSON"),
    "nested too deeply": ("[" * 100_000, "not valid JSON"),
    "bytes that are no UTF-8": (b'{"text": "caf\xe9 wonderful wonderful"}', "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_named_and_the_others_done(name: str, models: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    row, message = BAD_ROWS[name]
    path = tmp_path / "in.jsonl"
    good = GOOD.encode() * 60
    path.write_bytes(good + (row.encode() if isinstance(row, str) else row) + b"\n" + good)
    words = [word.format(models=models) for word in CLASSIFY]
    words += ["--file", str(path), "--out", str(tmp_path / "out.jsonl")]
    ended = run(monkeypatch, capsys, *words)
    assert ended.code == 2
    assert f"in.jsonl:61: {message}" in ended.err
    assert "--skip-bad" in ended.err
    assert not (tmp_path / "out.jsonl").exists()
    ended = run(monkeypatch, capsys, *words, "--skip-bad")
    assert ended.code == 0
    assert f"in.jsonl:61: {message}" in ended.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    assert len(rows) == 121
    assert [place for place, one in enumerate(rows) if "error" in one] == [60]


# Files, columns, indexes, schemas and options that cannot be used.
REFUSED: dict[str, tuple[Any, list[str], int, str]] = {
    "no file": (None, [*CLASSIFY, "--file", "{folder}/none.jsonl"], 3, "no such file"),
    "an empty file": (content(""), [*CLASSIFY, "--file", "{file}"], 2, "the file is empty"),
    "a picture": (content(b"\x89PNG\r\n\x1a\n\0\0\0" * 90, "in.jsonl"), [*CLASSIFY, "--file", "{file}"], 2, "binary"),
    "a folder": (lambda folder: folder, [*CLASSIFY, "--file", "{file}"], 2, "a file is expected"),
    "a broken gzip": (
        content(gzip.compress(GOOD.encode() * 99)[:-20], "in.jsonl.gz"),
        [*CLASSIFY, "--file", "{file}"],
        2,
        "cannot be read to its end",
    ),
    "not gzip at all": (content(GOOD, "in.jsonl.gz"), [*CLASSIFY, "--file", "{file}"], 2, "cannot be read to its end"),
    "an unknown kind of file": (content(GOOD, "in.xlsx"), [*CLASSIFY, "--file", "{file}"], 2, "xlsx"),
    "wrong columns": (
        content("id,headline\n1,x\n", "in.csv"),
        [*CLASSIFY, "--file", "{file}"],
        2,
        "fields: id, headline",
    ),
    "a column that is not there": (
        content("id,headline\n1,x\n", "in.csv"),
        [*CLASSIFY, "--file", "{file}", "--field", "headlin"],
        2,
        "did you mean 'headline'",
    ),
    "mixed encodings": (
        content("知行合一道可道非常道\n".encode() * 30 + "学而时习之不亦说乎\n".encode("gb18030") * 30, "in.txt"),
        [*CLASSIFY, "--file", "{file}"],
        2,
        "in two encodings: line 1 is UTF-8, line 31 is not",
    ),
    "UTF-16 without a mark": (
        content("a wonderful film\n".encode("utf-16-le") * 30, "in.txt"),
        [*CLASSIFY, "--file", "{file}"],
        2,
        "UTF-16 without a byte-order mark",
    ),
    "an output of no kind": (content(GOOD), [*CLASSIFY, "--file", "{file}", "--out", "{folder}/out.docx"], 2, ".jsonl"),
    "the input as output": (content(GOOD), [*CLASSIFY, "--file", "{file}", "--out", "{file}"], 2, "already"),
    "out without file": (None, [*CLASSIFY, "x", "--out", "{folder}/o.jsonl"], 2, "--out goes with --file"),
    "text and file": (content(GOOD), [*CLASSIFY, "x", "--file", "{file}"], 2, "choose one"),
    "nothing": (None, CLASSIFY, 2, "there is nothing to work on"),
    "an empty text": (None, [*CLASSIFY, ""], 2, "the text is empty"),
    "no such model": (None, ["classify", "-m", "minilmm", "x", "--labels", "a,b"], 3, "did you mean minilm"),
    "a model of another kind": (
        None,
        ["tag", "-m", "{models}/classifier", "x"],
        2,
        "its head is 'classify', not 'tag'",
    ),
    "one label": (None, ["classify", "-m", "{models}/pool", "x", "--labels", "a"], 2, "at least two labels"),
    "labels in no file": (None, ["classify", "-m", "{models}/pool", "x", "--labels", "@none.txt"], 3, "none.txt"),
    "a schema that cannot be met": (
        None,
        ["extract", "x", "-m", "{models}/chat", "--schema", '{"enum": []}'],
        2,
        "nothing fits",
    ),
    "a schema that is no JSON": (
        content("{", "s.json"),
        ["extract", "x", "-m", "{models}/chat", "--schema", "{file}"],
        2,
        "not valid JSON",
    ),
    "an endless schema": (
        content('{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}', "s.json"),
        ["extract", "x", "-m", "{models}/chat", "--schema", "{file}"],
        2,
        "without end",
    ),
    "an index of another encoder": (None, ["find", "{index}", "x", "-m", "{models}/other-pool"], 2, "another encoder"),
    "a folder without texts": (
        lambda folder: folder,
        ["find", "{file}", "x", "-m", "{models}/pool"],
        2,
        "nothing readable",
    ),
    "an empty query": (None, ["find", "{index}", " "], 2, "the query is empty"),
    "a question longer than the model reads": (
        None,
        ["answer", "a film " * 40, "x y", "-m", "{models}/span"],
        2,
        "the question has 80 tokens",
    ),
    "a prompt without its names": (
        content("user: '{{nothing}}'", "p.yaml"),
        ["rewrite", "x", "-m", "{models}/chat-long", "--prompt", "{file}"],
        2,
        "unknown name in a prompt 'nothing'",
    ),
    "a prompt for an encoder": (
        content("user: x", "p.yaml"),
        [*CLASSIFY, "x", "--prompt", "{file}"],
        2,
        "takes no prompt",
    ),
}


@pytest.fixture(scope="module")
def index(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    opened = Index.create(folder, models / "pool")
    opened.add([Item("a", "a wonderful film")])
    opened.close()
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_said_in_one_message(
    name: str, models: Path, index: Path, monkeypatch, capsys, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    make, words, code, message = REFUSED[name]
    place = tmp_path / "work"
    place.mkdir()
    names = {"folder": place, "file": make(place) if make else "", "models": models, "index": index}
    before = {path: path.read_bytes() for path in place.iterdir()}
    filled = []
    for word in words:
        for key, value in names.items():
            word = word.replace(f"{{{key}}}", str(value))
        filled.append(word)
    ended = run(monkeypatch, capsys, *filled)
    assert ended.code == code, ended.err
    assert message in ended.err
    assert ended.err.count("zhixing: ") == 1
    assert "Traceback" not in ended.err
    assert "internal fault" not in ended.err
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_lines_from_a_pipe_that_are_no_text(models: Path, monkeypatch, capsys) -> None:
    stdin = b"a film\n\xff\xfe\n\na wonderful film\n"
    words = [word.format(models=models) for word in CLASSIFY]
    ended = run(monkeypatch, capsys, *words, stdin=stdin)
    assert ended.code == 2
    assert "text 2: not UTF-8" in ended.err
    assert len(ended.out.splitlines()) == 1
    ended = run(monkeypatch, capsys, *words, "--skip-bad", "--json", stdin=stdin)
    assert ended.code == 0
    assert ["error" in json.loads(line) for line in ended.out.splitlines()] == [False, True, True, False]

"""`zhixing data doctor` and `zhixing data pictures`, as users call them."""

import json
import sys

import pytest

from zhixing.cli.main import main
from zhixing.tokenization.train import train_tokenizer

ROWS = [{"instruction": f"Do {k}", "input": "", "output": f"done {k}"} for k in range(5)]
BAD = [*ROWS, ROWS[0], {"instruction": "Do it", "input": "", "output": ""}]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in BAD))
    (tmp_path / "odd.jsonl").write_text('{"foo": "a text", "bar": "ein Text"}\n')

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["zhixing", "--quiet", "data", "doctor", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_what_it_shows(call, tmp_path):
    code, out, err = call("x.jsonl", "--fix", "mended.jsonl")
    assert (code, err) == (0, "")
    assert "read as chat (alpaca: prompt = instruction, response = output, input = input), confidence 0.9" in out
    assert "7 rows, 5 good records" in out
    assert "1 duplicate: exact duplicates; --fix: the first is kept" in out
    assert 'x.jsonl:6: the same as x.jsonl:1: "Do 0' in out
    assert "x.jsonl:7: 'output' is empty\n      -> write the answer" in out
    assert "Mended copy: mended.jsonl (2 left out, 0 written anew)" in out
    assert [json.loads(line) for line in (tmp_path / "mended.jsonl").read_text().splitlines()] == ROWS
    _, out, _ = call("mended.jsonl")
    assert "Nothing is wrong that can be seen." in out


def test_what_was_found_is_shown_where_no_copy_can_be_written(call, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for path, out, told in (("x.jsonl", "odd.jsonl", "1 duplicate"), ("empty.jsonl", "new.jsonl", "empty")):
        code, shown, err = call(path, "--fix", out)
        assert code == 2
        assert told in shown
        assert "there" in err


def test_json(call):
    _, out, _ = call("x.jsonl", "--json", "--keep", "duplicate")
    values = json.loads(out)
    assert values["counts"] == {"empty": 1, "duplicate": 1}
    (file,) = values["files"]
    assert (file["read_as"]["shape"], file["records"], file["left_out"]) == ("chat", 6, 1)
    assert values["findings"][0]["line"] == 7


def test_lengths_in_tokens(call, tmp_path):
    train_tokenizer([], "byte").tokenizer.save(tmp_path / "model")
    _, out, _ = call("x.jsonl", "--model", "model", "--longest", "8")
    assert "x.jsonl:1: 11 tokens, but 8 are the most" in out  # "Do 0", a line end, "done 0": a byte a token


def test_an_explicit_mapping(call):
    code, out, _ = call("odd.jsonl")
    assert code == 0
    assert "1 shape: files whose shape cannot be told; to be mended by hand" in out
    assert "columns: foo, bar" in out
    _, out, _ = call("odd.jsonl", "--column", "source=foo", "--column", "target=bar")
    assert "read as pair" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("none.jsonl",), 3, "none.jsonl: no such file"),
        (("x.jsonl", "--shape", "dialogue"), 2, "unknown shape 'dialogue'"),
        (("x.jsonl", "--keep", "dupes"), 2, "unknown kind of fault 'dupes'"),
        (("x.jsonl", "--column", "source"), 2, "'source' is not ROLE=COLUMN"),
        (("x.jsonl", "--against", "odd.jsonl"), 2, "odd.jsonl: no shape of records is known"),
        (("x.jsonl", "--longest", "0"), 2, "the longest record cannot be 0"),
    ],
)
def test_mistakes(call, arguments, code, message):
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("zhixing: ")
    assert message in err
    assert "Traceback" not in err


def test_pictures(monkeypatch, capsys, tmp_path):
    pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)

    def pictures(*arguments):
        monkeypatch.setattr(sys, "argv", ["zhixing", "--quiet", "data", "pictures", *arguments])
        try:
            main()
        except SystemExit as ended:
            return ended.code or 0, *capsys.readouterr()
        return 0, *capsys.readouterr()

    code, out, _ = pictures("set", "--count", "6", "--unseen", "2", "--side", "32", "--json")
    assert code == 0
    made = json.loads(out)
    assert (made["train"], len(made["held_out"])) == ("set/train.jsonl", 14)
    assert len((tmp_path / "set/unseen.jsonl").read_text().splitlines()) == 2
    code, _, err = pictures("set")
    assert code == 2
    assert "set: there is something already" in err

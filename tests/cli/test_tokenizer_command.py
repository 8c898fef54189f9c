from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zhixing.cli.tokenizer import app
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.progress import is_quiet, set_quiet
from zhixing.tokenization import Tokenizer

TEXT = "Learning without thought is labour lost. 学而不思则罔，思而不学则殆。\n"


def run(*arguments: str | Path) -> str:
    quiet = is_quiet()
    set_quiet(True)
    try:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        set_quiet(quiet)
    if result.exception:
        raise result.exception
    assert result.exit_code == 0
    return result.output


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT * 40, encoding="utf-8")
    (folder / "b.jsonl").write_text(json.dumps({"text": TEXT * 20}) + "\nbroken\n", encoding="utf-8")
    return folder


@pytest.fixture
def trained(texts: Path, tmp_path: Path) -> Path:
    run("train", texts, "--out", tmp_path / "tok", "--vocab-size", 320)
    return tmp_path / "tok"


def test_train_writes_a_folder_and_says_what_it_saw(texts: Path, tmp_path: Path) -> None:
    output = run("train", texts, "--out", tmp_path / "tok", "--vocab-size", 320)
    assert "learned from all" in output
    assert "b.jsonl:2" in output
    assert Tokenizer.load(tmp_path / "tok").vocab_size <= 320
    facts = json.loads(run("train", texts, "-o", tmp_path / "c", "--kind", "character", "--no-special", "--json"))
    assert facts["vocab_size"] == len(set(TEXT))
    assert facts["problems"]["counts"]["json"] == 1
    assert facts["fingerprint"] == Tokenizer.load(tmp_path / "c").fingerprint


def test_train_samples_and_says_so(texts: Path, tmp_path: Path) -> None:
    (texts / "big.txt").write_text(TEXT * 5000, encoding="utf-8")
    output = run("train", texts, "--out", tmp_path / "tok", "--vocab-size", 300, "--sample-mb", "0.1")
    assert "sampled evenly" in output


def test_train_does_not_replace_unasked(texts: Path, trained: Path) -> None:
    before = Tokenizer.load(trained).fingerprint
    with pytest.raises(BadInput, match="--overwrite"):
        run("train", texts, "--out", trained, "--vocab-size", 300)
    assert Tokenizer.load(trained).fingerprint == before
    run("train", texts, "--out", trained, "--vocab-size", 300, "--overwrite", "--special", "<a>", "--special", "<b>")
    assert list(Tokenizer.load(trained).special_tokens) == ["<a>", "<b>"]


def test_train_faults(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingResource):
        run("train", tmp_path / "missing", "--out", tmp_path / "tok")
    with pytest.raises(BadInput, match="contradict"):
        run("train", texts, "--out", tmp_path / "tok", "--special", "<a>", "--no-special")
    with pytest.raises(BadInput, match="did you mean 'unigram'"):
        run("train", texts, "--out", tmp_path / "tok", "--kind", "unigramm")
    assert not (tmp_path / "tok").exists()


def test_show_prints_readable_pieces(trained: Path) -> None:
    output = run("show", trained, "思 thought\n龘", "--ids")
    tokenizer = Tokenizer.load(trained)
    pieces = [f"{tokenizer.piece(token)}:{token}" for token in tokenizer.encode("思 thought\n龘")]
    for piece in pieces:
        assert piece in output
    assert "Ġ" not in output
    assert "<E9>" in output
    assert tokenizer.fingerprint in output
    assert "Chinese" in output


def test_show_as_json(trained: Path) -> None:
    plain = json.loads(run("show", trained, "a<|endoftext|>", "--json"))
    assert plain["kind"] == "byte-bpe"
    assert sum(plain["scripts"].values()) == plain["vocab_size"]
    assert not any(token["special"] for token in plain["tokens"])
    parsed = json.loads(run("show", trained, "a<|endoftext|>", "--json", "--parse-special", "--count", 3))
    assert [token["special"] for token in parsed["tokens"]] == [False, True]
    assert len(parsed["longest"]) == len(parsed["sample"]) == 3
    assert json.loads(run("show", trained, "--json"))["tokens"] is None


def test_compare(texts: Path, trained: Path, tmp_path: Path) -> None:
    run("train", texts, "--out", tmp_path / "bytes", "--kind", "byte")
    run("train", texts, "--out", tmp_path / "chars", "--kind", "character", "--no-special")
    output = run("compare", trained, tmp_path / "bytes", "--data", texts)
    assert "bytes" in output
    assert "1.000" in output
    result = json.loads(run("compare", trained, tmp_path / "bytes", tmp_path / "chars", "--text", "学 is 龘", "--json"))
    learned, by_bytes, by_characters = result["rows"]
    assert by_bytes["tokens"] == len("学 is 龘".encode()) == result["bytes_used"]
    assert by_bytes["bytes_per_token"] == 1.0
    assert learned["round_trip"] is True
    assert by_characters["tokens"] is None
    assert "'龘'" in by_characters["problem"]
    assert "'龘'" in run("compare", tmp_path / "chars", "--text", "龘")


def test_compare_needs_one_text(trained: Path, texts: Path) -> None:
    for arguments in ([], ["--text", "a", "--data", str(texts)]):
        with pytest.raises(BadInput, match="--text or --data"):
            run("compare", trained, *arguments)
    with pytest.raises(BadInput, match="no text to compare"):
        run("compare", trained, "--text", "")


@pytest.mark.parametrize("command", ["train", "show", "compare"])
def test_help_has_an_example(command: str) -> None:
    assert "Example" in run(command, "--help")

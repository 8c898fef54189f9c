"""ARPA files: out and in without loss, read by KenLM alike, and every fault named with its line."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.ngram.arpa import read_arpa, word_names, write_arpa
from zhixing.models.ngram.tables import NgramTables

from .reference import build

DOCUMENTS = [[0, 1, 2, 1, 5], [2, 2, 1, 5], [5], [3, 1, 0, 1, 2, 1, 5]]
NAMES = word_names(["a", "Ġb", " ", "\n", "<s>", None])


def same(one: NgramTables, other: NgramTables) -> None:
    assert (one.vocab_size, one.begin) == (other.vocab_size, other.begin)
    pairs = zip(
        [*one.keys, *one.log_probabilities, *one.log_backoffs],
        [*other.keys, *other.log_probabilities, *other.log_backoffs],
        strict=True,
    )
    for mine, theirs in pairs:
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["model.arpa", "model.arpa.gz"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_round_trip_changes_no_bit(order: int, name: str, tmp_path: Path) -> None:
    tables, _ = build(DOCUMENTS, order, 6, 5, tmp_path)
    write_arpa(tables, NAMES, tmp_path / name)
    same(tables, read_arpa(tmp_path / name, NAMES, 5).tables)


def test_a_text_without_ends_round_trips(tmp_path: Path) -> None:
    tables, _ = build([[0, 1, 2, 0, 1, 1, 2]], 3, 3, None, tmp_path)
    write_arpa(tables, ["x", "y", "z"], tmp_path / "model.arpa")
    same(tables, read_arpa(tmp_path / "model.arpa", ["x", "y", "z"], None).tables)
    assert "-99\t</s>" in (tmp_path / "model.arpa").read_text()


def test_the_files_own_words_can_be_the_vocabulary(tmp_path: Path) -> None:
    tables, _ = build(DOCUMENTS, 3, 6, 5, tmp_path)
    write_arpa(tables, NAMES, tmp_path / "model.arpa")
    read = read_arpa(tmp_path / "model.arpa")
    assert read.words == ["a", "Ġb", "\\u0020", "\\u000a", "\\u003cs>", "</s>"]
    same(tables, read.tables)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=4), unique=True, min_size=1, max_size=20))
def test_names_are_words_and_differ(pieces: list[str]) -> None:
    names = word_names(list(dict.fromkeys([*pieces, "<s>", "</s>", "<unk>"])), unknown=None)
    assert len(set(names)) == len(names)
    for name in names:
        assert name.split() == [name]
        assert name not in ("<s>", "</s>", "<unk>")


def test_kenlm_reads_what_was_written(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    tables, _ = build(DOCUMENTS, 3, 6, 5, tmp_path)
    write_arpa(tables, NAMES, tmp_path / "model.arpa")
    theirs = kenlm.Model(str(tmp_path / "model.arpa"))
    for document in ([0, 1, 2], [2, 2, 3], [1], [3, 3, 3, 0, 1]):
        ids = np.array([[5, *document]])
        contexts = [rows.reshape(-1) for rows in tables.read(ids, tables.fresh(1))]
        mine = tables.score(contexts, np.array([*document, 5]))
        scores = [score for score, _, _ in theirs.full_scores(" ".join(NAMES[token] for token in document))]
        assert mine == pytest.approx(scores, abs=1e-5)


GOOD = """
\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-0.5\t<unk>\t0
0\t<s>\t-0.1
-0.4\ta\t-0.2
-0.6\t</s>\t0

\\2-grams:
-0.1\t<s> a
-0.2\ta a
-0.3\ta </s>

\\end\\
"""

FAULTS = [
    ("-0.1\t<s> a", "-0.1\t<s> b", 13, "'b' is not among the 1-grams"),
    ("-0.1\t<s> a", "x\t<s> a", 13, "'x' is not a number"),
    ("-0.1\t<s> a", "nan\t<s> a", 13, "'nan' is not a logarithm"),
    ("-0.1\t<s> a", "0.1\t<s> a", 13, "above 1"),
    ("-0.1\t<s> a", "-0.1\t<s>", 13, "has 2 fields"),
    ("-0.1\t<s> a", "-0.1\ta <s>", 13, "cannot be word 2 of 2"),
    ("-0.2\ta a", "-0.2\t<s> a", 14, "stands in line 13 already"),
    ("-0.4\ta\t-0.2", "-0.4\t<unk>\t-0.2", 9, "'<unk>' stands here a second time"),
    ("ngram 2=3", "ngram 2=4", 17, "says 4 2-grams, but there are 3"),
    ("ngram 2=3", "ngram 2=2", 15, "says 2 2-grams, but there are more"),
    ("ngram 2=3", "ngram 2=999999999999", 4, "cannot be in a file of"),
    ("ngram 2=3", "ngram 3=3", 4, "where that of order 2 belongs"),
    ("ngram 2=3", "bigrams: 3", 4, "expected 'ngram 2=COUNT'"),
    ("\\2-grams:", "\\3-grams:", 12, "expected \\2-grams:"),
    ("\\end\\", "", 17, "ends inside the 2-grams"),
    ("\\data\\", "data", 17, "no \\data\\ line"),
    ("-0.1\t<s> a", "-0.1\t" + "a" * 70_000, 13, "more than 65536 characters"),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), FAULTS)
def test_faults_are_named_with_their_line(old: str, new: str, line: int, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.arpa"
    assert old in GOOD
    file.write_text(GOOD)
    read_arpa(file)
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(BadInput) as fault:
        read_arpa(file)
    assert fault.value.where == f"{file}:{line}"
    assert message in fault.value.cause


def test_a_lost_context_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.arpa"
    text = GOOD.replace("ngram 2=3", "ngram 2=3\nngram 3=1").replace(
        "\\end\\", "\\3-grams:\n-1\ta a a\n-1\t<s> <unk> a\n\\end\\"
    )
    file.write_text(text.replace("ngram 3=1", "ngram 3=2"))
    with pytest.raises(BadInput, match="the first 2 words of this n-gram are not among the 2-grams") as fault:
        read_arpa(file)
    assert fault.value.where == f"{file}:20"


def test_tokens_that_a_file_does_not_name_share_what_is_unknown(tmp_path: Path) -> None:
    file = tmp_path / "model.arpa"
    file.write_text(GOOD)
    read = read_arpa(file, ["a", "x", "y", "."], 3)
    assert read.tables.log_probabilities[0] == pytest.approx([-0.4, -0.5 - math.log10(2), -0.5 - math.log10(2), -0.6])
    assert "2 tokens" in read.notes[0]
    with pytest.raises(BadInput, match="no token of the tokenizer"):
        read_arpa(file, ["x", "y", "."], 2)
    with pytest.raises(BadInput, match="the tokenizer has no token"):
        read_arpa(file, ["a", "x"], None)
    file.write_text(GOOD.replace("-0.5\t<unk>\t0\n", "").replace("ngram 1=4", "ngram 1=3"))
    with pytest.raises(BadInput, match="2 tokens of the tokenizer are not in the file"):
        read_arpa(file, ["a", "x", "y", "."], 3)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingResource):
        read_arpa(tmp_path / "none.arpa")
    (tmp_path / "bytes.arpa").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        read_arpa(tmp_path / "bytes.arpa")
    (tmp_path / "half.arpa.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(BadInput, match="gzip"):
        read_arpa(tmp_path / "half.arpa.gz")
    (tmp_path / "text.arpa").write_text("Once upon a time\n" * 2000)
    with pytest.raises(BadInput, match="this is no ARPA file"):
        read_arpa(tmp_path / "text.arpa")
    with pytest.raises(MissingResource):
        write_arpa(NgramTables(1, 1, [], [np.zeros(2, np.float32)], []), ["a"], tmp_path / "no" / "folder.arpa")

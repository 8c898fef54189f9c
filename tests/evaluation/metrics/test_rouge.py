"""ROUGE against rouge-score's own command line, and its tokenizers."""

import csv
import subprocess
import sys

import pytest
from rouge_score.rouge_scorer import RougeScorer

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.rouge import RougeTokenizer, choose_tokenizer, rouge

REFERENCES = [
    "The cat sat on the mat.",
    "Two people are talking about jobs.",
    "He will call her tomorrow.",
    "Nothing in common here",
]
PREDICTIONS = ["A cat was sitting on a mat.", "People are talking about their jobs", "She calls him tomorrow", ""]


def test_as_the_command_line_says(tmp_path):
    (tmp_path / "target").write_text("\n".join(REFERENCES) + "\n")
    (tmp_path / "prediction").write_text("\n".join(PREDICTIONS) + "\n")
    types = "rouge1,rouge2,rougeL,rougeLsum"
    command = [sys.executable, "-m", "rouge_score.rouge", "--target_filepattern=target", f"--rouge_types={types}"]
    command += ["--prediction_filepattern=prediction", "--output_filename=out.csv", "--noaggregate"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for ours in rouge(PREDICTIONS, REFERENCES):
        theirs = [float(row[f"{ours.name}-F"]) for row in rows]
        assert ours.per_example == pytest.approx(theirs, abs=1e-6)
        assert ours.value == pytest.approx(sum(theirs) / 4, abs=1e-6)
        recall = sum(float(row[f"{ours.name}-R"]) for row in rows) / 4
        assert ours.details["recall"] == pytest.approx(recall, abs=1e-6)
        assert "tok:rouge-score" in ours.signature


def test_stemmer():
    (plain,) = rouge(["he was running"], ["he runs"], ["rouge1"])
    (stemmed,) = rouge(["he was running"], ["he runs"], ["rouge1"], stemmer=True)
    assert plain.value == pytest.approx(2 / 5)
    assert stemmed.value == pytest.approx(4 / 5)
    assert "stemmer:yes" in stemmed.signature


def test_chinese_by_characters():
    # 我爱北京 against 我爱你北京: 4 of 4 and 4 of 5 characters; bigrams 我爱, 北京: 2 of 3 and 2 of 4.
    one, two, longest, _ = rouge(["我爱北京"], ["我爱你北京。"])
    assert one.value == pytest.approx(2 * 1 * 0.8 / 1.8)
    assert two.value == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert longest.value == one.value
    assert "tok:characters" in one.signature


def test_lines_are_sentences_of_lsum():
    _, _, longest, summed = rouge(["one two\nthree four"], ["three four\none two"])
    assert longest.value == pytest.approx(0.5)
    assert summed.value == pytest.approx(1.0)
    assert "sentences:lines" in summed.signature


@pytest.mark.parametrize(
    ("kind", "text", "tokens"),
    [
        ("characters", "用Python3写 AI，好！", ["用", "python3", "写", "ai", "好"]),
        ("characters", "カナとABC_d", ["カ", "ナ", "と", "abc", "d"]),
        ("unicode", "Über Größe: Привет, 你好!", ["über", "größe", "привет", "你好"]),
    ],
)
def test_tokenizers(kind, text, tokens):
    assert RougeTokenizer(kind).tokenize(text) == tokens


def test_the_tokenizer_is_chosen_by_script_and_said():
    assert choose_tokenizer(["Plain English."], None) == ("rouge-score", [])
    assert choose_tokenizer(["Привет, мир"], None) == ("unicode", [])
    assert choose_tokenizer(["これは猫です"], None) == ("characters", [])
    kind, notes = choose_tokenizer(["Die Größe über den Häusern ist bekannt"], None)
    assert kind == "rouge-score"
    assert "drops 12.5 %" in notes[0]
    with pytest.raises(BadInput, match="unknown tokenizer 'char'"):
        choose_tokenizer(["a"], "char")


def test_the_best_of_several_references():
    (ours,) = rouge(["a b c"], [["x y", "a b d"]], ["rouge1"])
    assert ours.value == pytest.approx(RougeScorer(["rouge1"]).score("a b d", "a b c")["rouge1"].fmeasure)

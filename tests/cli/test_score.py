"""`zhixing score`, as users call it."""

import json
import sys

import pytest

from zhixing.cli.main import main


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours.txt").write_text("The cat sat.\nHello there\n\nfour words are here\n")
    (tmp_path / "gold.txt").write_text("The cat sat down.\nHello there\nx\nfour words are here\n")
    (tmp_path / "base.txt").write_text("A cat sat down.\nHello you\nx\nfour\n")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["zhixing", "--quiet", "score", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_table_with_signature_and_interval(call):
    code, out, err = call("bleu,chrf", "ours.txt", "gold.txt", "--worst", "1")
    assert (code, err) == (0, "")
    first, second, *_ = out.splitlines()
    assert first.startswith("bleu")
    assert "[" in first
    assert "n = 4, higher is better" in first
    assert second.strip().startswith("BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "ours.txt:3" in out.split("Worst by bleu:")[1]


def test_json_and_comparison(call):
    code, out, _ = call("chrf", "ours.txt", "gold.txt", "--against", "base.txt", "--json", "--seed", "3")
    values = json.loads(out)
    assert code == 0
    assert values["scores"][0]["interval"]["seed"] == 3
    (pair,) = values["comparisons"]
    assert pair["difference"] == pytest.approx(pair["second"] - pair["first"])
    assert 0 < pair["p_randomisation"] <= 1
    code, out, _ = call("chrf", "ours.txt", "gold.txt", "--against", "base.txt")
    assert "p = " in out
    assert "the data do not tell the two apart" in out


def test_settings(call):
    _, out, _ = call("bleu", "ours.txt", "gold.txt", "--set", "tokenize=none", "--set", "lowercase=true")
    assert "case:lc" in out
    assert "tok:none" in out
    _, out, _ = call("bleu", "ours.txt", "gold.txt", "--resamples", "0")
    assert "[" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("blue", "ours.txt", "gold.txt"), 2, "unknown measure 'blue'\n  did you mean 'bleu'?"),
        (("bleu", "none.txt", "gold.txt"), 3, "none.txt: no such file"),
        (("bleu", "ours.txt"), 2, "bleu needs a file of references"),
        (("bleu", "ours.txt", "gold.txt", "--set", "tokenize"), 2, "'tokenize' is not KEY=VALUE"),
        (("bleu", "ours.txt", "gold.txt", "--set", "tokenize=13b"), 2, "unknown tokenizer '13b'"),
        (("bleu", "ours.txt", "gold.txt", "--resamples", "3"), 2, "3 resamples are too few"),
        (("bleu", "ours.txt", "gold.txt", "--confidence", "95"), 2, "a confidence of 95.0 is not between"),
    ],
)
def test_mistakes(call, arguments, code, message):
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("zhixing: ")
    assert message in err
    assert "Traceback" not in err


def test_the_list_of_measures(call):
    _, out, _ = call("--measures")
    for name in (
        "bleu",
        "rougeLsum",
        "squad2_f1",
        "cmrc_em",
        "mcc",
        "ece",
        "entity_f1",
        "ndcg@10",
        "self_bleu",
        "perplexity",
    ):
        assert name in out

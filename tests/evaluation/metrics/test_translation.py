"""BLEU, chrF and TER against sacrebleu's own command line and functions."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.registry import score
from zhixing.evaluation.metrics.translation import bleu_formula, chrf_formula, ter_formula, translation

REFERENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Two men, both in blue, are talking.",
    "A child (five years old) plays.",
    "No.",
    "It's 3.5 km to the sea, isn't it?",
]
PREDICTIONS = [
    "The quick brown fox jumped over a lazy dog.",
    "Two men in blue are talking.",
    "A five years old child plays.",
    "",
    "It is 3.5 km to the sea!",
]
CHINESE = ["今天天气很好，我们去公园玩。", "他在2019年出版了第一本书Python入门。", "谢谢你的帮助！"]
CHINESE_PREDICTIONS = ["今天天气不错，我们去公园。", "他2019年出版了第一本Python书。", "谢谢帮助。"]


def command_line(tmp_path, predictions, references, *options):
    (tmp_path / "hyp").write_text("\n".join(predictions) + "\n", encoding="utf-8")
    (tmp_path / "ref").write_text("\n".join(references) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-w", "12", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {one["name"].lower(): one for one in (found if isinstance(found, list) else [found])}


def test_as_the_command_line_says(tmp_path):
    expected = command_line(tmp_path, PREDICTIONS, REFERENCES, "-m", "bleu", "chrf", "ter")
    for ours in translation(PREDICTIONS, REFERENCES):
        theirs = expected["chrf2" if ours.name == "chrf" else ours.name]
        assert ours.value == pytest.approx(theirs["score"], abs=1e-9)
        assert ours.signature.partition("|")[2] == theirs["signature"]


def test_chinese_as_the_command_line_says(tmp_path):
    expected = command_line(tmp_path, CHINESE_PREDICTIONS, CHINESE, "-m", "bleu", "chrf", "-tok", "zh")
    bleu, chrf = translation(CHINESE_PREDICTIONS, CHINESE, ["bleu", "chrf"])
    assert bleu.value == pytest.approx(expected["bleu"]["score"], abs=1e-9)
    assert chrf.value == pytest.approx(expected["chrf2"]["score"], abs=1e-9)
    assert "tok:zh" in bleu.signature
    (ter,) = translation(CHINESE_PREDICTIONS, CHINESE, ["ter"])
    metric = sacrebleu.TER(normalized=True, asian_support=True)
    assert ter.value == pytest.approx(metric.corpus_score(CHINESE_PREDICTIONS, [CHINESE]).score)
    assert 0 < ter.value < 100
    assert "characters" in ter.notes[0]


def test_japanese_is_cut_sensibly():
    (bleu,) = translation(["私は猫が好きです。"], ["私は犬が好きです。"], ["bleu"])
    assert "tok:char" in bleu.signature or "tok:ja-mecab" in bleu.signature
    assert bleu.value > 0


def test_several_references_and_their_numbers():
    several = [[text, text.lower()] for text in REFERENCES]
    streams = [REFERENCES, [text.lower() for text in REFERENCES]]
    for ours, metric in zip(
        translation(PREDICTIONS, several, ["bleu", "chrf++"]),
        (sacrebleu.BLEU(), sacrebleu.CHRF(word_order=2)),
        strict=True,
    ):
        assert ours.value == pytest.approx(metric.corpus_score(PREDICTIONS, streams).score)
        assert "nrefs:2" in ours.signature
    (bleu,) = translation(PREDICTIONS, [*several[:4], REFERENCES[4]], ["bleu"])
    assert "nrefs:var" in bleu.signature


def test_counts_of_the_first_paper():
    """Papineni et al. 2002, section 2.1: candidate 1 has 17 of 18 words and 10 of 17 bigrams."""
    candidate = "It is a guide to action which ensures that the military always obeys the commands of the party"
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    (bleu,) = translation([candidate], [references], ["bleu"])
    assert bleu.details["precisions"][:2] == pytest.approx([100 * 17 / 18, 100 * 10 / 17])
    assert bleu.value == pytest.approx(50.4, abs=0.1)


WORDS = st.lists(st.sampled_from("the a of cat sat , on mat 猫 3.5".split()), max_size=12).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_formulas_are_sacrebleus(pairs):
    predictions, references = zip(*pairs, strict=True)
    for name, metric, formula in (
        ("bleu", sacrebleu.BLEU(force=True), bleu_formula),
        ("chrf", sacrebleu.CHRF(), chrf_formula),
        ("ter", sacrebleu.TER(), ter_formula),
    ):
        counts = np.array(metric._extract_corpus_statistics(predictions, [references]), dtype=float)
        whole = metric.corpus_score(list(predictions), [list(references)]).score
        assert formula(counts.sum(axis=0)) == pytest.approx(whole, abs=1e-9), name
        if name == "bleu":
            effective = sacrebleu.BLEU(effective_order=True)
            each = [effective.sentence_score(ours, [theirs]).score for ours, theirs in pairs]
            assert bleu_formula(counts, effective=True) == pytest.approx(each, abs=1e-9)
        else:
            each = [metric.sentence_score(ours, [theirs]).score for ours, theirs in pairs]
            assert formula(counts) == pytest.approx(each, abs=1e-9), name


def test_interval_is_that_of_sacrebleu():
    chooser = random.Random(1)
    words = "the a of cat dog runs in green house and , then stops".split()
    references = [" ".join(chooser.choices(words, k=chooser.randint(5, 20))) for _ in range(120)]
    predictions = [" ".join(word for word in text.split() if chooser.random() < 0.8) for text in references]
    metric = sacrebleu.BLEU(force=True)
    theirs = metric.corpus_score(predictions, [references], n_bootstrap=1000)
    (ours,) = score("bleu", predictions, references)
    assert ours.interval.low == pytest.approx(theirs._mean - theirs._ci, abs=0.4)
    assert ours.interval.high == pytest.approx(theirs._mean + theirs._ci, abs=0.4)


def test_what_cannot_be():
    with pytest.raises(BadInput, match=r"2 prediction\(s\) but 1"):
        translation(["a", "b"], ["a"])
    with pytest.raises(BadInput, match="nothing to score"):
        translation([], [])
    with pytest.raises(BadInput, match="unknown tokenizer '13b'"):
        translation(["a"], ["a"], ["bleu"], tokenize="13b")
    with pytest.raises(BadInput, match="example 1: the prediction is 3"):
        translation([3], ["a"], ["bleu"])
    with pytest.raises(BadInput, match="example 1: a reference is"):
        translation(["a"], [[]], ["bleu"])


def test_text_that_was_cut_before_is_noticed():
    (bleu,) = translation(["a cat ."] * 100, ["a cat."] * 100, ["bleu"])
    assert "plain text" in bleu.notes[0]

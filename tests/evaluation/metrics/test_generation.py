"""Diversity of texts against plain counting and sacrebleu."""

import random
from collections import Counter

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.generation import generation, self_bleu_counts
from zhixing.evaluation.metrics.ngrams import cut, orders
from zhixing.evaluation.metrics.resampling import with_interval

TOKENS = st.lists(st.lists(st.sampled_from("abc"), max_size=8), min_size=1, max_size=6)


def plain_ngrams(tokens, n):
    return [tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1)]


@settings(max_examples=60, deadline=None)
@given(TOKENS)
def test_ngrams_as_counted_plainly(texts):
    for order in orders(texts, 4):
        expected = [Counter(plain_ngrams(tokens, order.n)) for tokens in texts]
        ids, owner, counts = order.per_text()
        for number, wanted in enumerate(expected):
            assert sorted(counts[owner == number].tolist()) == sorted(wanted.values())
        assert order.kinds == len(set().union(*expected))
        assert len(order.ids) == sum(counter.total() for counter in expected)
        assert set(ids.tolist()) == set(range(order.kinds))


def test_cut():
    assert cut("我用Python3写 it's_ok。") == ["我", "用", "Python3", "写", "it", "'", "s", "_", "ok", "。"]


def test_distinct_by_hand():
    first, second = generation(["a b a", "a b c"], ["distinct-1", "distinct-2"])
    assert first.value == pytest.approx(3 / 6)
    assert second.value == pytest.approx(3 / 4)  # a-b, b-a, a-b, b-c
    assert first.per_example == pytest.approx([2 / 3, 1])
    assert first.details == {"different": 3, "all": 6}
    assert with_interval(first).interval.low <= first.value <= with_interval(first).interval.high


def test_repetition_by_hand():
    (repetition,) = generation(["a b a b a b", "a b c d", "a"], ["repetition-2"])
    # Five bigrams, two different: 3/5 repeated; three different ones; none at all.
    assert repetition.value == pytest.approx((3 / 5 + 0) / 2)
    assert "1 text(s) shorter than 2" in repetition.notes[0]


def test_self_bleu_as_sacrebleu():
    chooser = random.Random(0)
    texts = [" ".join(chooser.choices("a b c d e".split(), k=chooser.randint(0, 9))) for _ in range(40)]
    metric = sacrebleu.BLEU(effective_order=True)
    expected = [metric.sentence_score(text, texts[:k] + texts[k + 1 :]).score for k, text in enumerate(texts)]
    (ours,) = generation(texts, ["self_bleu"])
    assert ours.per_example == pytest.approx(expected, abs=1e-9)
    assert ours.value == pytest.approx(sum(expected) / 40)
    assert "tok:13a" in ours.signature


@settings(max_examples=40, deadline=None)
@given(TOKENS.filter(lambda texts: len(texts) > 1))
def test_self_bleu_counts_as_sacrebleu(texts):
    lines = [" ".join(tokens) for tokens in texts]
    metric = sacrebleu.BLEU(effective_order=True, tokenize="none")
    for number, counts in enumerate(self_bleu_counts(texts).tolist()):
        others = lines[:number] + lines[number + 1 :]
        assert counts == metric._extract_corpus_statistics([lines[number]], [[other] for other in others])[0]


def test_length():
    (length,) = generation(["one two three", "一二", " "], ["length"])
    assert length.value == pytest.approx(5 / 3)
    assert length.details["empty"] == 1
    assert length.details["quartiles"][2] == 2
    assert length.better == "neither"


def test_what_cannot_be():
    with pytest.raises(BadInput, match="two or more"):
        generation(["a"], ["self_bleu"])
    with pytest.raises(BadInput, match="no prediction"):
        generation([])
    with pytest.raises(BadInput, match="unknown measure 'distinct'"):
        generation(["a"], ["distinct"])
    assert generation(["", ""], ["distinct-2"])[0].value == 0

"""Probabilities against the paper's formulas, against arithmetic by hand, and against what KenLM's lmplz wrote."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.models.ngram.arpa import read_arpa, word_names
from zhixing.models.ngram.network import NgramNetwork
from zhixing.models.ngram.smoothing import Discounts
from zhixing.models.ngram.tables import NgramTables

from .reference import BEGIN, Reference, build

DATA = Path(__file__).parent / "data"


def probability(tables: NgramTables, word: int, context: tuple[int, ...]) -> float:
    ids = np.array([[tables.begin if token == BEGIN else token for token in context]], dtype=np.int64)
    contexts = tables.read(ids, tables.fresh(1)) if context else [np.full((1, 1), -1)] * (tables.order - 1)
    return float(10 ** tables.score([rows[:, -1] for rows in contexts], np.array([word]))[0])


texts = st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=8).filter(any)


@settings(max_examples=40, deadline=None)
@given(documents=texts, order=st.integers(1, 4), ends=st.booleans(), chunk=st.sampled_from([3, 1 << 16]))
def test_every_probability_is_the_papers(
    documents: list[list[int]], order: int, ends: bool, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    end = 5 if ends else None
    documents = [[*document, 5] if ends else document for document in documents]
    tables, _ = build(documents, order, 6, end, tmp_path_factory.mktemp("model"), chunk)
    expected = Reference(documents, order, 6)
    seen = {tuple(d[i : i + k]) for d in ([BEGIN, *doc] for doc in documents) for i in range(9) for k in (1, 2, 3)}
    contexts = [c for c in sorted(seen) if 5 not in c and (ends or c[:1] != (BEGIN,))]
    for context in [(), *contexts[:25], (4, 4, 4), (0, 3)]:
        found = [probability(tables, word, context) for word in range(6)]
        wanted = [expected.p(word, context) for word in range(6)]
        assert found == pytest.approx(wanted, rel=2e-6), context
        assert sum(found) == pytest.approx(1, abs=1e-5)


def test_sums_to_one_for_all_contexts_seen_and_unseen(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    documents = [[*generator.integers(0, 6, generator.integers(1, 20)).tolist(), 6] for _ in range(60)]
    tables, discounts = build(documents, 4, 8, 6, tmp_path)
    assert discounts[3].problem is None
    network = NgramNetwork(tables)
    contexts = torch.tensor(list(itertools.product(range(8), repeat=3)))
    logits = network.next_logits(contexts, network.new_cache(len(contexts), 4))
    assert torch.allclose(logits.exp().sum(1), torch.ones(len(contexts)), atol=1e-5)


def test_arithmetic_by_hand(tmp_path: Path) -> None:
    """The texts "a b" and "a a", order 2, with the fallback discounts 0.5, 1 and 1.5 (no count of 3 is there).

    Adjusted counts of a, b, </s>: 2, 1, 2. So p(a) = (2 - 1)/5 + (1 + 0.5 + 1)/5 * 1/3 = 11/30, p(b) = 8/30.
    After a come b, a and </s>, once each: p(b | a) = 0.5/3 + 1.5/3 * 8/30 = 0.3, p(a | a) = 1/6 + 11/60 = 0.35.
    After <s> comes a, twice: p(a | <s>) = (2 - 1)/2 + 1/2 * 11/30 = 41/60. After b comes </s>, once: likewise.
    """
    a, b, end = 0, 1, 2
    tables, _ = build([[a, b, end], [a, a, end]], 2, 3, end, tmp_path)
    cases = {
        (a, ()): 11 / 30, (b, ()): 8 / 30, (end, ()): 11 / 30,
        (a, (a,)): 0.35, (b, (a,)): 0.3, (end, (a,)): 0.35,
        (a, (BEGIN,)): 41 / 60, (b, (BEGIN,)): 0.5 * 8 / 30,
        (end, (b,)): 41 / 60, (a, (b,)): 0.5 * 11 / 30,
    }  # fmt: skip
    for (word, context), expected in cases.items():
        assert probability(tables, word, context) == pytest.approx(expected, rel=1e-6), (word, context)
    file = tmp_path / "hand.arpa"
    file.write_text(
        "\\data\\\nngram 1=4\nngram 2=6\n\n\\1-grams:\n"
        f"0 <s> {math.log10(0.5)}\n{math.log10(11 / 30)} a {math.log10(0.5)}\n"
        f"{math.log10(8 / 30)} b {math.log10(0.5)}\n{math.log10(11 / 30)} </s> 0\n\n\\2-grams:\n"
        f"{math.log10(41 / 60)} <s> a\n{math.log10(0.3)} a b\n{math.log10(0.35)} a a\n{math.log10(0.35)} a </s>\n"
        f"{math.log10(41 / 60)} b </s>\n{-9} b b\n\n\\end\\\n"
    )
    read = read_arpa(file, ["a", "b", "."], end).tables
    for (word, context), expected in cases.items():
        assert probability(read, word, context) == pytest.approx(expected, rel=1e-6), (word, context)
    assert probability(read, b, (b,)) == pytest.approx(1e-9, rel=1e-5)


def test_the_model_is_that_of_lmplz(tmp_path: Path) -> None:
    """small.arpa was written by KenLM's lmplz (-o 3) from small.txt."""
    lines = [line.split() for line in (DATA / "small.txt").read_text(encoding="utf-8").splitlines()]
    words = sorted({word for line in lines for word in line})
    names = word_names([None, *words, None], unknown=0)
    end = len(words) + 1
    documents = [[*(words.index(word) + 1 for word in line), end] for line in lines]
    tables, discounts = build(documents, 3, end + 1, end, tmp_path)
    theirs = read_arpa(DATA / "small.arpa", names, end).tables
    assert all(discount.problem is None for discount in discounts)
    for mine, other in zip(tables.keys, theirs.keys, strict=True):
        assert np.array_equal(mine, other)
    for mine, other in zip(
        [*tables.log_probabilities, *tables.log_backoffs],
        [*theirs.log_probabilities, *theirs.log_backoffs],
        strict=True,
    ):
        assert mine == pytest.approx(other, abs=3e-6)


def test_discounts_by_equation_26() -> None:
    found = Discounts.estimate((100, 40, 20, 12))
    y = 100 / 180
    expected = (1 - 2 * y * 40 / 100, 2 - 3 * y * 20 / 40, 3 - 4 * y * 12 / 20)
    assert found.amounts == pytest.approx(expected)
    assert found.problem is None


@pytest.mark.parametrize(
    ("counts", "problem"), [((5, 0, 1, 1), "adjusted count of 2"), ((1, 1, 5, 1), "count 2 would be")]
)
def test_discounts_that_cannot_be_are_replaced_and_said(counts: tuple[int, int, int, int], problem: str) -> None:
    found = Discounts.estimate(counts)
    assert found.amounts == (0.5, 1.0, 1.5)
    assert found.problem is not None
    assert problem in found.problem

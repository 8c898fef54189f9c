"""Rankings against scikit-learn and published examples."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.registry import score
from zhixing.evaluation.metrics.retrieval import retrieval


def values(predictions, references, *names, **options):
    return [one.value for one in retrieval(predictions, references, names, **options)]


def test_ndcg_as_scikit_learn():
    generator = np.random.default_rng(0)
    grades = generator.integers(0, 4, size=(20, 12))
    grades[:, 0] = 2
    scores = generator.random((20, 12))
    rankings = [np.argsort(-row).tolist() for row in scores]
    references = [dict(enumerate(row.tolist())) for row in grades]
    for k in (1, 5, 12):
        assert values(rankings, references, f"ndcg@{k}") == pytest.approx([ndcg_score(grades, scores, k=k)])
    assert values(rankings, references, "ndcg") == pytest.approx([ndcg_score(grades, scores)])


def test_a_published_example_of_ndcg():
    """The example of Wikipedia's article: grades 3 2 3 0 1 2 in rank order, two more documents of grades 3 and 2."""
    grades = {"D1": 3, "D2": 2, "D3": 3, "D4": 0, "D5": 1, "D6": 2, "D7": 3, "D8": 2}
    assert values([["D1", "D2", "D3", "D4", "D5", "D6"]], [grades], "ndcg@6") == pytest.approx([0.785], abs=5e-4)


def test_a_published_example_of_mrr():
    """Wikipedia's: right answers at ranks 3, 2 and 1."""
    rankings = [["catten", "cati", "cats"], ["torii", "tori", "toruses"], ["viruses", "virii", "viri"]]
    assert values(rankings, [["cats"], ["tori"], ["viruses"]], "mrr") == pytest.approx([11 / 18])


def test_by_hand():
    rankings = [["a", "b", "c", "d"], ["x", "y"], []]
    relevant = [["b", "d", "z"], {"x": 2, "y": 0}, ["q"]]
    found = values(rankings, relevant, "recall@2", "hit@1", "hit@2", "precision@4", "mrr@1", "mrr")
    assert found == pytest.approx(
        [(1 / 3 + 1 + 0) / 3, 1 / 3, 2 / 3, (2 / 4 + 1 / 4 + 0) / 3, 1 / 3, (1 / 2 + 1 + 0) / 3]
    )


def test_gain():
    grades = {"a": 3, "b": 1}
    linear = (1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))
    exponential = (1 + 7 / np.log2(3)) / (7 + 1 / np.log2(3))
    assert values([["b", "a"]], [grades], "ndcg") == pytest.approx([linear])
    assert values([["b", "a"]], [grades], "ndcg", exponential_gain=True) == pytest.approx([exponential])
    (one,) = score("ndcg@3", [["b", "a"]], [grades], options={"exponential_gain": True})
    assert "2^grade - 1" in one.signature


@pytest.mark.parametrize(
    ("ranking", "relevant", "message"),
    [
        (["a", "a"], ["a"], "query 1: 'a' is ranked twice"),
        ("abc", ["a"], "a ranking is a list"),
        (["a"], "a", "relevant items are a list"),
        (["a"], [], "no item is relevant"),
        (["a"], {"a": 0}, "no item is relevant"),
        (["a"], {"a": -1}, "relevance of 'a' is -1"),
        (["a"], {"a": "high"}, "relevance of 'a' is 'high'"),
    ],
)
def test_what_cannot_be(ranking, relevant, message):
    with pytest.raises(BadInput, match=message):
        retrieval([ranking], [relevant], ["mrr"])

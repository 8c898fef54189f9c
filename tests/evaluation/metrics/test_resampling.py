"""Intervals and paired tests: against plain loops, the theory of means, and sacrebleu's tests."""

import random

import numpy as np
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.base import DenseRows, SparseRows, Statistics, make_score, mean_of, ratio
from zhixing.evaluation.metrics.registry import compare, score
from zhixing.evaluation.metrics.resampling import resample_counts, resampled_values, with_interval
from zhixing.evaluation.metrics.significance import bootstrap_differences, compare_scores


def test_a_mean_has_the_interval_of_theory():
    values = np.random.default_rng(0).normal(size=2000)
    found = with_interval(make_score("mean", "mean", mean_of(values), values), resamples=4000).interval
    error = 1.96 * values.std() / np.sqrt(2000)
    assert found.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_few_different_rows_are_drawn_as_many_would_be():
    """The two ways of drawing, a row at a time and a class of equal rows at a time, have the same distribution."""
    right = (np.random.default_rng(1).random(400) < 0.3).astype(float)
    pooled = mean_of(right)
    assert len(pooled.rows) == 2
    rows = np.stack([right, np.ones(400)], axis=1)
    single = Statistics(DenseRows(rows), np.arange(400), lambda sums: ratio(sums[..., 0], sums[..., 1]))
    one, other = (np.sort(resampled_values(statistics, 4000)) for statistics in (pooled, single))
    assert np.abs(one - other).max() < 0.02
    assert one.mean() == pytest.approx(right.mean(), abs=0.002)
    assert one.std() == pytest.approx(right.std() / 20, rel=0.05)


@pytest.mark.parametrize("counts", [[1] * 40, [3, 0, 5, 2], [20, 400]])
def test_every_resample_has_as_many_examples(counts):
    draws = np.concatenate(list(resample_counts(np.array(counts), 300, np.random.default_rng(0))))
    assert draws.shape == (300, len(counts))
    assert (draws.sum(axis=1) == sum(counts)).all()
    assert draws.mean(axis=0) == pytest.approx(counts, rel=0.25, abs=0.3)
    assert not draws[:, np.array(counts) == 0].any()


def test_memory_is_bounded_by_drawing_in_parts(monkeypatch):
    values = np.arange(50.0)
    monkeypatch.setattr("zhixing.evaluation.metrics.resampling.CHUNK", 100)
    assert len(resampled_values(mean_of(values), 101)) == 101


def test_seeds():
    one = mean_of(np.arange(30.0))
    assert (resampled_values(one, 50, 3) == resampled_values(one, 50, 3)).all()
    assert (resampled_values(one, 50, 3) != resampled_values(one, 50, 4)).any()


def test_sparse_rows_add_up_as_dense_ones():
    generator = np.random.default_rng(0)
    columns, values = generator.integers(0, 5, (7, 3)), generator.random((7, 3))
    sparse = SparseRows(columns, values, 5)
    dense = np.zeros((7, 5))
    for row in range(7):
        np.add.at(dense[row], columns[row], values[row])
    weights = generator.random((4, 7))
    assert sparse.weigh(weights) == pytest.approx(weights @ dense)
    assert sparse.take(np.array([2, 2])).weigh(np.ones((1, 2)))[0] == pytest.approx(2 * dense[2])


def test_one_example_has_no_interval():
    found = with_interval(make_score("mean", "", mean_of([1.0]), [1.0]))
    assert found.interval is None
    assert found.notes == ("one example has no interval",)
    with pytest.raises(BadInput, match="5 resamples"):
        with_interval(found, resamples=5)
    with pytest.raises(BadInput, match="confidence of 95"):
        with_interval(found, confidence=95)


def systems(seed, much):
    """Returns references and two systems, the second of which loses fewer words."""
    chooser = random.Random(seed)
    words = "the a of cat dog runs in green house and then stops".split()
    references = [" ".join(chooser.choices(words, k=chooser.randint(4, 16))) for _ in range(100)]
    kept = [[[w for w in t.split() if chooser.random() < keep] for t in references] for keep in (0.75, 0.75 + much)]
    return references, *([" ".join(words) for words in system] for system in kept)


@pytest.mark.parametrize("much", [0.0, 0.03, 0.2])
def test_paired_tests_as_sacrebleu(much, monkeypatch):
    references, first, second = systems(5, much)
    monkeypatch.setenv("SACREBLEU_SEED", "1")
    (ours,) = compare("bleu", first, second, references, trials=4000)
    expected = {}
    for kind in ("ar", "bs"):
        metrics = {"BLEU": sacrebleu.BLEU(references=[references], force=True)}
        test = PairedTest([("first", first), ("second", second)], metrics, None, kind, 4000)
        expected[kind] = test()[1]["BLEU"][1]
    assert ours.second == pytest.approx(expected["ar"].score)
    assert ours.p_randomisation == pytest.approx(expected["ar"].p_value, abs=0.03)
    # sacrebleu centres the sizes of the differences, not the differences: its p is lower (see `significance`).
    pair = [score("bleu", system, references, resamples=0)[0] for system in (first, second)]
    sizes = np.abs(bootstrap_differences(*pair, 4000, np.random.default_rng(0)))
    theirs = np.mean(sizes - sizes.mean() > abs(ours.difference))
    assert theirs == pytest.approx(expected["bs"].p_value, abs=0.03)
    assert ours.p_bootstrap == pytest.approx(ours.p_randomisation, abs=0.05)


def test_the_verdict():
    references, first, second = systems(5, 0.2)
    (better,) = compare("bleu", first, second, references)
    assert better.verdict == "the second is better (p = 0.001)"
    assert better.difference == pytest.approx(better.second - better.first)
    assert better.interval.low > 0
    (ter,) = compare("ter", first, second, references)
    assert ter.difference < 0
    assert "the second is better" in ter.verdict
    assert ter.wins > ter.losses
    (same,) = compare("bleu", first, first, references)
    assert same.p_bootstrap == same.p_randomisation == 1
    assert "do not tell" in same.verdict


def test_false_alarms_are_as_rare_as_they_should_be():
    generator = np.random.default_rng(0)
    alarms = np.zeros(2)
    for _ in range(300):
        pair = generator.random((2, 60))
        one, other = (make_score("mean", "", mean_of(values), values) for values in pair)
        found = compare_scores(one, other, resamples=200, trials=200)
        alarms += [found.p_bootstrap < 0.05, found.p_randomisation < 0.05]
    assert (alarms <= 26).all(), alarms  # 15 are expected; more than 26 happen once in 300 times


def test_labels_that_only_one_system_predicts():
    true = ["a", "b"] * 30
    (macro,) = compare("macro_f1", ["a"] * 60, ["a", "b", "c"] * 20, true)
    (alone,) = score("macro_f1", ["a", "b", "c"] * 20, true)
    assert macro.second == pytest.approx(alone.value)


def test_unlike_scores_are_not_compared():
    one = score("squad_f1", ["a", "b"], ["a", "b"])[0]
    other = score("squad_em", ["a", "b"], ["a", "b"])[0]
    with pytest.raises(BadInput, match="cannot be compared"):
        compare_scores(one, other)
    with pytest.raises(BadInput, match=r"first system has 2 prediction\(s\), the second 1"):
        compare("squad_f1", ["a", "b"], ["a"], ["a", "b"])

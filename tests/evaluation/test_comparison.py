"""Comparisons: figures against scipy, error rates in simulations, and what is said."""

import numpy as np
import pytest

from zhixing.core.errors import BadInput
from zhixing.evaluation.comparison import compare_systems, in_words
from zhixing.evaluation.metrics.base import Score, make_score, mean_of

stats = pytest.importorskip("scipy.stats")


def scored(values: np.ndarray, better: str = "higher") -> Score:
    return make_score("accuracy", "accuracy", mean_of(values), values, better=better)  # type: ignore[arg-type]


def systems(generator: np.random.Generator, quality: dict[str, float], seeds: int, examples: int, spread: float):
    """Binary outcomes: an example's difficulty is shared by all systems, a seed moves its system a little."""
    difficulty = generator.normal(0, 1, examples)
    found = {}
    for name, level in quality.items():
        found[name] = []
        for _ in range(seeds):
            ability = level + generator.normal(0, spread)
            found[name].append(scored((generator.normal(0, 1, examples) + ability > difficulty).astype(float)))
    return found


def test_without_variation_of_examples_it_is_welchs_test() -> None:
    first, second = [0.2, 0.4, 0.3], [0.6, 0.7, 0.9]
    scores = {name: [scored(np.full(20, value)) for value in values] for name, values in (("a", first), ("b", second))}
    result = compare_systems(scores)
    expected = stats.ttest_ind(second, first, equal_var=False)
    assert result.pairs[0].p == pytest.approx(expected.pvalue, rel=1e-9)
    assert result.pairs[0].interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    low, high = result.standings[0].interval
    reach = stats.t.ppf(0.975, 2) * np.std(second, ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((np.mean(second) - reach, np.mean(second) + reach))


def test_with_one_seed_the_examples_alone_decide() -> None:
    generator = np.random.default_rng(3)
    difference = generator.normal(0.05, 0.5, 400)
    base = generator.normal(0, 1, 400)
    result = compare_systems({"a": [scored(base)], "b": [scored(base + difference)]}, resamples=4000)
    error = np.std(difference, ddof=1) / np.sqrt(400)
    expected = 2 * stats.norm.sf(abs(difference.mean()) / error)
    assert result.pairs[0].p == pytest.approx(expected, abs=0.02)
    assert result.standings[0].seed_deviation is None


def test_the_same_draws_for_all_make_a_shared_difficulty_fall_out() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, 200)
    scores = {"a": [scored(hard)], "b": [scored(hard + 0.1 + generator.normal(0, 0.05, 200))]}
    result = compare_systems(scores)
    assert result.pairs[0].told_apart
    assert result.standings[0].example_error > 0.5


def test_equal_systems_are_seldom_told_apart() -> None:
    """The share of false claims among three equal systems stays about the level, whatever varies."""
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(100):
        scores = systems(generator, {"a": 0.0, "b": 0.0, "c": 0.0}, seeds=3, examples=60, spread=0.3)
        wrong += any(pair.told_apart for pair in compare_systems(scores, resamples=50).pairs)
    assert wrong / 100 <= 0.1


def test_a_large_difference_is_found() -> None:
    generator = np.random.default_rng(2)
    result = compare_systems(systems(generator, {"a": 0.0, "b": 1.5}, seeds=3, examples=200, spread=0.1))
    assert result.pairs[0].told_apart
    assert (result.pairs[0].better, result.pairs[0].worse) == ("b", "a")


def test_holms_correction() -> None:
    """Against the definition: sorted p times the number that is left, never falling."""
    generator = np.random.default_rng(5)
    scores = systems(generator, {"a": 0.0, "b": 0.2, "c": 0.5, "d": 0.55}, seeds=3, examples=100, spread=0.1)
    pairs = sorted(compare_systems(scores).pairs, key=lambda pair: pair.p)
    running = 0.0
    for rank, pair in enumerate(pairs):
        running = max(running, min(1.0, (len(pairs) - rank) * pair.p))
        assert pair.p_holm == pytest.approx(running)


def test_sentences() -> None:
    generator = np.random.default_rng(4)
    scores = systems(generator, {"good": 2.0, "fair": 0.0, "also-fair": 0.0}, seeds=3, examples=300, spread=0.02)
    text = " ".join(in_words(compare_systems(scores)))
    assert text.startswith("good has the highest mean: 0.9")
    assert "better than" in text
    assert "Not told apart: " in text
    level = systems(generator, {"one": 0.0, "two": 0.0}, seeds=3, examples=300, spread=0.02)
    assert "do not tell it apart" in " ".join(in_words(compare_systems(level)))


def test_equal_means_share_the_first_place() -> None:
    scores = {name: [scored(np.array([1.0, 0.0, 1.0, 0.0]))] for name in ("a", "b")}
    assert in_words(compare_systems(scores))[0].startswith("a and b share the highest mean: 0.5")


def test_lower_is_better_where_it_is() -> None:
    scores = {"a": [scored(np.array([1.0, 2.0, 3.0]), "lower")], "b": [scored(np.array([2.0, 3.0, 4.5]), "lower")]}
    result = compare_systems(scores)
    assert [one.name for one in result.standings] == ["a", "b"]
    assert result.pairs[0].difference < 0


@pytest.mark.parametrize(
    "scores",
    [{}, {"a": []}, {"a": [scored(np.ones(3))], "b": [scored(np.ones(4))]}],
)
def test_what_cannot_be_compared(scores: dict[str, list[Score]]) -> None:
    with pytest.raises(BadInput):
        compare_systems(scores)

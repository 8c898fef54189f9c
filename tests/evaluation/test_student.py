"""Student's t against scipy, and the values of published tables."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from zhixing.evaluation.student import incomplete_beta, quantile, tail

scipy_stats = pytest.importorskip("scipy.stats")
scipy_special = pytest.importorskip("scipy.special")


@given(t=st.floats(-60, 60), freedom=st.floats(1, 500))
def test_tail_is_scipys(t: float, freedom: float) -> None:
    assume(not 0 < abs(t) < 1e-6)  # there scipy itself is off by up to 3e-9
    assert tail(t, freedom) == pytest.approx(2 * scipy_stats.t.sf(abs(t), freedom), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("t", [1e-12, 1e-8, 1e-6, 0.5, 40.0])
def test_with_one_degree_of_freedom_it_is_cauchys(t: float) -> None:
    assert tail(t, 1) == pytest.approx(2 / math.pi * math.atan(1 / t), rel=1e-12)


@given(a=st.floats(0.5, 100), b=st.floats(0.5, 100), x=st.floats(0, 1))
def test_incomplete_beta_is_scipys(a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x) == pytest.approx(scipy_special.betainc(a, b, x), rel=1e-8, abs=1e-13)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (30, 2.0423), (math.inf, 1.96)]
)
def test_quantiles_are_those_of_the_tables(freedom: float, expected: float) -> None:
    assert quantile(0.95, freedom) == pytest.approx(expected, abs=5e-5)


def test_the_ends() -> None:
    assert tail(0, 3) == pytest.approx(1)
    assert tail(math.inf, 3) == 0

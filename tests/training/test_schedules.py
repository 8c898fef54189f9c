"""Schedules at the points where their value is known, and their bounds everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.recipe import ScheduleRecipe
from zhixing.training.schedules import learning_rate_share

SHAPES = ["cosine", "linear", "wsd", "constant"]


@pytest.mark.parametrize("shape", SHAPES)
@given(
    steps=st.integers(1, 10_000), at=st.floats(0, 1, exclude_max=True), warmup=st.integers(0, 300),
    decay=st.floats(0, 1), final=st.floats(0, 1),
)  # fmt: skip
def test_the_share_is_positive_and_at_most_one(shape, steps, at, warmup, decay, final):
    schedule = ScheduleRecipe(shape=shape, warmup_steps=warmup, decay_fraction=decay, final=final)
    share = learning_rate_share(int(at * steps), steps, schedule)
    assert 0 < share <= 1 + 1e-12


def test_known_points():
    def share(step, **fields):
        return learning_rate_share(step, 100, ScheduleRecipe(**fields))

    assert share(0, shape="linear") == 1
    assert share(50, shape="linear") == pytest.approx(0.5)
    assert share(50, shape="cosine", final=0.2) == pytest.approx(0.6)
    assert share(49, shape="wsd", decay_fraction=0.5) == 1
    assert share(75, shape="wsd", decay_fraction=0.5) == pytest.approx(0.5)
    assert share(99, shape="wsd", decay_fraction=0.2) == pytest.approx(0.05)
    assert share(4, shape="constant", warmup_steps=9) == pytest.approx(0.5)
    assert share(99, shape="constant") == 1

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.data import document_hash, held_out
from zhixing.data.split import split_key


@settings(deadline=None)
@given(st.text(), st.floats(0, 1), st.floats(0, 1), st.integers(-(2**70), 2**70))
def test_larger_fractions_contain_smaller_ones(text: str, one: float, other: float, seed: int) -> None:
    key = document_hash(text.encode("utf-8", "surrogatepass"))
    low, high = sorted((one, other))
    assert held_out(key, high, seed) or not held_out(key, low, seed)
    assert not held_out(key, 0, seed)
    assert held_out(key, 1, seed)


def test_shares_and_seeds() -> None:
    keys = [document_hash(f"document {number} 文") for number in range(20_000)]
    sides = [[held_out(key, 0.05, seed) for key in keys] for seed in (0, 1)]
    for side in sides:
        assert abs(sum(side) / len(keys) - 0.05) < 0.005
    both = sum(one and other for one, other in zip(*sides, strict=True))
    assert both / len(keys) < 0.01


def test_the_split_never_changes_between_versions() -> None:
    # Frozen on purpose: a change would move documents of existing corpora between the splits.
    assert round(split_key(document_hash("知行合一"), 0), 12) == FROZEN[0]
    assert round(split_key("a string", 7), 12) == FROZEN[1]


FROZEN = (0.132648624709, 0.22782108608)

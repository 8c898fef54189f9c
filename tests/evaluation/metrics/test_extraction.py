"""Extracted JSON against a plain loop over its fields, and what no JSON is."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.extraction import NAMES, extraction
from zhixing.evaluation.metrics.registry import score

FLAT = st.dictionaries(
    st.sampled_from("abcd"), st.one_of(st.sampled_from(["x", "y", ""]), st.integers(0, 2), st.none()), max_size=4
)


def filled(value: dict[str, Any]) -> Counter[tuple[str, str, Any]]:
    return Counter((key, type(one).__name__, one) for key, one in value.items() if one not in ("", None))


@given(st.lists(st.tuples(FLAT, FLAT), min_size=1, max_size=6))
def test_it_is_a_plain_loop(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    found = {one.name: one for one in extraction([one for one, _ in pairs], [other for _, other in pairs], NAMES)}
    both = sum((filled(one) & filled(other)).total() for one, other in pairs)
    whole = sum(filled(one).total() + filled(other).total() for one, other in pairs)
    assert found["field_f1"].value == pytest.approx(2 * both / whole if whole else 0.0)
    assert found["json_exact"].value == sum(filled(one) == filled(other) for one, other in pairs) / len(pairs)
    assert found["json_valid"].value == 1.0
    texts = extraction([json.dumps(one) for one, _ in pairs], [json.dumps(other) for _, other in pairs], NAMES)
    assert [one.value for one in texts] == [one.value for one in found.values()]


def test_paths_lists_and_types() -> None:
    right = {"people": [{"name": "Anna"}, {"name": "Bo"}], "open": True, "count": 1}
    (f1,) = extraction([{"people": [{"name": "Bo"}, {"name": "Bo"}], "open": 1, "count": 1.0}], [right], ["field_f1"])
    assert f1.value == pytest.approx(2 * 2 / (4 + 4))  # one Bo and the count: true is not 1, but 1.0 is 1
    assert f1.details["types"]["people.name"]["right"] == 1
    assert f1.details["precision"] == 0.5


@pytest.mark.parametrize("text", ["", "{", "no", "NaN", "[" * 100_000, '{"a": 1} and more', "[" * 150 + "]" * 150])
def test_what_is_no_json(text: str) -> None:
    found = {one.name: one.value for one in score("extraction", [text, "{}"], ["{}", "{}"], resamples=20)}
    assert found["json_valid"] == 0.5
    assert found["json_exact"] == 0.5
    with pytest.raises(BadInput, match="example 1: the reference is no JSON"):
        score("extraction", ["{}"], [text])

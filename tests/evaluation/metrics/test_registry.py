"""The registry: names, options, and figures of language models."""

import json
import math

import pytest

from zhixing.core.errors import BadInput
from zhixing.evaluation.language_modelling import LanguageModelScore
from zhixing.evaluation.metrics.language import from_sums, language_scores
from zhixing.evaluation.metrics.registry import FAMILIES, all_names, find, plan, score
from zhixing.evaluation.metrics.resampling import with_interval

EXAMPLES = {
    "texts": (["a b c d", "e f"], ["a b c e", "e f"]),
    "answers": (["a b", "c"], [["b"], ["c", "d"]]),
    "labels": (["x", "y"], ["x", "x"]),
    "confidences": ([("x", 0.9), ("y", 0.6)], ["x", "x"]),
    "tags": ([["B-PER", "O"], ["O"]], [["B-PER", "O"], ["B-LOC"]]),
    "rankings": ([["a", "b"], ["c"]], [["b"], {"c": 2}]),
    "values": ([{"a": 1}, "broken"], ['{"a": 1}', {"b": ["x"]}]),
    "generated": (["a b c d e", "a b"], None),
    "losses": ([(10.0, 5, 20), (3.0, 2, 9)], None),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_measure_keeps_the_contract(family):
    predictions, references = EXAMPLES[family.kind]
    found = score(family.members, predictions, references, resamples=50)
    assert [one.name for one in found] == list(family.members)
    for one in found:
        assert one.n == len(one.per_example) == 2
        assert one.signature
        assert one.interval is not None
        assert one.interval.low <= one.interval.high
        assert one.value == pytest.approx(one.statistics.value)
        if one.top is not None:
            assert one.value <= one.top
        json.dumps(one.to_json(), allow_nan=False)


def test_names():
    assert [member for _, members in plan("bleu, rougel,chrf") for member in members] == ["bleu", "chrf", "rougeL"]
    assert find("ROUGELSUM")[1] == ("rougeLsum",)
    assert find("recall@7")[1] == ("recall@7",)
    assert find("distinct-5")[1] == ("distinct-5",)
    assert len(all_names()) == len(set(all_names()))
    with pytest.raises(BadInput, match="unknown measure 'blue'") as error:
        find("blue")
    assert "did you mean 'bleu'?" in error.value.remedy
    for name in ("recall", "recall@0", "distinct-x"):
        with pytest.raises(BadInput, match="unknown measure"):
            find(name)
    with pytest.raises(BadInput, match="no measure is named"):
        plan(" , ")


def test_options_reach_those_that_know_them():
    bleu, rouge = score("bleu,rouge1", ["a b"], ["A b"], options={"lowercase": True, "stemmer": True})
    assert "case:lc" in bleu.signature
    assert "stemmer:yes" in rouge.signature
    with pytest.raises(BadInput, match="unknown option 'lower_case'") as error:
        score("bleu", ["a"], ["a"], options={"lower_case": True})
    assert "did you mean 'lowercase'?" in error.value.remedy
    with pytest.raises(BadInput, match="needs references"):
        score("bleu", ["a"])


def test_figures_of_a_language_model():
    bits, perplexity = from_sums([(10 * math.log(2), 5, 20), (2 * math.log(2), 1, 4)])
    assert bits.value == pytest.approx(12 / 24)
    assert bits.per_example == pytest.approx([0.5, 0.5])
    assert perplexity.value == pytest.approx(2 ** (12 / 6))
    assert with_interval(bits).interval.low == pytest.approx(0.5)
    with pytest.raises(BadInput, match="document 2: 1 nats, 0 tokens"):
        from_sums([(1, 1, 1), (1, 0, 5)])


def test_scores_of_files_become_one_with_an_interval():
    def part(loss, tokens, size, tokenizer="t"):
        bits = loss * tokens / math.log(2) / size
        return LanguageModelScore(bits, math.exp(loss), loss, tokens, size, 1, 8, 4, tokenizer)

    parts = {"a": part(1.0, 10, 30), "b": part(2.0, 30, 50)}
    bits, perplexity = language_scores(parts)
    assert bits.value == pytest.approx(70 / math.log(2) / 80)
    assert perplexity.value == pytest.approx(math.exp(70 / 40))
    assert bits.n == 2
    with pytest.raises(BadInput, match="different tokenizers"):
        language_scores({**parts, "c": part(1.0, 2, 3, "other")})
    with pytest.raises(BadInput, match="no text was measured"):
        language_scores({})

"""Answers: the SQuAD and CMRC definitions, ten cases each worked by hand."""

import numpy as np
import pytest

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.answers import answers, cmrc_segments, squad_normalise
from zhixing.evaluation.metrics.unanswerable import best_threshold

# prediction, accepted, exact match, F1
SQUAD = [
    ("Denver Broncos", ["Denver Broncos"], 1, 1.0),
    ("the Denver Broncos!", ["Denver Broncos"], 1, 1.0),  # article and punctuation go
    ("Broncos", ["Denver Broncos"], 0, 2 / 3),  # 1 of 1 and 1 of 2 words
    ("Denver, Colorado", ["Denver Broncos"], 0, 1 / 2),
    ("an apple a day", ["apple", "Apple Day"], 1, 1.0),  # the best of two
    ("New  York\n City", ["new york city"], 1, 1.0),
    ("1,000", ["1000"], 1, 1.0),  # punctuation inside goes as well
    ("theatre", ["the atre"], 0, 0.0),  # articles are whole words
    ("to be or to be", ["to be"], 0, 2 * (2 / 5) * 1 / (2 / 5 + 1)),  # words counted with repeats: 2 of 5 and 2 of 2
    ("", ["something"], 0, 0.0),
]
# prediction, accepted, exact match, F1 by SQuAD 2.0
SQUAD2 = [
    ("", [], 1, 1.0),
    ("anything", [], 0, 0.0),
    ("the", [], 1, 1.0),  # normalises to nothing
    ("", ["Paris"], 0, 0.0),
    ("Paris", ["Paris"], 1, 1.0),
    ("Paris", ["the", "Paris"], 1, 1.0),  # an answer that normalises to nothing does not count
    ("", ["the"], 1, 1.0),  # and when no other is left, there is no answer
    ("in Paris", ["Paris"], 0, 2 / 3),
    ("in Paris", ["Paris", "in the Paris"], 1, 1.0),
    ("?!", ["Paris"], 0, 0.0),
]
CMRC = [
    ("北京", ["北京"], 1, 1.0),
    ("北京市", ["北京"], 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
    ("《红楼梦》", ["红楼梦"], 1, 1.0),  # punctuation goes
    ("上海", ["北京"], 0, 0.0),
    ("北京和上海", ["北京上海"], 0, 2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4)),  # longest common stretch, not the set
    ("1998年", ["1998年5月"], 0, 2 * 1 * (2 / 4) / 1.5),  # 1998 is one segment: 1998 年 of 1998 年 5 月
    ("Hello World", ["hello world"], 1, 1.0),
    (
        "Windows 95系统",
        ["windows95系统"],
        0,
        2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3),
    ),  # windows 95 系 统 | windows95 系 统
    ("", ["北京"], 0, 0.0),
    ("苹果", ["香蕉", "苹果"], 1, 1.0),
]


@pytest.mark.parametrize(("rule", "cases"), [("squad", SQUAD), ("squad2", SQUAD2), ("cmrc", CMRC)])
def test_by_hand(rule, cases):
    assert len(cases) == 10
    predictions, accepted = [case[0] for case in cases], [case[1] for case in cases]
    exact, f1 = answers(predictions, accepted, [f"{rule}_em", f"{rule}_f1"])
    assert exact.per_example == pytest.approx([100 * case[2] for case in cases])
    assert f1.per_example == pytest.approx([100 * case[3] for case in cases])
    assert exact.value == pytest.approx(10 * sum(case[2] for case in cases))
    assert f1.value == pytest.approx(10 * sum(case[3] for case in cases))


def test_normalisation():
    assert squad_normalise("A man, an inn; The END.") == "man inn end"
    assert squad_normalise("a-an-the") == "aanthe"
    assert squad_normalise("“quoted”") == "“quoted”", "only ASCII punctuation goes"


def test_cmrc_cuts_words_as_its_program_does():
    assert cmrc_segments("他说I can't go。") == ["他", "说", "i", "ca", "n't", "go"]
    assert cmrc_segments("共3.5万$") == ["共", "3.5", "万", "$"]
    assert cmrc_segments("cannot是") == ["can", "not", "是"]


def official_threshold(scores, chances, has_answer, predictions):
    """The search of SQuAD 2.0's program, as it is described: from "none" to all, in the order of probability."""
    current = best = sum(not has for has in has_answer)
    threshold = 0.0
    for k in sorted(range(len(scores)), key=lambda k: chances[k]):
        if has_answer[k]:
            current += scores[k]
        elif predictions[k]:
            current -= 1
        if current > best:
            best, threshold = current, chances[k]
    return best / len(scores), threshold


def test_best_threshold():
    generator = np.random.default_rng(0)
    for _ in range(30):
        n = int(generator.integers(1, 12))
        values, chances = generator.random(n).round(1), generator.random(n).round(1)
        has = generator.random(n) < 0.5
        given = generator.random(n) < 0.7
        values = np.where(has, values * given, (~given).astype(float))
        expected = official_threshold(list(values), list(chances), list(has), list(given))
        assert best_threshold(values, chances, has, given) == pytest.approx(expected)


def test_threshold_in_the_score():
    predictions, accepted = ["a1", "b1", "c1"], [["a1"], [], ["x"]]
    chances = [0.1, 0.8, 0.3]
    (exact,) = answers(predictions, accepted, ["squad2_em"], no_answer_probability=chances)
    assert exact.value == pytest.approx(100 / 3)
    assert exact.details["best"] == pytest.approx(200 / 3)
    assert exact.details["best_threshold"] == pytest.approx(0.1)
    (cut,) = answers(predictions, accepted, ["squad2_em"], no_answer_probability=chances, threshold=0.5)
    assert cut.value == pytest.approx(200 / 3)
    assert cut.details["value_unanswerable"] == 100
    with pytest.raises(BadInput, match="3 predictions but 1"):
        answers(predictions, accepted, ["squad2_em"], no_answer_probability=[0.1])


def test_questions_without_answer_are_for_squad2_only():
    with pytest.raises(BadInput, match="example 2: no accepted answer") as error:
        answers(["a", "b"], [["a"], []], ["squad_f1"])
    assert "squad2_em" in error.value.remedy


def test_plain_equality():
    (exact,) = answers([" yes\n", "No", "maybe"], ["yes", "no", ["perhaps", "maybe"]], ["exact_match"])
    assert exact.per_example.tolist() == [1, 0, 1]

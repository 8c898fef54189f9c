"""Classification against scikit-learn, and calibration by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from sklearn.preprocessing import MultiLabelBinarizer

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.calibration import calibration
from zhixing.evaluation.metrics.classification import NAMES, classification, confusion_matrix
from zhixing.evaluation.metrics.resampling import resampled_values

LABELS = st.sampled_from(["a", "b", "c", "d"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30))
def test_as_scikit_learn(pairs):
    ours, true = (list(part) for part in zip(*pairs, strict=True))
    expected = {
        f"{how}_f1": sklearn.f1_score(true, ours, average=how, zero_division=0)
        for how in ("macro", "micro", "weighted")
    }
    expected["accuracy"] = sklearn.accuracy_score(true, ours)
    expected["mcc"] = sklearn.matthews_corrcoef(true, ours) if len({*ours, *true}) > 1 else 0.0
    for score in classification(ours, true, NAMES):
        assert score.value == pytest.approx(expected[score.name], abs=1e-12), score.name
    matrix, classes = confusion_matrix(ours, true)
    assert (matrix == sklearn.confusion_matrix(true, ours, labels=classes)).all()


def test_several_labels_as_scikit_learn():
    generator = np.random.default_rng(3)
    sets = [[[label for label in "abcde" if generator.random() < 0.4] for _ in range(40)] for _ in range(2)]
    binary = MultiLabelBinarizer(classes=list("abcde")).fit(sets[0])
    ours, true = (binary.transform(part) for part in sets)
    accuracy, macro, micro = classification(*sets, ["accuracy", "macro_f1", "micro_f1"])
    assert accuracy.value == pytest.approx(sklearn.accuracy_score(true, ours))
    assert macro.value == pytest.approx(sklearn.f1_score(true, ours, average="macro"))
    assert micro.value == pytest.approx(sklearn.f1_score(true, ours, average="micro"))
    with pytest.raises(BadInput, match="mcc is for one label"):
        classification(*sets, ["mcc"])


def test_a_published_example():
    """The example of the article on the confusion matrix in Wikipedia: 6 cats and 3 dogs right, 2 and 1 wrong."""
    ours = ["cat"] * 6 + ["dog"] * 2 + ["cat"] + ["dog"] * 3
    true = ["cat"] * 8 + ["dog"] * 4
    (mcc,) = classification(ours, true, ["mcc"])
    assert mcc.value == pytest.approx(0.478, abs=5e-4)


def test_figures_of_each_class():
    (macro,) = classification(["a", "b", "b", 1], ["a", "a", "b", 2], ["macro_f1"])
    by_label = {entry["label"]: entry for entry in macro.details["classes"]}
    assert list(by_label) == ["1", "2", "a", "b"]
    figures = {"label": "a", "precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2, "predicted": 1}
    assert by_label["a"] == figures
    assert macro.value == pytest.approx((2 / 3 + 2 / 3) / 4)


def test_resamples_leave_out_absent_classes():
    """A class that a resample does not hold has no F1 there: the value is scikit-learn's on the resampled examples."""
    ours, true = np.array(["a", "b", "c", "a"]), np.array(["a", "b", "c", "b"])
    (macro,) = classification(ours.tolist(), true.tolist(), ["macro_f1"])
    possible = set()
    for draw in np.ndindex(4, 4, 4, 4):
        chosen = list(draw)
        possible.add(round(sklearn.f1_score(true[chosen], ours[chosen], average="macro", zero_division=0), 9))
    drawn = {round(value, 9) for value in resampled_values(macro.statistics, 2000)}
    assert drawn == possible


def test_mixtures_are_refused():
    with pytest.raises(BadInput, match=r"example 2: 'b' where a list of labels is expected"):
        classification([["a"], "b"], [["a"], ["b"]])
    with pytest.raises(BadInput, match="example 1:"):
        classification([["a"]], ["a"])


def test_calibration_by_hand():
    # Two bins: (0, 0.5] holds 0.4 (wrong) and 0.5 (right); (0.5, 1] holds 0.9 (right) and 0.8 (wrong) and 1.0 (right).
    ece = calibration([0.4, 0.5, 0.9, 0.8, 1.0], [False, True, True, False, True], bins=2)
    first, second = abs(1 / 2 - 0.45), abs(2 / 3 - 0.9)
    assert ece.value == pytest.approx(2 / 5 * first + 3 / 5 * second)
    low, high = ece.details["bins"]
    assert (low["count"], high["count"]) == (2, 3)
    assert high["accuracy"] == pytest.approx(2 / 3)
    assert ece.better == "lower"


def test_calibration_at_the_ends():
    ece = calibration([0.0, 1.0, 1 / 15], [False, True, False])
    assert ece.value == pytest.approx(1 / 15 / 3)
    assert ece.details["bins"][0]["count"] == 2, "an upper end belongs to its bin, and so does 0"
    with pytest.raises(BadInput, match=r"example 2: a confidence of 1.2"):
        calibration([0.5, 1.2], [True, False])
    with pytest.raises(BadInput, match="confidence of nan"):
        calibration([float("nan")], [True])


def test_perfect_calibration_is_near_zero():
    generator = np.random.default_rng(0)
    sure = generator.random(200_000)
    ece = calibration(sure, generator.random(200_000) < sure)
    assert ece.value < 0.01

"""Pictures: well-formed SVG, with the right numbers, and nothing of a label that could be markup."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from zhixing.core.errors import BadInput
from zhixing.evaluation.metrics.calibration import calibration
from zhixing.evaluation.metrics.classification import classification, confusion_matrix
from zhixing.evaluation.metrics.pictures import calibration_svg, confusion_svg, most_confused, shortened

SVG = "{http://www.w3.org/2000/svg}"


def parse(picture):
    root = ElementTree.fromstring(picture)
    assert root.tag == f"{SVG}svg"
    x, y, width, height = map(float, root.attrib["viewBox"].split())
    for rect in root.iter(f"{SVG}rect"):
        place = {name: float(rect.attrib[name]) for name in ("x", "y", "width", "height")}
        assert place["x"] >= x
        assert place["y"] >= y
        assert place["x"] + place["width"] <= width
        assert place["y"] + place["height"] <= height
    return root


def told(root):
    return [title.text for title in root.iter(f"{SVG}title")]


TRUE = ["猫"] * 6 + ["dog"] * 4 + ["<b>&"] * 2
OURS = ["猫"] * 5 + ["dog"] * 4 + ["猫"] + ["dog", "<b>&"]


def test_confusion():
    matrix, labels = confusion_matrix(OURS, TRUE)
    root = parse(confusion_svg(matrix, labels))
    assert len(told(root)) == 9
    assert "猫 taken for dog: 1 of 6 (16.7 %)" in told(root)
    assert "dog taken for dog: 3 of 4 (75 %)" in told(root)
    assert "<b>& taken for dog: 1 of 2 (50 %)" in told(root)
    assert root.attrib["aria-label"] == "Confusion matrix of 3 classes: 9 of 12 right"
    assert [(one.true, one.predicted, one.count) for one in most_confused(matrix, labels)] == [
        ("<b>&", "dog", 1), ("dog", "猫", 1), ("猫", "dog", 1)]  # fmt: skip


def test_many_classes_are_put_together():
    generator = np.random.default_rng(0)
    matrix = generator.integers(0, 5, (77, 77))
    matrix[3, 4] = 1000
    small, names = shortened(matrix, [f"class {k}" for k in range(77)])
    assert small.shape == (20, 20)
    assert small.sum() == matrix.sum()
    assert names[-1] == "58 others"
    assert small[names.index("class 3"), names.index("class 4")] == 1000
    root = parse(confusion_svg(matrix, [f"class {k}" for k in range(77)]))
    assert root.attrib["aria-label"].startswith("Confusion matrix: the 19 classes with the most errors of 77")


def test_calibration():
    generator = np.random.default_rng(0)
    sure = generator.random(500)
    score = calibration(sure, generator.random(500) < sure**2, bins=10)
    root = parse(calibration_svg(score))
    assert len(told(root)) == 10
    last = score.details["bins"][-1]
    assert f"{last['count']:,} predictions" in told(root)[-1]
    assert f"expected error {score.value:.3f}" in root.attrib["aria-label"]
    # The height of a bar is the share that is right: the last bar of the upper plot.
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.attrib["fill-opacity"] == ".55"]
    assert float(bars[-1].attrib["height"]) == pytest.approx(360 * last["accuracy"], abs=0.1)


def test_colours_are_those_of_the_report():
    picture = confusion_svg(*confusion_matrix(OURS, TRUE))
    assert "var(--blue, #24566f)" in picture
    assert not re.search(r'fill="#', picture)


def test_what_cannot_be_drawn():
    with pytest.raises(BadInput, match="does not fit 2"):
        confusion_svg(np.zeros((3, 3), dtype=np.int64), ["a", "b"])
    with pytest.raises(BadInput, match="no class"):
        confusion_svg(np.zeros((0, 0), dtype=np.int64), [])
    with pytest.raises(BadInput, match="accuracy has no bins"):
        calibration_svg(classification(["a"], ["a"], ["accuracy"])[0])

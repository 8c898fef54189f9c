"""`classify`: by head, by vectors, by prompt; long texts; the command."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tasks.support import run
from zhixing.checkpoints.encoder_folder import load_encoder
from zhixing.core.errors import BadInput
from zhixing.models.ragged import Ragged
from zhixing.native import library
from zhixing.native.encoder import NativeEncoder
from zhixing.tasks.base import run_texts
from zhixing.tasks.classify import Classify
from zhixing.tasks.encoders import EncoderRunner, windows_of

TEXTS = ["a wonderful film", "boring and awful", "知行合一", "😀🎉", "Anna lives in Paris"]


def test_a_classifier_gives_its_own_probabilities(models: Path) -> None:
    folder = load_encoder(models / "classifier")
    results = run_texts(Classify(models / "classifier"), TEXTS)
    for text, result in zip(TEXTS, results, strict=True):
        with torch.inference_mode():
            logits = folder.model(Ragged.of([folder.tokenizer.encode(text, special=True)]))[0]
        expected = logits.softmax(0).tolist()
        assert result.probability == pytest.approx(max(expected), abs=2e-6)
        assert result.label == ("bad", "good")[int(np.argmax(expected))]


@pytest.mark.skipif(library.absence() is not None, reason="the native core is not built")
def test_the_core_computes_classifiers_and_taggers(models: Path) -> None:
    assert isinstance(EncoderRunner.open(models / "classifier", "classify", "classify").model.encoder, NativeEncoder)
    assert isinstance(EncoderRunner.open(models / "tagger", "tag", "tag").model.encoder, NativeEncoder)


def test_several_labels_at_once(models: Path) -> None:
    result = run_texts(Classify(models / "several"), ["a wonderful film"])[0]
    assert isinstance(result.label, tuple)
    assert set(result.label) == {label for label, value in result.probabilities.items() if value >= 0.5}


def test_a_long_text_is_read_to_its_end_in_windows(models: Path) -> None:
    classify = Classify(models / "classifier")
    long = " ".join(["a film"] * 30)
    changed = long + " awful awful awful"
    one, other = run_texts(classify, [long, changed])
    assert one.windows == 4
    assert one.probability != other.probability  # the end counts


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 19, 100, 101])
def test_windows_cover_all_and_overlap(length: int) -> None:
    windows = windows_of(0, length, 10)
    covered = {place for one in windows for place in range(one.begin, one.end)}
    assert covered == set(range(length))
    assert all(one.end - one.begin <= 10 for one in windows)
    assert all(later.begin <= before.end - 2 for before, later in pairwise(windows))


def test_results_do_not_depend_on_what_is_beside(models: Path) -> None:
    classify = Classify(models / "classifier")
    alone = [run_texts(classify, [text])[0] for text in TEXTS]
    together = run_texts(classify, TEXTS)
    assert [one.label for one in alone] == [one.label for one in together]
    for one, other in zip(alone, together, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=2e-6)


def test_labels_by_vectors_and_by_prompt(models: Path) -> None:
    for name in ("pool", "chat"):
        for result in run_texts(Classify(models / name, ["good", "bad", "无聊"]), TEXTS):
            assert result.label in ("good", "bad", "无聊")
            assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_a_chat_model_reads_long_texts_in_parts(models: Path) -> None:
    result = run_texts(Classify(models / "chat", ["good", "bad"]), ["boring and awful. " * 200])[0]
    assert result.windows > 3


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        ("classifier", ["x", "y"], "has its own labels: bad, good"),
        ("pool", None, "at least two labels"),
        ("chat", ["x"], "at least two labels"),
        ("chat", ["x", "x"], "there twice"),
        ("pool", ["x", " "], "empty"),
        ("span", None, "its head is 'span'"),
    ],
)
def test_labels_and_models_that_do_not_fit(model: str, labels: list[str] | None, message: str, models: Path) -> None:
    with pytest.raises(BadInput, match=message):
        Classify(models / model, labels)


def test_the_command(models: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    ended = run(monkeypatch, capsys, "classify", "-m", models / "classifier", "a film", "awful")
    assert ended.code == 0
    assert all(line in ("good", "bad") for line in ended.out.splitlines())
    ended = run(monkeypatch, capsys, "classify", "-m", models / "classifier", "--json", stdin="一\nb\n".encode())
    assert [set(json.loads(line)) for line in ended.out.splitlines()] == [
        {"prediction", "probability", "probabilities", "windows"}
    ] * 2
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a film"}\n{"text": ""}\n')
    words = ["classify", "-m", models / "classifier", "--file", path, "--out", tmp_path / "out.jsonl"]
    ended = run(monkeypatch, capsys, *words)
    assert ended.code == 2
    assert "in.jsonl:2: the text is empty" in ended.err
    ended = run(monkeypatch, capsys, *words, "--skip-bad", "--json")
    assert json.loads(ended.out)["bad"] == 1

"""Runs on records from recipe to model folder: learning, resuming bit for bit, stopping early, finding faults first."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zhixing
from zhixing.checkpoints.encoder_folder import load_encoder
from zhixing.core.errors import BadInput
from zhixing.core.recipe import build_recipe, load_recipe
from zhixing.training.resolve import resolve
from zhixing.workflows.pretrain import resume_run
from zhixing.workflows.records_run import RecordOutcome

GOOD, BAD = "好 棒 great fine lovely".split(), "差 糟 awful poor nasty".split()
OTHER = "the room 房间 is 很 and was 早餐 food".split()


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        good = generator.random() < 0.5
        words = generator.choices(OTHER, k=generator.randint(2, 14))
        words.insert(generator.randint(0, len(words)), generator.choice(GOOD if good else BAD))
        found.append({"text": " ".join(words), "label": "pos" if good else "neg"})
    return found


def write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in records) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    write(folder / "train.jsonl", rows(160, 0))
    write(folder / "dev.jsonl", rows(40, 1))
    return folder


def train(folder: Path, run: Path, **sections: Any) -> RecordOutcome:
    recipe: dict[str, Any] = {
        "data": {"paths": [str(folder / "train.jsonl")], "validation_paths": [str(folder / "dev.jsonl")]},
        "tokenizer": {"kind": "byte-bpe", "vocab_size": 320},
        "model": {"depth": 1, "width": 32, "heads": 2, "context": 64},
        "optimizer": {"name": "adamw", "learning_rate": 0.005},
        "train": {
            "objective": "classification",
            "epochs": 12.0,
            "batch_size": 16,
            "matmul": "torch",
            "validate_every": 10,
        },
    }
    for name, values in sections.items():
        recipe[name] = {**recipe.get(name, {}), **values} if values is not None else {}
    outcome = zhixing.train(recipe, run)
    assert isinstance(outcome, RecordOutcome)
    return outcome


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordOutcome:
    return train(data, tmp_path_factory.mktemp("runs") / "run", model={"dropout": 0.1, "word_dropout": 0.05})


def test_it_learns_and_says_so(finished: RecordOutcome) -> None:
    assert finished.score.measures["accuracy"] > 0.9
    interval = finished.scores[0].interval
    assert interval is not None
    assert interval.low <= finished.score.measures["accuracy"] <= interval.high
    facts = json.loads((finished.folder / "facts.json").read_text())
    assert facts["objective"]["labels"].keys() == {"neg", "pos"}
    assert facts["data"]["train"]["records"] == 160
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "accuracy" in report
    assert "with 95 % intervals" in report
    assert "bits per byte</th>" not in report
    assert "| accuracy |" in (finished.folder / "model" / "README.md").read_text(encoding="utf-8")


def test_a_start_models_dropout_and_length_stay_when_the_run_is_resumed(
    finished: RecordOutcome, data: Path, tmp_path: Path
) -> None:
    recipe = {
        "data": {"paths": [str(data / "train.jsonl")], "validation_paths": [str(data / "dev.jsonl")]},
        "model": {"start": str(finished.folder / "model")},
        "train": {"objective": "classification", "steps": 4, "save_every": 2, "batch_size": 8, "matmul": "torch"},
    }
    folder = zhixing.train(recipe, tmp_path / "run").folder

    def sizes() -> tuple[Any, Any]:
        facts = json.loads((folder / "facts.json").read_text())
        return facts["model"]["dropout"], load_recipe(folder / "recipe.yaml").model.context

    assert sizes() == (0.1, 64)
    proof = resume_run(folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0
    assert sizes() == (0.1, 64)


def test_the_model_folder_predicts_what_the_run_measured(finished: RecordOutcome, data: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(finished.folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished.folder / "model")
    right = []
    for row in map(json.loads, (data / "dev.jsonl").read_text(encoding="utf-8").splitlines()):
        with torch.no_grad():
            scores = model(**tokenizer(row["text"], return_tensors="pt")).logits
        right.append(model.config.id2label[int(scores.argmax())] == row["label"])
    assert sum(right) / len(right) == pytest.approx(finished.score.measures["accuracy"])


def test_it_resumes_bit_for_bit_from_its_folder_alone(
    finished: RecordOutcome, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    proof = resume_run(finished.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0
    assert not list(tmp_path.iterdir())


def test_everything_random_at_once_resumes_bit_for_bit(finished: RecordOutcome, data: Path, tmp_path: Path) -> None:
    outcome = train(
        data, tmp_path / "run",
        tokenizer=None,
        model={"depth": 4, "width": None, "heads": None, "start": str(finished.folder), "freeze_embeddings": True,
               "word_dropout": 0.1, "dropout": 0.1, "attention_dropout": 0.1, "head_dropout": 0.2},
        optimizer={"mixout": 0.3, "layer_decay": 0.8, "learning_rate": 1e-3},
        task={"r_drop": 0.5, "label_smoothing": 0.1, "class_weights": "balanced"},
        train={"average_decay": 0.9, "epochs": 2.0, "batch_size": None, "batch_tokens": 200, "accumulate": 2},
    )  # fmt: skip
    initial = load_encoder(outcome.folder / "initial").model.encoder.embedding.weight
    assert torch.equal(load_encoder(outcome.folder / "model").model.encoder.embedding.weight, initial)
    (outcome.folder / "initial" / "model.safetensors").stat()
    proof = resume_run(outcome.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0


def test_patience_ends_a_run_and_resuming_does_not_go_on(data: Path, tmp_path: Path) -> None:
    outcome = train(
        data,
        tmp_path / "run",
        optimizer={"learning_rate": 1e-9},
        train={"patience": 2, "validate_every": 2, "epochs": 9.0},
    )
    state = json.loads((outcome.folder / "state.json").read_text())
    assert state["step"] < state["steps"]
    again = resume_run(outcome.folder)
    assert json.loads((again.folder / "state.json").read_text())["step"] == state["step"]
    events = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    assert any(row.get("event") == "stopped early" for row in events)


def test_a_share_is_held_out_by_content(data: Path, tmp_path: Path) -> None:
    outcome = train(
        data,
        tmp_path / "run",
        data={"validation_paths": [], "validation_fraction": 0.2},
        train={"steps": 1, "epochs": None},
    )
    facts = json.loads((outcome.folder / "facts.json").read_text())["data"]
    assert facts["train"]["records"] + facts["validation"]["records"] == 160
    assert 15 <= facts["validation"]["records"] <= 50


def test_long_records_are_cut_counted_and_said(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "long.jsonl", [{"text": "great " * 100, "label": "pos"}, *rows(40, 2)])
    paths = {"paths": [str(tmp_path / "long.jsonl")]}
    outcome = train(data, tmp_path / "run", data=paths, train={"steps": 1, "epochs": None})
    facts = json.loads((outcome.folder / "facts.json").read_text())["data"]
    assert facts["cut"] == 1
    assert facts["cut_tokens"] > 30
    assert "1 record(s) longer than 64 tokens were cut" in capfd.readouterr().err
    with pytest.raises(BadInput, match=r"long.jsonl:1: a record \d+ tokens longer than 64"):
        train(data, tmp_path / "other", data={**paths, "too_long": "refuse"})
    assert not (tmp_path / "other").exists()


WRONG: dict[str, tuple[Callable[[list[dict[str, Any]]], list[dict[str, Any]]], str]] = {
    "no label": (lambda found: [*found, {"text": "x"}], r"bad.jsonl:41: the label 'label' is null"),
    "an empty label": (lambda found: [*found, {"text": "x", "label": " "}], r"bad.jsonl:41: the label .*is "),
    "an unknown label": (
        lambda found: [*found, {"text": "x", "label": "poz"}],
        r'bad.jsonl:41: unknown label "poz"\n  did you mean pos',
    ),
    "a list": (lambda found: [*found, {"text": "x", "label": ["pos"]}], r"bad.jsonl:41: .*list"),
    "one line of a megabyte": (
        lambda found: [{"text": "x" * 1_000_000, "label": "pos"}, *found],
        r"bad.jsonl:1: a text of 1,000,000 characters",
    ),
    "no text": (lambda found: [{"text": "", "label": "pos"}, *found], r"bad.jsonl:1: .*"),
    "another shape": (lambda found: [{"source": "x", "target": "y"}] * 5, r"bad.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("part", ["paths", "validation_paths"])
def test_what_is_wrong_is_said_before_training(fault: str, part: str, data: Path, tmp_path: Path) -> None:
    if (fault, part) in {("an unknown label", "paths")}:
        pytest.skip("in the training records it is simply a label")
    spoil, message = WRONG[fault]
    write(tmp_path / "bad.jsonl", spoil(rows(40, 3)))
    with pytest.raises(BadInput, match=message) as caught:
        train(data, tmp_path / "run", data={part: [str(tmp_path / "bad.jsonl")]})
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()


def test_one_label_is_nothing_to_learn(data: Path, tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", [{**row, "label": "pos"} for row in rows(20, 0)])
    with pytest.raises(BadInput, match="the same label"):
        train(data, tmp_path / "run", data={"paths": [str(tmp_path / "one.jsonl")]})


def test_wrong_records_can_be_left_out(data: Path, tmp_path: Path) -> None:
    write(tmp_path / "bad.jsonl", [*rows(40, 3), {"text": "x"}, {"text": "y", "label": "poz"}])
    outcome = train(
        data, tmp_path / "run", data={"validation_paths": [str(tmp_path / "bad.jsonl")], "skip_faulty": True},
        train={"steps": 1, "epochs": None},
    )  # fmt: skip
    assert json.loads((outcome.folder / "facts.json").read_text())["data"]["faulty"] == 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"objective": "clasification"}}, "did you mean 'classification'"),
        ({"task": {"focal": 2.0}}, "the objective 'causal' has no option 'focal'"),
        ({"model": {"start": "minilm"}}, "model.start is for records"),
        ({"train": {"objective": "classification", "block": 8}}, "train.block is for running text"),
        ({"train": {"objective": "classification", "best": "bleu"}}, "unknown measure"),
        ({"train": {"objective": "classification", "batch_size": 2, "batch_tokens": 2}}, "how large a batch"),
        ({"train": {"objective": "classification", "steps": 2, "epochs": 2.0}}, "how long to train"),
        ({"train": {"objective": "classification"}, "model": {"freeze": 1}}, "none to begin with"),
        ({"train": {"objective": "classification"}, "model": {"family": "bret"}}, "did you mean 'bert'"),
        ({"train": {"objective": "classification"}, "model": {"rope_theta": 5.0}}, "means nothing for an encoder"),
        ({"train": {"objective": "classification"}, "model": {"start": "minilm", "depth": 2}}, "sizes are those of"),
        ({"train": {"objective": "classification"}, "task": {"focal": 2.0, "label_smoothing": 0.1}}, "use one of them"),
        ({"train": {"best": "accuracy"}}, "the measure of running text"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve(build_recipe({"data": {"paths": ["x"]}, **sections}))

"""The objective `caption`: its loss against `transformers`, runs that resume and go on, bad images found first."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zhixing
from zhixing.checkpoints.vision_folder import load_vision
from zhixing.core.errors import BadInput
from zhixing.core.recipe import build_recipe
from zhixing.data.examples import ExampleStore
from zhixing.data.length_batches import RawBatch
from zhixing.training.objectives.caption import Caption
from zhixing.workflows.pretrain import resume_run
from zhixing.workflows.records_run import RecordOutcome

PIL = pytest.importorskip("PIL.Image")

RECIPE: dict[str, Any] = {
    "data": {"pictures": {"count": 48, "unseen": 12, "side": 32}},
    "tokenizer": {"kind": "byte-bpe", "vocab_size": 330},
    "model": {"width": 32, "depth": 1, "context": 24, "image_size": 32, "patch_size": 8, "dropout": 0.1},
    "train": {"objective": "caption", "steps": 8, "batch_size": 8, "matmul": "torch", "validate_every": 4},
}


def train(run: Path, **sections: Any) -> RecordOutcome:
    recipe = {name: dict(values) for name, values in RECIPE.items()}
    for name, values in sections.items():
        recipe[name] = {**recipe.get(name, {}), **values} if values is not None else {}
    outcome = zhixing.train(recipe, run)
    assert isinstance(outcome, RecordOutcome)
    return outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RecordOutcome:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    outcome = train(tmp_path_factory.mktemp("runs") / "run")
    torch.set_num_threads(threads)
    return outcome


def test_a_run_draws_its_pictures_and_writes_a_model(finished: RecordOutcome) -> None:
    facts = json.loads((finished.folder / "facts.json").read_text())
    assert facts["data"]["train"]["records"] == 48
    assert facts["data"]["validation"]["records"] == finished.records == 12
    assert finished.score.loss < 6
    card = (finished.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-to-text" in card
    found = zhixing.describe(finished.folder / "pictures/images/unseen-000000.png", finished.folder / "model")
    assert isinstance(found.text, str)


def test_the_loss_is_that_of_transformers(finished: RecordOutcome) -> None:
    from transformers import VisionEncoderDecoderModel

    theirs = VisionEncoderDecoderModel.from_pretrained(finished.folder / "model").eval()
    opened = load_vision(finished.folder / "model")
    objective = Caption(build_recipe(RECIPE))
    assert opened.tokenizer is not None
    objective.attach(opened.tokenizer, 24)
    examples = ExampleStore(finished.folder / "examples" / "validation").take(range(6))
    batch = objective.to_device(RawBatch(list(examples), 0), torch.device("cpu"))
    labels = torch.full((6, max(batch.inputs.lengths)), -100)
    for row, targets in zip(labels, batch.inputs.split(batch.targets), strict=True):
        row[: len(targets)] = targets
    with torch.no_grad():
        expected = theirs(pixel_values=batch.pixels, labels=labels).loss
        found = objective.loss_sum(opened.model, batch) / batch.target_count
    assert batch.target_count == int((labels != -100).sum())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_captions_while_training_are_those_that_are_described(finished: RecordOutcome) -> None:
    opened = load_vision(finished.folder / "model")
    assert opened.tokenizer is not None
    objective = Caption(build_recipe(RECIPE))
    objective.attach(opened.tokenizer, 24)
    examples = ExampleStore(finished.folder / "examples" / "validation").take(range(12))
    batch = objective.to_device(RawBatch(list(examples), 0), torch.device("cpu"))
    images = [finished.folder / f"pictures/images/unseen-{index:06d}.png" for index in range(12)]
    described = [one.text for one in zhixing.describe(images, finished.folder / "model")]
    assert objective.predict(opened.model, batch) == described


def test_it_resumes_bit_for_bit(finished: RecordOutcome) -> None:
    proof = resume_run(finished.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0


def test_a_run_goes_on_from_a_model(finished: RecordOutcome, tmp_path: Path) -> None:
    recipe = {
        "data": {"pictures": {"count": 32, "unseen": 8, "side": 40}},
        "model": {"start": str(finished.folder / "model")},
        "optimizer": {"learning_rate": 1e-3},
        "train": RECIPE["train"],
    }
    outcome = zhixing.train(recipe, tmp_path / "run")
    assert isinstance(outcome, RecordOutcome)
    opened = load_vision(outcome.folder / "model")
    assert opened.model.config.encoder.image_size == (32, 32)
    assert outcome.score.loss < finished.score.loss
    proof = resume_run(outcome.folder, prove_first=True).proof  # with that model's dropout, not without
    assert proof is not None
    assert proof.losses > 0


def records(folder: Path, bad: Any, count: int = 12) -> Path:
    for index in range(count):
        values = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        PIL.fromarray(values).save(folder / f"{index}.png")
    rows = [{"image": f"{index}.png", "caption": f"thing {index}"} for index in range(count)]
    rows[7] = {"image": "7.png", "caption": "thing 7"} | bad
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image at all", "is no picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not an image that can be read"),
        (b"\xff\xd8\xff\xe0" + bytes(200), "not an image that can be read"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_image_is_found_before_training(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = records(tmp_path, {"image": "odd.png"})
    if content is not None:
        (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        train(tmp_path / "run", data={"pictures": None, "paths": [str(file)], "validation_fraction": 0.2})
    assert caught.value.where == f"{file}:8"
    assert "odd.png" in caught.value.cause
    assert caught.value.remedy is not None
    assert not (tmp_path / "run").exists()


def test_wrong_records_can_be_left_out(tmp_path: Path) -> None:
    file = records(tmp_path, {"image": "odd.png"})
    outcome = train(
        tmp_path / "run",
        data={"pictures": None, "paths": [str(file)], "validation_fraction": 0.3, "skip_faulty": True},
        train={"steps": 2},
    )
    assert json.loads((outcome.folder / "facts.json").read_text())["data"]["faulty"] == 1


def test_captions_that_are_too_long_are_counted(tmp_path: Path) -> None:
    file = records(tmp_path, {"caption": "a very long caption " * 20})
    data = {"pictures": None, "paths": [str(file)], "validation_fraction": 0.3}
    outcome = train(tmp_path / "run", data=data, train={"steps": 2})
    assert json.loads((outcome.folder / "facts.json").read_text())["data"]["cut"] == 1
    with pytest.raises(BadInput, match="longer than 24 tokens"):
        train(tmp_path / "other", data={**data, "too_long": "refuse"})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"rope_theta": 100.0}}, "model.rope_theta means nothing for a network that describes images"),
        ({"model": {"family": "llama"}}, "saved as vision-encoder-decoder, not llama"),
        ({"model": {"patch_size": 64}}, "a patch of 64 pixels does not fit"),
        ({"model": {"heads": 5}}, "not a multiple of model.heads"),
        ({"data": {"paths": ["x.jsonl"]}}, "both say what to train on"),
        ({"data": {"pictures": {"side": 8}}}, "data.pictures.side"),
        ({"task": {"crf": True}}, "crf"),
    ],
)
def test_recipes_that_contradict_themselves(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        train(tmp_path / "run", **sections)
    assert not (tmp_path / "run").exists()


def test_running_text_has_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pictures"):
        train(tmp_path / "run", train={"objective": "causal"}, model={"image_size": None, "patch_size": None})


@pytest.mark.slow
def test_unseen_combinations_are_described(tmp_path: Path) -> None:
    """The recipe itself, as it stands: some minutes on two cores."""
    from zhixing.core.recipe import load_recipe

    recipe = load_recipe(Path(__file__).parents[3] / "recipes" / "shapes-captions.yaml")
    outcome = zhixing.train(recipe, tmp_path / "run")
    assert isinstance(outcome, RecordOutcome)
    assert outcome.score.measures["exact_match"] >= 0.95

"""The task `describe`: a text about an image, as a call, on the command line and over a file."""

import json
import zipfile

import numpy as np
import pytest
import torch

import zhixing
from tests.tasks.support import bert_tokenizer, run
from zhixing.checkpoints.vision_folder import load_vision, save_vision
from zhixing.core.errors import BadInput, MissingResource
from zhixing.data.images import ImageProcessor
from zhixing.evaluation.task_report import write_evaluation
from zhixing.families.gpt2 import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.vision_encoder_decoder import VisionEncoderDecoder, VisionEncoderDecoderConfig
from zhixing.models.vit import ViTConfig
from zhixing.tasks.describe import Describe, open_describer
from zhixing.workflows.evaluate import evaluate_task

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def describing(tmp_path_factory):
    """A model with strong random weights, so that images get unlike texts, and some images."""
    folder = tmp_path_factory.mktemp("describing")
    tokenizer = bert_tokenizer(folder / "vocabulary")
    config = VisionEncoderDecoderConfig(
        ViTConfig((16, 16), (8, 8), 32, 2, 4, 8, 48),
        TransformerConfig(
            vocab_size=tokenizer.vocab_size, width=24, layers=2, heads=3, kv_heads=3, head_dim=8, mlp_width=96,
            context=12, cross_width=24, tied=True, activation="gelu_tanh", **FIXED,
        ),
        start=2,
    )  # fmt: skip
    model = VisionEncoderDecoder(config)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.8, generator=random)
    save_vision(folder / "model", model, tokenizer, ImageProcessor((16, 16)))
    for index in range(4):
        values = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        PIL.fromarray(values).save(folder / f"{index}.png")
    (folder / "bad.png").write_text("no image")
    return folder


def test_one_image_or_several(describing):
    images = [describing / f"{index}.png" for index in range(4)]
    found = zhixing.describe(images, describing / "model")
    assert len({one.text for one in found}) > 1
    assert all(one.finish in ("stop", "length") for one in found)
    alone = zhixing.describe(str(images[2]), describing / "model")
    assert alone.text == found[2].text
    assert alone.logprob == pytest.approx(found[2].logprob, abs=1e-4)
    assert zhixing.describe(images[2].read_bytes(), describing / "model").text == alone.text
    assert zhixing.describe(PIL.open(images[2]), describing / "model").text == alone.text


def test_texts_equal_those_of_transformers(describing):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.VisionEncoderDecoderModel.from_pretrained(describing / "model").eval()
    processor = transformers.ViTImageProcessorPil.from_pretrained(describing / "model")
    images = [PIL.open(describing / f"{index}.png").convert("RGB") for index in range(4)]
    tokenizer = load_vision(describing / "model").tokenizer
    for beams in (1, 3):
        with torch.no_grad():
            rows = theirs.generate(torch.tensor(np.stack(processor(images)["pixel_values"])), num_beams=beams)
        expected = [tokenizer.decode(row[1:].tolist(), skip_special=True).strip() for row in rows]
        assert [one.text for one in zhixing.describe(images, describing / "model", beams)] == expected


def test_a_text_is_no_longer_than_asked(describing):
    one = open_describer(describing / "model", max_tokens=2)([describing / "0.png"])[0]
    assert len(one.text.split()) <= 2
    assert open_describer(describing / "model", max_tokens=99).options.max_tokens == 11


def test_the_command(describing, monkeypatch, capsys):
    ended = run(monkeypatch, capsys, "describe", describing / "model", describing / "0.png", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["prediction"] == zhixing.describe(describing / "0.png", describing / "model").text
    ended = run(monkeypatch, capsys, "describe", describing / "model", describing / "bad.png")
    assert ended.code == 2
    assert "bad.png: not an image that can be read" in ended.err
    ended = run(monkeypatch, capsys, "describe", describing / "model", describing / "none.png")
    assert ended.code == 2
    assert "none.png: there is no such image" in ended.err


def test_a_file_of_images_whose_paths_lead_from_it(describing, monkeypatch, capsys, tmp_path):
    rows = [{"image": f"{name}.png", "id": name} for name in ("0", "1", "bad", "3")]
    (describing / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    words = ("describe", describing / "model", "--file", describing / "rows.jsonl", "--out", tmp_path / "out.jsonl")
    ended = run(monkeypatch, capsys, *words)
    assert ended.code == 2
    assert "rows.jsonl:3" in ended.err
    assert "not an image" in ended.err
    ended = run(monkeypatch, capsys, *words, "--skip-bad")
    assert ended.code == 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = [one.text for one in zhixing.describe([describing / f"{n}.png" for n in "013"], describing / "model")]
    assert [row["prediction"] for row in written if "error" not in row] == expected
    assert written[0]["id"] == "0"


def test_models_that_do_not_describe(models, describing):
    with pytest.raises(BadInput, match=r"this model \(bert\) does not describe images"):
        Describe(models / "classifier")
    with pytest.raises(MissingResource):
        Describe(describing / "nowhere")


def test_it_is_measured(describing, tmp_path):
    """Pictures as files and as bytes, a bad one among them, several captions of one."""
    described = [zhixing.describe(describing / f"{index}.png", describing / "model").text for index in range(3)]
    rows = [
        {"image": "0.png", "text": described[0]}, {"image": "0.png", "text": "another caption"},
        {"image": "1.png", "text": "something else"}, {"image": "cut.png", "text": "no image"},
    ]  # fmt: skip
    (describing / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (describing / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = evaluate_task("describe", [str(describing / "model")], [str(describing / "captions.jsonl")])
    measured = found.systems[0].measured
    assert measured.predictions == (described[0], described[1], "")
    assert measured.failed == 1
    assert any("captions.jsonl:4" in note for note in found.notes)
    assert {one.name: one.value for one in measured.scores}["exact_match"] == pytest.approx(1 / 3)
    with zipfile.ZipFile(tmp_path / "captions.zip", "w") as file:
        file.write(describing / "2.png", "2.png")
        file.writestr("rows.jsonl", json.dumps({"image": "2.png", "text": described[2]}))
    inside = evaluate_task("describe", [str(describing / "model")], [str(tmp_path / "captions.zip")])
    assert inside.systems[0].measured.predictions == (described[2],)
    assert write_evaluation(tmp_path / "out", inside).is_file()

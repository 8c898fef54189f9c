"""A recurrent model from recipe to report, its resumption, and an embedding table that starts from word vectors."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

import zhixing
from zhixing.checkpoints.vectors import save_vectors
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.recipe import build_recipe
from zhixing.models.vectors import WordVectors
from zhixing.training.resolve import resolve
from zhixing.workflows.pretrain import Outcome, resume_run


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = random.Random(0)
    words = ["the", "cat", "dog", "sees", "runs", "and", "知行", "合一", "a", "red"]
    lines = [" ".join(generator.choices(words, range(10, 0, -1), k=generator.randint(3, 12))) for _ in range(300)]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(lines), encoding="utf-8")
    return file


def train(text: Path, run: Path, model: dict[str, object], **train: object) -> Outcome:
    recipe = {
        "data": {"paths": [str(text)], "split": "tail", "validation_fraction": 0.1, "within_documents": True},
        "tokenizer": {"kind": "character"},
        "model": {"depth": 1, "width": 16, "hidden": 24, "context": 16, **model},
        "train": {"steps": 30, "batch_size": 4, "matmul": "torch", "validate_every": 10, "save_every": 10, **train},
    }
    return zhixing.train(recipe, run)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_whole_run(cell: str, text: Path, tmp_path: Path) -> None:
    outcome = train(text, tmp_path / "run", {"family": cell})
    unigram = next(yardstick for yardstick in outcome.yardsticks if yardstick.name == "unigram")
    assert outcome.score.bits_per_byte < unigram.bits_per_byte
    assert outcome.score.window == 1024
    assert all(sample["text"] for sample in outcome.samples)
    facts = json.loads((tmp_path / "run" / "facts.json").read_text())
    assert facts["model"]["hidden"] == 24
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "opens in Zhixing" in card
    assert len(zhixing.load(tmp_path / "run").generate("the", max_tokens=8, seed=1)) > 0
    assert resume_run(tmp_path / "run", prove_first=True).proof is not None


def test_a_run_that_gets_worse_says_where_it_stopped_and_what_was_kept(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "data": {"paths": [str(text)], "split": "tail", "validation_fraction": 0.1},
        "tokenizer": {"kind": "character"},
        "model": {"family": "lstm", "depth": 1, "width": 16, "hidden": 24, "context": 16},
        "optimizer": {"learning_rate": 2.0},
        "schedule": {"shape": "constant", "warmup_steps": 0},
        "train": {"steps": 200, "batch_size": 4, "matmul": "torch", "validate_every": 1, "patience": 2, "spike": 1e9},
    }
    zhixing.train(recipe, tmp_path / "run")
    done = json.loads((tmp_path / "run" / "state.json").read_text())["step"]
    assert done < 200
    why = f"2 measurements brought no better loss than step {done - 2}'s"
    shown = capsys.readouterr().err
    assert f"Stopped early, at step {done} of 200: {why}" in shown
    assert f"Published: step {done - 2}, the best by loss" in shown
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert f"in {done} steps of 200 (stopped early: {why}); published: step {done - 2}, the best by loss |" in card
    resume_run(tmp_path / "run")  # a finished run, published again, says the same
    assert f"Stopped early, at step {done} of 200: {why}" in capsys.readouterr().err
    assert (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8") == card


def test_dropout_and_tied_tables_resume_bit_for_bit(text: Path, tmp_path: Path) -> None:
    model = {"family": "lstm", "depth": 2, "tied": True, "dropout": 0.2}
    train(text, tmp_path / "run", model)
    proof = resume_run(tmp_path / "run", prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model": {"family": "lstm", "heads": 2}}, "model.heads is of Transformers"),
        ({"model": {"family": "llama", "hidden": 2}}, "model.hidden is of recurrent models"),
        ({"model": {"family": "lstm", "order": 2}}, "model.order is of n-gram models"),
        ({"model": {"family": "lstn"}}, "unknown model family 'lstn'"),
        ({"model": {"family": "gru"}, "optimizer": {"name": "muon"}}, "Muon is for"),
        ({"model": {"family": "gru"}, "train": {"compile": True}}, "compiled already"),
        ({"model": {"family": "gru"}, "train": {"checkpoint_activations": True}}, "no blocks"),
    ],
)
def test_fields_without_meaning_are_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve(build_recipe({"data": {"paths": ["x"]}, **section}))


def test_defaults_of_recurrent_networks() -> None:
    done = resolve(build_recipe({"data": {"paths": ["x"]}, "model": {"family": "lstm"}}))
    assert (done.model.depth, done.model.width, done.model.hidden) == (2, 256, 256)
    assert done.optimizer.name == "adamw"


@pytest.mark.parametrize("family", ["lstm", "llama"])
def test_embeddings_start_from_word_vectors(family: str, text: Path, tmp_path: Path) -> None:
    letters = sorted(set("thecatdogsrun知行"))
    values = np.random.default_rng(0).normal(size=(len(letters), 32)).astype(np.float32)
    save_vectors(WordVectors(letters, values), tmp_path / "vectors")
    model: dict[str, object] = {
        "family": family,
        "width": None,
        "embeddings": str(tmp_path / "vectors"),
        "hidden": None,
    }
    outcome = train(text, tmp_path / "run", model, steps=2, validate_every=2, save_every=2)
    facts = json.loads((outcome.folder / "facts.json").read_text())
    assert facts["model"]["width"] == 32
    assert facts["embeddings"]["matched"] >= len(letters)
    assert 0.5 < facts["embeddings"]["share_of_text"] < 1
    with pytest.raises(BadInput, match="have 32 numbers"):
        train(text, tmp_path / "other", {**model, "width": 16})
    with pytest.raises(MissingResource):
        train(text, tmp_path / "other", {**model, "embeddings": str(tmp_path / "none")})
    assert not (tmp_path / "other").exists()

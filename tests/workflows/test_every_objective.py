"""Every objective that trains an encoder: a run resumes bit for bit, its folder opens, and wrong records are named."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import zhixing
from zhixing.checkpoints.encoder_folder import load_encoder
from zhixing.core.errors import BadInput
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent_encoder import RecurrentEncoder
from zhixing.workflows.pretrain import resume_run

WORDS = "the cat dog sees runs and red blue 知行 合一 王阳明 房间 很 好".split()


def sentence(generator: random.Random, most: int = 10) -> str:
    return " ".join(generator.choices(WORDS, range(14, 0, -1), k=generator.randint(3, most)))


def record(name: str, generator: random.Random) -> dict[str, Any]:
    text = sentence(generator, 30)
    match name:
        case "classification":
            return {"text": text, "label": "red" if "red" in text else "other"}
        case "regression":
            return {"text": text, "label": text.count("red") + 0.5}
        case "tagging":
            tokens = text.split()
            return {"tokens": tokens, "tags": ["B-C" if word in ("red", "blue") else "O" for word in tokens]}
        case "span":
            name = generator.choice(["alpha", "beta"])
            context = f"{text} name {name} {sentence(generator, 30)}"
            answers = {"text": [name], "answer_start": [context.index(f"name {name}") + 5]}
            return {"context": context, "question": "what name", "answers": answers}
        case "contrastive":
            return {"source": text, "target": text.upper()}
    return {"text": text}


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return file


def rows(name: str, count: int = 60) -> list[dict[str, Any]]:
    generator = random.Random(1)
    return [record(name, generator) for _ in range(count)]


def train(name: str, file: Path, run: Path, model: dict[str, Any] | None = None, **task: Any) -> Any:
    recipe = {
        "data": {"paths": [str(file)], "validation_fraction": 0.2},
        "tokenizer": {"vocab_size": 290},
        "model": model or {"depth": 1, "width": 16, "heads": 2, "context": 40, "dropout": 0.1},
        "task": task,
        "train": {"objective": name, "steps": 6, "batch_tokens": 200, "validate_every": 3, "matmul": "torch"},
    }
    return zhixing.train(recipe, run)


LSTM = {"family": "lstm-encoder", "width": 16, "hidden": 8, "context": 40, "dropout": 0.2, "word_dropout": 0.1}
CASES: list[tuple[str, dict[str, Any] | None, dict[str, Any]]] = [
    ("classification", LSTM, {"focal": 2.0}),
    ("regression", None, {}),
    ("tagging", None, {"label_smoothing": 0.1}),
    ("tagging", LSTM, {"crf": True, "scheme": "BIOES"}),
    ("span", None, {"stride": 10}),
    ("masked", None, {}),
    ("masked", {**LSTM, "family": "gru-encoder"}, {"whole_word": False}),
    ("replaced", None, {}),
    ("contrastive", None, {"matryoshka": [8]}),
]


@pytest.mark.parametrize(("name", "model", "task"), CASES)
def test_a_run_resumes_bit_for_bit_and_its_folder_opens(
    name: str, model: dict[str, Any] | None, task: dict[str, Any], tmp_path: Path
) -> None:
    outcome = train(name, write(tmp_path / "data.jsonl", rows(name)), tmp_path / "run", model, **task)
    proof = resume_run(outcome.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses == 3
    opened = load_encoder(outcome.folder / "model")
    assert opened.tokenizer is not None
    assert opened.notes == []
    assert set(outcome.score.measures)
    assert (outcome.folder / "report.html").stat().st_size > 10_000


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("regression", {"text": "x", "label": "many"}, 'the label "many" is no number'),
    ("regression", {"text": "x", "label": "nan"}, "is no number"),
    ("tagging", {"tokens": ["the", "red"], "tags": ["O"]}, r"2 tokens?.* 1 tags?|tags"),
    ("tagging", {"tokens": ["the"], "tags": ["Q-C"]}, "'Q-C' is not a tag"),
    ("span", {"context": "a cat", "question": "q", "answers": {"text": ["dog"], "answer_start": [2]}}, "dog"),
    ("span", {"context": "a cat", "question": "", "answers": {"text": ["cat"], "answer_start": [2]}}, "question"),
    ("contrastive", {"source": "x"}, "target"),
    ("contrastive", {"source": "x", "target": ""}, "target"),
    ("contrastive", {"source": "x" * 1_000_000, "target": "y"}, "1,000,000 characters"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), WRONG)
def test_wrong_records_are_named_before_training(
    name: str, wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "data.jsonl", [*rows(name, 30), wrong, *rows(name, 5)])
    with pytest.raises(BadInput, match=message) as caught:
        train(name, file, tmp_path / "run")
    assert caught.value.where is not None
    assert caught.value.where.endswith("data.jsonl:31")
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "same", "message"),
    [
        ("regression", {"text": "x", "label": 1}, "the same number"),
        ("tagging", {"tokens": ["x"], "tags": ["O"]}, "the same tag"),
        ("span", {"context": "a cat", "question": "q", "answers": {"text": [], "answer_start": []}}, "has an answer"),
    ],
)
def test_records_that_teach_nothing_are_refused(name: str, same: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        train(name, write(tmp_path / "data.jsonl", [same] * 20), tmp_path / "run")


def test_a_pretrained_encoder_is_tuned_with_its_own_tokenizer(tmp_path: Path) -> None:
    pretrained = train("masked", write(tmp_path / "text.jsonl", rows("masked")), tmp_path / "pretrained")
    file = write(tmp_path / "data.jsonl", rows("classification"))
    recipe = {
        "data": {"paths": [str(file)], "validation_fraction": 0.2},
        "model": {"start": str(pretrained.folder), "freeze": 1},
        "train": {"objective": "classification", "steps": 2, "matmul": "torch"},
    }
    outcome = zhixing.train(recipe, tmp_path / "tuned")
    before, after = (load_encoder(run.folder / "model") for run in (pretrained, outcome))
    assert before.tokenizer is not None
    assert after.tokenizer is not None
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    for name, weight in after.model.encoder.state_dict().items():
        assert weight.equal(before.model.encoder.state_dict()[name]) == (".blocks." in f".{name}")


def test_the_generator_of_replaced_words_is_published_and_gone_on_from(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    file = write(tmp_path / "text.jsonl", rows("replaced"))
    first = train("replaced", file, tmp_path / "first").folder
    folder = first / "model" / "generator"
    ours, discriminator = load_encoder(folder).model, load_encoder(first / "model").model
    theirs = transformers.ElectraForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        found = ours(Ragged.of([[5, 9, 11, 7]]))
        torch.testing.assert_close(found, theirs(torch.tensor([[5, 9, 11, 7]])).logits[0], atol=1e-4, rtol=1e-4)
    assert not isinstance(ours.encoder, RecurrentEncoder)
    assert not isinstance(discriminator.encoder, RecurrentEncoder)
    assert torch.equal(ours.encoder.embedding.weight, discriminator.encoder.embedding.weight)
    recipe = {
        "data": {"paths": [str(file)], "validation_fraction": 0.2},
        "model": {"start": str(first)},
        "optimizer": {"learning_rate": 1e-7},
        "train": {"objective": "replaced", "steps": 3, "batch_tokens": 200, "save_every": 1, "matmul": "torch"},
    }
    second = zhixing.train(recipe, tmp_path / "second").folder
    again = load_encoder(second / "model" / "generator").model.state_dict()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(again[name], weight, atol=1e-5, rtol=0)
    proof = resume_run(second, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0
    with pytest.raises(BadInput, match="another size"):
        zhixing.train({**recipe, "task": {"generator_share": 1.0}}, tmp_path / "third")

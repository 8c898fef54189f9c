"""Tuning from recipe to model folder, by every method: learning, resuming bit for bit, opening what was published."""

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import zhixing
from zhixing.checkpoints.adapters import is_adapter, load_adapter
from zhixing.checkpoints.folder import save_folder
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import read
from zhixing.models.adapters import prompted
from zhixing.models.config import TransformerConfig
from zhixing.models.loss import IGNORED
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.objectives.chat import ChatTurns
from zhixing.training.objectives.packed import example_of, pack
from zhixing.training.state import list_checkpoints, load_checkpoint
from zhixing.workflows.pretrain import resume_run
from zhixing.workflows.records_run import RecordOutcome

WORDS = "red blue green 红 蓝 绿 up down".split()


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions whose answer is the last word of the question, so that there is something to learn."""
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        words = generator.choices(WORDS, k=generator.randint(1, 6))
        user = {"role": "user", "content": " ".join(words)}
        found.append({"messages": [user, {"role": "assistant", "content": words[-1]}]})
    return found


def write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in records) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model in the layout of Llama, and its records beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    texts = [f"<|user|>\n{row['messages'][0]['content']}\n<|assistant|>" for row in rows(200, 9)]
    tokenizer = train_tokenizer(iter(texts), "byte-bpe", 300).tokenizer
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=64, context=96,
        tied=True,
    )  # fmt: skip
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(folder / "base", model, tokenizer, "llama")
    write(folder / "train.jsonl", rows(60, 0))
    write(folder / "dev.jsonl", rows(16, 1))
    return folder


def train(base: Path, run: Path, **sections: Any) -> RecordOutcome:
    recipe: dict[str, Any] = {
        "data": {"paths": [str(base / "train.jsonl")], "validation_paths": [str(base / "dev.jsonl")]},
        "model": {"start": str(base / "base")},
        "optimizer": {"learning_rate": 0.01},
        "train": {"objective": "chat", "steps": 12, "batch_size": 8, "matmul": "torch", "validate_every": 4},
    }
    for name, values in sections.items():
        recipe[name] = {**recipe.get(name, {}), **values}
    outcome = zhixing.train(recipe, run)
    assert isinstance(outcome, RecordOutcome)
    return outcome


METHODS: dict[str, dict[str, Any]] = {
    "full": {"tune": {"method": "full"}},
    "lora": {"tune": {"method": "lora", "rank": 4, "dropout": 0.1}},
    "rslora": {"tune": {"method": "lora", "rank": 4, "rslora": True, "targets": ["query", "mlp.down"]}},
    "dora": {"tune": {"method": "lora", "rank": 4, "dora": True}, "train": {"average_decay": 0.9}},
    "int4": {"tune": {"method": "lora", "rank": 4, "bits": "int4"}, "train": {"checkpoint_activations": True}},
    "last": {"tune": {"method": "last", "layers": 1}, "train": {"accumulate": 2, "batch_size": 4}},
    "prompt": {
        "tune": {"method": "prompt", "prompt_tokens": 4, "prompt_text": "red blue"},
        "optimizer": {"learning_rate": 0.3},
    },
    "merged": {"tune": {"method": "lora", "rank": 4, "publish": "merged"}},
}


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "validation"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_resumes_and_publishes(base: Path, tmp_path: Path, method: str) -> None:
    run = tmp_path / "run"
    outcome = train(base, run, **METHODS[method])
    measured = losses(run)
    assert measured[-1] < measured[0]
    proof = resume_run(run, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0
    saved = sum(file.stat().st_size for file in (run / "checkpoints").rglob("weights.safetensors"))
    whole = (base / "base" / "model.safetensors").stat().st_size
    assert (saved < whole) == (method != "full")
    path = resolve(str(run))
    assert is_adapter(path) == (method not in ("full", "last", "merged"))
    # What is published answers as well as what was measured: the same loss on the held-out records.
    if method == "prompt":
        with pytest.raises(BadInput, match="learned prompt"):
            open_model(path)
        opened = open_model(base / "base")
        assert opened.family is not None
        load_adapter(opened.transformer, opened.family, path)
    else:
        opened = open_model(path)
    objective = ChatTurns(Recipe())
    assert opened.tokenizer is not None
    objective.attach(opened.tokenizer, 96)
    table = prompted(opened.model)
    objective.prefix = table.prompt_ids if table is not None else []
    examples = [objective.encode(placed.record).examples[0] for placed in read(str(base / "dev.jsonl"))]
    batch = objective.to_device(RawBatch(examples, 0), torch.device("cpu"))
    with torch.no_grad():
        loss = float(objective.loss_sum(opened.model, batch)) / batch.target_count
    assert loss == pytest.approx(outcome.score.loss, rel=2e-3)


def test_the_mean_of_checkpoints_is_published(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(base, run, tune={"method": "last", "layers": 1}, train={"average_last": 3, "save_every": 3})
    kept = [load_checkpoint(run / "checkpoints", step) for step in list_checkpoints(run / "checkpoints")[-3:]]
    assert len(kept) == 3
    name = "blocks.1.mlp.down.weight"
    mean = sum(state.weights[name] for state in kept) / 3
    published = dict(open_model(run / "model").transformer.named_parameters())[name]
    torch.testing.assert_close(published.detach(), mean, atol=1e-6, rtol=1e-5)


def test_the_card_says_what_was_done(base: Path, tmp_path: Path) -> None:
    data = {"licence": "CC0"}
    outcome = train(base, tmp_path / "run", tune={"method": "lora", "rank": 2}, train={"steps": 1}, data=data)
    card = (outcome.folder / "model" / "README.md").read_text(encoding="utf-8")
    digest = hashlib.sha256((base / "train.jsonl").read_bytes()).hexdigest()
    for said in ("library_name: peft", "LoRA of rank 2", digest, "Licence of the records: CC0", "rank: 2"):
        assert said in card
    assert str(base) not in card


def test_the_card_says_what_became_of_it(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that soon gets worse: stopped early, its best checkpoint published, and held against its base."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "model").symlink_to(base / "base")  # a run folder
    run = tmp_path / "run"
    train(
        base, run, model={"start": str(tmp_path / "start")}, optimizer={"learning_rate": 3.0},
        tune={"method": "lora", "rank": 2, "dora": True, "rslora": True}, schedule={"shape": "constant"},
        train={"patience": 1, "validate_every": 1, "steps": 30},
    )  # fmt: skip
    steps = json.loads((run / "state.json").read_text())["step"]
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    why = f"1 measurement brought no better loss than step {steps - 1}'s"
    published = f"published: step {steps - 1}, the best by loss"
    assert f"| training | {steps} steps of 30 (stopped early: {why}); {published}," in card
    assert "DoRA and rsLoRA of rank 2" in card
    found = json.loads((run / "facts.json").read_text())["improvement"]["verdict"]
    said = "better" if found.startswith("the second") else "worse" if found.startswith("the first") else "no proven"
    assert re.search(rf"\({said}[a-z ]* by paired tests over 16 records: p = ", card)
    shown = capsys.readouterr().err
    assert f"Stopped early, at step {steps} of 30: {why}" in shown
    assert f"Published: step {steps - 1}, the best by loss" in shown
    # The model in the run's folder is what `peft` would open.
    named = json.loads((run / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert (Path(named) / "config.json").is_file()


def test_the_run_knows_whether_it_is_better(base: Path, tmp_path: Path) -> None:
    outcome = train(base, tmp_path / "run", train={"steps": 24})
    facts = json.loads((outcome.folder / "facts.json").read_text())
    found = facts["improvement"]
    assert found["n"] == 16
    assert found["loss_before"] == pytest.approx(losses(outcome.folder)[0])
    assert found["loss_after"] == pytest.approx(outcome.score.loss, rel=1e-4)
    assert found["verdict"].startswith("the second is better")
    nats, targets = (sum(column) for column in zip(*facts["before"]["records"], strict=True))
    assert nats / targets == pytest.approx(found["loss_before"])


def examples_of(count: int) -> list[Any]:
    generator = torch.Generator().manual_seed(count)
    found = []
    for index in range(count):
        length = 3 + int(torch.randint(20, (1,), generator=generator))
        tokens = torch.randint(0, 50, (length,), generator=generator).tolist()
        example = example_of(tokens, [place > length // 3 + index % 3 for place in range(length)])
        if example is not None:
            found.append(example)
    return found


def small_model() -> Transformer:
    config = TransformerConfig(
        vocab_size=50, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24, context=64, tied=True
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    return model.train()


@pytest.mark.parametrize("size", [1, 8, 32])
def test_accumulation_by_targets_is_one_large_batch(size: int) -> None:
    model, examples = small_model(), examples_of(32)
    cpu = torch.device("cpu")
    whole = pack(examples, cpu)
    expected = torch.autograd.grad(
        model.loss_sum(whole.tokens, whole.targets, whole.segments) / whole.target_count, list(model.parameters())
    )
    model.zero_grad()
    total = sum(pack([example], cpu).target_count for example in examples)
    for at in range(0, 32, size):
        part = pack(examples[at : at + size], cpu)
        (model.loss_sum(part.tokens, part.targets, part.segments) / total).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_what_follows_the_last_target_is_not_read() -> None:
    example = example_of([5, 6, 7, 8, 9], [True, False, True, False, False])
    assert example is not None
    assert example["tokens"].tolist() == [5, 6, 7]
    assert example["wanted"].tolist() == [0, 0, 1]
    batch = pack([example, example], torch.device("cpu"), prefix=[50, 51])
    assert batch.tokens.tolist() == [[50, 51, 5, 6, 50, 51, 5, 6]]
    assert batch.targets.tolist() == [[IGNORED, IGNORED, IGNORED, 7] * 2]
    assert batch.segments.tolist() == [[0] * 4 + [1] * 4]
    assert example_of([5, 6], [True, False]) is None


def test_new_tokens_start_from_what_spelled_them(base: Path, tmp_path: Path) -> None:
    outcome = train(base, tmp_path / "run", tune={"method": "lora", "rank": 2}, tokenizer={"add_tokens": ["<|红|>"]},
                    optimizer={"learning_rate": 1e-9}, train={"steps": 1})  # fmt: skip
    opened, before = open_model(resolve(str(outcome.folder))), open_model(base / "base")
    assert opened.tokenizer is not None
    assert before.tokenizer is not None
    new = opened.tokenizer.encode("<|红|>", parse_special=True)
    assert new == [before.tokenizer.vocab_size]
    pieces = before.tokenizer.encode("<|红|>")
    rows = before.transformer.embedding.weight[pieces]
    torch.testing.assert_close(opened.transformer.embedding.weight[new[0]], rows.mean(0), atol=1e-4, rtol=1e-3)


def test_a_longer_context_by_stretched_positions(base: Path, tmp_path: Path) -> None:
    model = {"start": str(base / "base"), "context": 192}
    outcome = train(base, tmp_path / "run", tune={"rope_scaling": "yarn"}, model=model, train={"steps": 2})
    opened = open_model(resolve(str(outcome.folder)))
    assert opened.transformer.config.context == 192
    assert opened.transformer.config.rope_scaling is not None
    with pytest.raises(BadInput, match=r"rope_scaling=yarn"):
        train(base, tmp_path / "other", model=model)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"tune": {"method": "full", "rank": 8}}, "tune.rank is for the method 'lora'"),
        ({"tune": {"method": "full", "bits": "int8"}}, "tune.bits packs"),
        ({"tune": {"method": "lora", "rope_scaling": "linear"}}, "publish: merged"),
        ({"tune": {"method": "lora", "targets": ["attention.qery"]}}, "did you mean"),
        ({"tune": {"method": "last", "layers": 9}}, "the model has 2"),
        ({"model": {"depth": 3}}, "that of model.start"),
        ({"tokenizer": {"add_tokens": ["<|a|>", "<|a|>"]}}, "given twice"),
        ({"model": {"start": None}, "tune": {"method": "lora"}}, "none is named"),
    ],
)
def test_contradictions_are_refused(base: Path, tmp_path: Path, sections: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        train(base, tmp_path / "run", **sections)
    assert said in f"{caught.value.cause} {caught.value.remedy}"

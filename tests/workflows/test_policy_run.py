"""Reinforcement learning end to end on tiny models: it learns, resumes exactly, and writes with its present weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe, build_recipe
from zhixing.data.length_batches import RawBatch
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.networks import network_config
from zhixing.training.objectives.base import Setting
from zhixing.training.objectives.policy import Grpo, PolicyBatch
from zhixing.training.rollouts import Rollouts
from zhixing.workflows.pretrain import resume_run, start_run
from zhixing.workflows.writer import writer_for


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["abcdefgh? 0123456789"], "character", None).tokenizer


def _model(tokenizer: Tokenizer, seed: int = 0) -> Transformer:
    values = {"family": "qwen3", "depth": 2, "width": 32, "head_dim": 16, "context": 16, "zero_init_outputs": False}
    config = network_config(build_recipe({"model": values}).model, tokenizer.vocab_size)
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(seed))
    return model


@pytest.fixture
def workspace(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    save_folder(tmp_path / "start", _model(tokenizer), tokenizer, "qwen3")
    rows = [{"source": f"{a}{b}?", "target": "7"} for a in "abcdefgh" for b in "abcdefgh"]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def _recipe(folder: Path, **values: Any) -> Recipe:
    task = {
        "samples": 8, "max_tokens": 2, "rewards": [{"kind": "pattern", "pattern": "^7"}], **values.pop("task", {}),
    }  # fmt: skip
    train = {
        "objective": "grpo", "steps": 12, "batch_size": 4, "validate_every": 4, "matmul": "torch", "threads": 1,
        **values.pop("train", {}),
    }  # fmt: skip
    return build_recipe(
        {
            "data": {"paths": [str(folder / "prompts.jsonl")], "validation_fraction": 0.2},
            "model": {"start": str(folder / "start")},
            "optimizer": {"learning_rate": 3e-3},
            "task": task,
            "train": train,
            **values,
        }
    )


def _rows(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


@pytest.mark.parametrize("objective", ["grpo", "reinforce"])
def test_the_reward_rises(workspace: Path, objective: str) -> None:
    outcome = start_run(_recipe(workspace, train={"objective": objective, "steps": 30}), workspace / "run")
    rewards = [row["reward"] for row in _rows(outcome.folder, "train")]
    assert sum(rewards[:3]) / 3 < 0.2
    assert sum(rewards[-5:]) / 5 > 0.7
    assert outcome.score.measures["reward"] > 0.8
    assert load_folder(outcome.folder / "model").model.config.vocab_size


def test_a_resumed_run_draws_the_same_answers(workspace: Path) -> None:
    task = {"reuse": 3, "beta": 0.05, "clip_high": 0.3}
    whole = start_run(_recipe(workspace, task=task, train={"save_every": 1, "keep": 20}), workspace / "run")
    figures = [{**row, "seconds": 0, "tokens_per_second": 0} for row in _rows(whole.folder, "train")]
    for step in range(6, 13):  # go on from step 5, in the midst of a reuse
        for path in (whole.folder / "checkpoints").glob(f"step-{step:09d}"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    again = resume_run(whole.folder, prove_first=True)
    assert again.proof is not None
    repeated = [{**row, "seconds": 0, "tokens_per_second": 0} for row in _rows(again.folder, "train")]
    assert repeated == figures
    assert {"entropy", "kl", "clipped", "answer_tokens", "finished", "undecided"} <= repeated[0].keys()
    assert all(row["kl"] >= 0 for row in repeated)


@pytest.mark.parametrize(
    ("reward", "row", "said"),
    [
        ({"kind": "number"}, {"target": "none"}, "record field 'answer': the right answer 'none' holds no number"),
        ({"kind": "tests", "field": "tests"}, {"tests": ["assert f( == 1"]}, "test 1 of 1, 'assert f( == 1', is no Py"),
        ({"kind": "tests", "field": "tests"}, {"tests": [1, 2]}, "tests are Python texts, not"),
        ({"kind": "tests", "field": "tests"}, {}, "no field 'tests', which the reward 'tests' compares with"),
    ],
)
def test_what_a_reward_cannot_use_is_said_before_training(
    workspace: Path, reward: dict[str, Any], row: dict[str, Any], said: str
) -> None:
    rows = [{"source": f"{a}{b}?", "target": "7", "tests": ["assert 1"]} for a in "abcdef" for b in "abcdef"]
    rows[7] = {"source": "aa?", "target": "7", **row}
    (workspace / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        start_run(_recipe(workspace, task={"rewards": [reward]}), workspace / "run")
    assert "prompts.jsonl:8: " in str(caught.value)
    assert said in str(caught.value)
    assert not (workspace / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("body", ["return 'good'", "return attempt.record['missing']"])
def test_a_function_that_fails_is_told_before_training(
    workspace: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"reward_{abs(hash(body))}"
    (workspace / f"{name}.py").write_text(f"def f(attempt):\n    {body}\n")
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(str(workspace))
    rewards = [{"kind": "function", "function": f"{name}:f"}]
    with pytest.raises(BadInput, match=r"returned 'good'|KeyError: 'missing'"):
        start_run(_recipe(workspace, task={"rewards": rewards}), workspace / "run")
    assert not (workspace / "run" / "metrics.jsonl").exists()


def test_patterns_that_were_given_up_are_counted(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhixing.training.rewards.pattern.SECONDS", 1e-6)
    rewards = [{"kind": "number"}, {"kind": "pattern", "pattern": "(.*.*)*$.", "weight": 0.5}]
    start_run(_recipe(workspace, task={"rewards": rewards}, train={"steps": 1}), workspace / "run")
    assert _rows(workspace / "run", "train")[0]["patterns_given_up"] > 0


def test_a_reward_sees_all_fields_of_its_record(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"source": f"{a}{b}?", "target": "7", "sum": 7, "hints": [b]} for a in "abcdef" for b in "abcdef"]
    path = workspace / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (workspace / "reward_by_hints.py").write_text("def f(a): return float(a.record['hints'][0] in a.prompt)\n")
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(str(workspace))
    rewards = [{"kind": "number", "field": "sum"}, {"kind": "function", "function": "reward_by_hints:f"}]
    recipe = _recipe(workspace, task={"rewards": rewards}, train={"steps": 1})
    outcome = start_run(recipe, workspace / "run")
    assert outcome.score.measures["reward_reward_by_hints:f"] == 1
    rows[20].pop("sum")
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(BadInput, match=r"prompts\.jsonl:21: no field 'sum', which the reward 'number' compares with"):
        start_run(recipe, workspace / "other")


def _objective(tokenizer: Tokenizer, model: Transformer, folder: Path, **task: Any) -> Grpo:
    objective = Grpo(_recipe(folder, task=task))
    objective.attach(tokenizer, 16)
    objective.begin(Setting(model, None, None, folder, writer_for(model, tokenizer)))  # type: ignore[arg-type]
    return objective


def test_answers_are_written_with_the_present_weights(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = _model(tokenizer)
    write = writer_for(model, tokenizer)
    prompt = tokenizer.encode("ab?", special=True)
    for seed in (1, 2, 3):
        model.load_state_dict(_model(tokenizer, seed).state_dict())
        expected = list(prompt)
        for _ in range(4):
            with torch.no_grad():
                expected.append(int(model(torch.tensor([expected]))[0, -1].argmax()))
        (answer,) = write([prompt], samples=1, seeds=[0], temperature=0.0, max_tokens=4)[0]
        assert answer.tokens == expected[len(prompt) :][: len(answer.tokens)]


def test_the_loss_is_that_of_a_plain_loop_over_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = _model(tokenizer)
    objective = _objective(tokenizer, model, tmp_path, beta=0.3, reuse=2, temperature=0.8)
    prompts = [tokenizer.encode(text, special=True) for text in ("a?", "bcd?")]
    examples = [{"tokens": np.array(p), "prompt": _bytes("q"), "answer": _bytes("7")} for p in prompts]
    rollouts = objective._draw(RawBatch(examples, key=5))
    reference = _model(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    batch = objective.to_device(rollouts, torch.device("cpu"))
    assert isinstance(batch, PolicyBatch)
    total = 0.0
    for row in rollouts.rows:
        whole = torch.tensor([row.prompt + row.answer])
        with torch.no_grad():
            logs = (model(whole) / 0.8).log_softmax(-1)[0]
            before = (reference(whole) / 0.8).log_softmax(-1)[0]
        for place, token in enumerate(row.answer):
            at = len(row.prompt) + place - 1
            ratio = float(torch.exp(logs[at, token] - row.old[place]))
            surrogate = min(ratio * row.advantage, max(0.8, min(1.2, ratio)) * row.advantage)
            gap = float(before[at, token] - logs[at, token])
            total += -surrogate + 0.3 * (torch.exp(torch.tensor(gap)).item() - gap - 1)
            assert float(before[at, token]) == pytest.approx(row.old[place], abs=1e-5)
    assert float(objective.loss_sum(model, batch).detach()) == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert batch.target_count == sum(len(row.answer) for row in rollouts.rows)


def _bytes(text: str) -> Any:
    return np.frombuffer(text.encode(), np.uint8)


def test_each_prompt_draws_by_random_numbers_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The draws of one batch are independent, and come again from its key."""
    objective = _objective(tokenizer, _model(tokenizer), tmp_path, samples=4, max_tokens=6)
    prompt = tokenizer.encode("a?", special=True)
    example = {"tokens": np.array(prompt), "prompt": _bytes("q"), "answer": _bytes("7")}

    def drawn(key: int) -> list[list[list[int]]]:
        answers = [row.answer for row in objective._draw(RawBatch([example] * 5, key)).rows]
        return [answers[begin : begin + 4] for begin in range(0, 20, 4)]

    first = drawn(7)
    assert all(one != other for place, one in enumerate(first) for other in first[:place])
    assert drawn(7) == first
    assert drawn(8) != first


def test_answers_survive_a_checkpoint_bit_for_bit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    objective = _objective(tokenizer, _model(tokenizer), tmp_path, reuse=2)
    prompt = tokenizer.encode("a?", special=True)
    example = {"tokens": np.array(prompt), "prompt": _bytes("q"), "answer": _bytes("7")}
    rows = objective._draw(RawBatch([example], 1))
    assert Rollouts.from_json(json.loads(json.dumps(rows.to_json()))) == rows
    with pytest.raises(BadInput, match="damaged"):
        Rollouts.from_json([{"prompt": [1]}])


def test_a_reward_that_is_only_watched_shows_what_training_does_to_it(workspace: Path) -> None:
    rewards = [{"kind": "pattern", "pattern": "^7"}, {"kind": "pattern", "pattern": "a", "weight": 0}]
    outcome = start_run(_recipe(workspace, task={"rewards": rewards}), workspace / "run")
    assert {"reward", "reward_pattern", "reward_pattern-2"} <= _rows(outcome.folder, "train")[0].keys()
    assert {"reward", "reward_pattern", "reward_pattern-2"} <= outcome.score.measures.keys()
    report = (outcome.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("reward pattern-2, held out", "answer tokens", "entropy", "What it wrote while it learned"):
        assert shown in report
    assert _rows(outcome.folder, "validation")[0]["written"][0].keys() == {"prompt", "text", "reward"}


def test_faults_are_named_before_anything_is_trained(workspace: Path) -> None:
    for values, message in (
        ({"model": {}}, "must be able to write"),
        ({"task": {"rewards": None}}, "nothing to learn from"),
        ({"task": {"samples": 1}}, "there must be several"),
        ({"task": {"max_tokens": 14}}, "more than the model's 16"),
        ({"task": {"margin": 2.0}}, "has no option 'margin'"),
    ):
        with pytest.raises(BadInput, match=message):
            start_run(_recipe(workspace, **values), workspace / "run")

"""Distillation end to end: a small student comes to predict what its teacher predicts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe, build_recipe
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.networks import network_config
from zhixing.workflows.pretrain import resume_run, start_run


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["abcdefgh? 0123456789\n"], "character", None).tokenizer


@pytest.fixture
def workspace(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    values = {"family": "qwen3", "depth": 2, "width": 32, "head_dim": 16, "context": 32, "zero_init_outputs": False}
    config = network_config(build_recipe({"model": values}).model, tokenizer.vocab_size)
    teacher = Transformer(config)  # type: ignore[arg-type]
    teacher.initialise(torch.Generator().manual_seed(3))
    save_folder(tmp_path / "teacher", teacher, tokenizer, "qwen3")
    draw = random.Random(0)
    rows = [{"text": "".join(draw.choices("abcdefgh? ", k=draw.randint(4, 30)))} for _ in range(150)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def _recipe(folder: Path, **task: Any) -> Recipe:
    return build_recipe(
        {
            "data": {"paths": [str(folder / "texts.jsonl")], "validation_fraction": 0.2},
            "tokenizer": {"path": str(folder / "teacher")},
            "model": {"family": "qwen3", "depth": 1, "width": 32, "head_dim": 16, "context": 32},
            "optimizer": {"name": "adamw", "learning_rate": 1e-2},
            "task": {"teacher": str(folder / "teacher"), **task},
            "train": {
                "objective": "distill", "steps": 60, "batch_size": 16, "validate_every": 20, "matmul": "torch",
                "threads": 1,
            },
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "task", [{}, {"divergence": "reverse"}, {"top_k": 5, "temperature": 2.0}, {"hard_weight": 0.3}]
)
def test_the_student_comes_to_agree_with_its_teacher(workspace: Path, task: dict[str, Any]) -> None:
    outcome = start_run(_recipe(workspace, **task), workspace / "run")
    rows = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert outcome.score.measures["agreement"] > 0.3  # by chance: one in twenty
    proof = resume_run(outcome.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0
    assert (outcome.folder / "teacher.safetensors").exists() == ("top_k" in task)


def test_faults_are_named_before_anything_is_trained(workspace: Path) -> None:
    with pytest.raises(BadInput, match="there is no teacher"):
        start_run(_recipe(workspace, teacher=None), workspace / "run")
    with pytest.raises(BadInput, match="needs all of the teacher's predictions"):
        start_run(_recipe(workspace, divergence="reverse", top_k=3), workspace / "run")
    recipe = _recipe(workspace)
    recipe.tokenizer.path, recipe.tokenizer.kind = None, "byte"
    with pytest.raises(BadInput, match="tokenizer is not the student's"):
        start_run(recipe, workspace / "run")
    recipe = _recipe(workspace)
    recipe.model.context = 64
    with pytest.raises(BadInput, match="reads 32 tokens"):
        start_run(recipe, workspace / "run")

"""Reward models end to end: they learn, `transformers` gives the same figures, and they can be a policy's reward."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from zhixing.checkpoints.folder import save_folder
from zhixing.checkpoints.scorer_folder import load_scorer
from zhixing.core.errors import BadInput
from zhixing.core.recipe import RewardRecipe, build_recipe
from zhixing.data.shapes.records import Message
from zhixing.models.scorer import score_rows
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.answers import AnswerEncoder, judged
from zhixing.training.networks import network_config
from zhixing.training.rewards import Attempt, build_rewards
from zhixing.workflows.pretrain import resume_run, start_run


@pytest.fixture(params=["qwen3", "llama"])
def workspace(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    tokenizer = train_tokenizer(["abcdefgh? 0123456789\n"], "character", None).tokenizer
    values = {"family": request.param, "depth": 1, "width": 32, "head_dim": 16, "context": 32}
    model = Transformer(network_config(build_recipe({"model": values}).model, tokenizer.vocab_size))  # type: ignore[arg-type]
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(tmp_path / "start", model, tokenizer, request.param)
    draw = random.Random(0)
    rows = []
    for _ in range(150):
        words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(3)]
        rows.append({"prompt": words[0] + "?", "chosen": words[1] + "7", "rejected": words[2] + "3"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_it_learns_and_transformers_agrees(workspace: Path) -> None:
    recipe = build_recipe(
        {
            "data": {"paths": [str(workspace / "pairs.jsonl")], "validation_fraction": 0.2},
            "model": {"start": str(workspace / "start")},
            "optimizer": {"learning_rate": 3e-3},
            "train": {"objective": "reward_model", "steps": 40, "batch_size": 8, "matmul": "torch", "threads": 1},
        }
    )
    outcome = start_run(recipe, workspace / "run")
    assert outcome.score.measures["pair_accuracy"] > 0.9
    assert outcome.score.measures["margin"] > 0.5
    proof = resume_run(outcome.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0

    from transformers import AutoModelForSequenceClassification

    theirs = AutoModelForSequenceClassification.from_pretrained(outcome.folder / "model").eval()
    ours, tokenizer = load_scorer(outcome.folder / "model")
    encoder = AnswerEncoder(tokenizer)
    answers = ("ab7", "cdef3", "g")
    rows = [judged(encoder, (Message("user", "ab?"),), (Message("assistant", answer),)) for answer in answers]
    pad = theirs.config.pad_token_id
    longest = max(map(len, rows))
    padded = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        expected = theirs(padded, attention_mask=(padded != pad).long()).logits[:, 0]
    found = score_rows(ours.eval(), rows)
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-4)

    rewards = build_rewards([RewardRecipe(kind="model", model=str(outcome.folder / "model"))])
    scores = rewards([Attempt("ab?", answer) for answer in (*answers, "")])
    assert scores.total[:3] == pytest.approx(found, abs=1e-4)
    assert scores.total[3] == min(scores.total[:3])
    with pytest.raises(BadInput, match="no reward model"):
        load_scorer(workspace / "start")

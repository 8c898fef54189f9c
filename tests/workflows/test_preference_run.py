"""Learning from preferences end to end on a tiny model, and its losses against a plain loop over single answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe, build_recipe
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes.records import Message, Preference, UnpairedPreference
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.answers import AnswerEncoder, _without_runs
from zhixing.training.networks import network_config
from zhixing.training.objectives import OBJECTIVES
from zhixing.training.objectives.base import RecordObjective, Setting
from zhixing.training.preference import Answers, dpo_loss, ipo_loss, kto_loss, orpo_loss, simpo_loss
from zhixing.workflows.pretrain import resume_run, start_run
from zhixing.workflows.writer import writer_for


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["abcdefgh? 0123456789\n"], "character", None).tokenizer


def _model(tokenizer: Tokenizer, seed: int = 0) -> Transformer:
    values = {"family": "qwen3", "depth": 2, "width": 32, "head_dim": 16, "context": 32, "zero_init_outputs": False}
    model = Transformer(network_config(build_recipe({"model": values}).model, tokenizer.vocab_size))  # type: ignore[arg-type]
    model.initialise(torch.Generator().manual_seed(seed))
    return model


@pytest.fixture
def workspace(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    save_folder(tmp_path / "start", _model(tokenizer), tokenizer, "qwen3")
    draw = random.Random(0)
    rows = []
    for _ in range(120):
        prompt = "".join(draw.choices("abcdefgh", k=draw.randint(2, 5))) + "?"
        rows.append({"prompt": prompt, "chosen": prompt[0] * 2, "rejected": prompt[1] + "9" * draw.randint(1, 3)})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def _recipe(folder: Path, objective: str, **train: Any) -> Recipe:
    return build_recipe(
        {
            "data": {"paths": [str(folder / "pairs.jsonl")], "validation_fraction": 0.2},
            "model": {"start": str(folder / "start")},
            "optimizer": {"learning_rate": 1e-3},
            "task": train.pop("task", {}),
            "train": {
                "objective": objective, "steps": 30, "batch_size": 8, "validate_every": 10, "matmul": "torch",
                "threads": 1, **train,
            },
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "orpo", "kto"])
def test_the_better_answers_gain_and_it_resumes_exactly(workspace: Path, name: str) -> None:
    outcome = start_run(_recipe(workspace, name, best="loss"), workspace / "run")
    rows = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if row["kind"] == "validation"]
    assert measured[-1]["loss"] < measured[0]["loss"]
    report = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert "On the held-out records." in report  # promises no intervals, for there are none
    if name == "kto":
        assert outcome.score.measures["good_reward"] > 0 > outcome.score.measures["bad_reward"]
    else:
        assert outcome.score.measures["pair_accuracy"] > 0.9
        assert measured[-1]["margin"] > measured[0]["margin"]
        assert {"margin", "pair_accuracy", "chosen_logprob", "rejected_logprob"} <= rows[1].keys()
    proof = resume_run(outcome.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0
    assert load_folder(outcome.folder / "model").model.config.context == 32
    assert (outcome.folder / "reference.safetensors").exists() == (name not in ("simpo", "orpo"))


def _messages(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role, text) for role, text in zip(("user", "assistant") * 2, texts, strict=False))  # type: ignore[arg-type]


def _by_hand(model: Transformer, tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[float, int]:
    """The answer's log-probability, token by token."""
    before = tokenizer.encode(prompt + "\n", special=True)
    after = tokenizer.encode(answer)
    if tokenizer.end_of_text_id is not None:
        after.append(tokenizer.end_of_text_id)
    total = 0.0
    for place, token in enumerate(after):
        with torch.no_grad():
            total += float(model(torch.tensor([before + after[:place]]))[0, -1].log_softmax(-1)[token])
    return total, len(after)


def _answers(*pairs: tuple[tuple[float, int], float]) -> Answers:
    return Answers(
        torch.tensor([pair[0][0] for pair in pairs]),
        torch.tensor([pair[1] for pair in pairs]),
        torch.tensor([pair[0][1] for pair in pairs]),
    )


PAIRS = (("ab?", "aa", "b99"), ("hgfe?", "hh", "g"), ("cc?", "cccc", "c9"))


def _prepared(name: str, tokenizer: Tokenizer, folder: Path, records: list[Any]) -> tuple[RecordObjective, RawBatch]:
    kind = OBJECTIVES[name]
    assert issubclass(kind, RecordObjective)
    objective = kind(_recipe(folder, name, task={"beta": 0.4}))
    objective.attach(tokenizer, 32)
    for record in records:
        objective.observe(record, False)
    examples = [example for record in records for example in objective.encode(record).examples]

    class Store(list):  # type: ignore[type-arg]
        @property
        def lengths(self) -> Any:
            return torch.tensor([objective.length(example) for example in self]).numpy()

        def take(self, indices: Any) -> Any:
            return [self[index] for index in indices]

    start = _model(tokenizer, 1)
    objective.begin(Setting(start, Store(examples), Store(), folder, writer_for(start, tokenizer)))  # type: ignore[arg-type]
    return objective, RawBatch(examples, 0)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "orpo"])
def test_losses_of_pairs_are_those_of_a_plain_loop(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = [Preference(_messages(p), (Message("assistant", w),), (Message("assistant", l),)) for p, w, l in PAIRS]  # noqa: E741
    objective, raw = _prepared(name, tokenizer, tmp_path, records)
    model, before = _model(tokenizer, 2), _model(tokenizer, 1)

    def side(which: int) -> Answers:
        return _answers(
            *((_by_hand(model, tokenizer, pair[0], pair[which]), _by_hand(before, tokenizer, pair[0], pair[which])[0])
              for pair in PAIRS)
        )  # fmt: skip

    chosen, rejected = side(1), side(2)
    expected = {
        "dpo": lambda: dpo_loss(chosen, rejected, 0.4), "ipo": lambda: ipo_loss(chosen, rejected, 0.4),
        "simpo": lambda: simpo_loss(chosen, rejected, 0.4, 1.0), "orpo": lambda: orpo_loss(chosen, rejected, 0.4),
    }[name]().sum()  # fmt: skip
    got = objective.loss_sum(model, objective.to_device(raw, torch.device("cpu")))
    assert float(got.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_loss_of_kto_is_that_of_a_plain_loop(tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = [
        UnpairedPreference(_messages(prompt), (Message("assistant", good),), index != 1)
        for index, (prompt, good, _) in enumerate(PAIRS)
    ]
    objective, raw = _prepared("kto", tokenizer, tmp_path, records)
    model, before = _model(tokenizer, 2), _model(tokenizer, 1)

    def scored(pairs: list[tuple[str, str]]) -> Answers:
        return _answers(*((_by_hand(model, tokenizer, *pair), _by_hand(before, tokenizer, *pair)[0]) for pair in pairs))

    answers = scored([(prompt, good) for prompt, good, _ in PAIRS])
    # The first record's mismatched answer is the last one's.
    others = scored([(PAIRS[index][0], PAIRS[index - 1][1]) for index in range(3)])
    expected = kto_loss(answers, torch.tensor([True, False, True]), others, 0.4, (1.0, 1.0)).sum()
    got = objective.loss_sum(model, objective.to_device(raw, torch.device("cpu")))
    assert float(got.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_only_what_comes_behind_the_prompt_is_the_answer() -> None:
    mask = [bool(int(digit)) for digit in "0011000110001"]
    assert _without_runs(mask, 0) == mask
    assert _without_runs(mask, 2) == [bool(int(digit)) for digit in "0000000000001"]


def test_plain_conversations_end_with_the_end_of_text(tokenizer: Tokenizer) -> None:
    tokens, mask = AnswerEncoder(tokenizer).encode(_messages("ab?"), (Message("assistant", "cd"),))
    assert tokenizer.decode([token for token, here in zip(tokens, mask, strict=True) if not here]) == "ab?\n"
    answer = [token for token, here in zip(tokens, mask, strict=True) if here]
    assert tokenizer.decode(answer, skip_special=True) == "cd"
    assert answer[-1] == tokenizer.end_of_text_id


def test_faults_are_named_before_anything_is_trained(workspace: Path) -> None:
    (workspace / "same.jsonl").write_text(
        '{"prompt": "a?", "chosen": "b", "rejected": "c"}\n{"prompt": "a?", "chosen": "b", "rejected": "b"}\n'
    )
    recipe = _recipe(workspace, "dpo")
    recipe.data.paths = [str(workspace / "same.jsonl")]
    with pytest.raises(BadInput, match=r"same.jsonl:2: .*rejected"):
        start_run(recipe, workspace / "run")
    recipe = _recipe(workspace, "dpo")
    recipe.model.start = None
    with pytest.raises(BadInput, match="can already answer"):
        start_run(recipe, workspace / "run")
    with pytest.raises(BadInput, match="has no option 'margin'"):
        start_run(_recipe(workspace, "dpo", task={"margin": 2.0}), workspace / "run")
    with pytest.raises(BadInput, match="nothing is learned"):
        start_run(_recipe(workspace, "dpo", task={"beta": 0.0}), workspace / "run")


def test_a_prompt_that_leaves_no_room_is_dropped_where_long_records_are(workspace: Path) -> None:
    path = workspace / "pairs.jsonl"
    long = {"prompt": "a" * 40 + "?", "chosen": "aa", "rejected": "b9"}
    path.write_text(path.read_text(encoding="utf-8") + "\n" + json.dumps(long), encoding="utf-8")
    with pytest.raises(BadInput, match="leaves no room"):
        start_run(_recipe(workspace, "dpo", steps=1), workspace / "refused")
    recipe = _recipe(workspace, "dpo", steps=1)
    recipe.data.too_long = "drop"
    start_run(recipe, workspace / "dropped")
    (facts,) = (workspace / "dropped").glob("*/facts.json")
    assert json.loads(facts.read_text(encoding="utf-8"))["tally"]["dropped"] == 1


def test_figures_of_a_pair_are_shown_with_their_names(tokenizer: Tokenizer) -> None:
    recipe = build_recipe(
        {"train": {"objective": "dpo", "steps": 1}, "data": {"paths": ["x"]}, "model": {"start": "y"}}
    )
    objective = OBJECTIVES["dpo"](recipe)
    shown = objective.show({"pair_accuracy": 1.0, "margin": 0.22519534826278687}, "yes")
    assert shown == ("pair accuracy 1, margin 0.2252", "yes")

"""Multiple-choice benchmarks: our backend beside lm-eval's own `hf` one, on the same folder and the same local task.

    python benchmarks/likelihoods.py [--questions N] [--rounds N] [--threads N] [--json]

A Llama of random weights (6 layers, 384 wide, vocabulary 8,192) answers questions of 20 to 160 words with four choices
of one to eight words. Both run turn by turn; wall and CPU time are the best of the rounds. The accuracies must be
equal.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch

from common import Measurement, report
from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.evaluation.benchmarks.run import run_benchmarks
from zhixing.evaluation.benchmarks.task_files import load_task_file
from zhixing.families import family_named
from zhixing.models import ops
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

TASK = {
    "task": "questions", "dataset_path": "data.jsonl", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}", "doc_to_target": "label", "metric_list": [{"metric": "acc"}],
}  # fmt: skip


def make(folder: Path, questions: int) -> None:
    """Saves the model and the task."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(3000)]
    tokenizer = train_tokenizer([" ".join(words)] * 2, "byte-bpe", 8192).tokenizer
    config = TransformerConfig(
        vocab_size=8192, width=384, layers=6, heads=6, kv_heads=6, head_dim=64, context=1024, mlp_width=1024,
        **family_named("llama").start,
    )  # fmt: skip
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(folder / "model", model.eval(), tokenizer, "llama")

    def text(least: int, most: int) -> str:
        return " ".join(generator.choices(words, k=generator.randint(least, most)))

    rows = [
        {"question": text(20, 160), "choices": [text(1, 8) for _ in range(4)], "label": generator.randrange(4)}
        for _ in range(questions)
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "task.yaml").write_text(json.dumps(TASK), encoding="utf-8")


def ours(folder: Path) -> float:
    """Runs the task on our network; returns the accuracy."""
    opened = load_folder(folder / "model")
    assert opened.tokenizer is not None
    return run_benchmarks(opened.model, opened.tokenizer, [str(folder / "task.yaml")]).figures[0].value


def theirs(folder: Path) -> float:
    """Runs the task as lm-eval does."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=str(folder / "model"), device="cpu", batch_size=16, dtype="float32")
    loaded = TaskManager(include_defaults=False).load([load_task_file(folder / "task.yaml")])
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
    return evaluate(lm, loaded, bootstrap_iters=0)["results"]["questions"]["acc,none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, given.questions)
        ops.select_matmul()
        best: dict[str, tuple[float, float, float]] = {}
        for _ in range(given.rounds):
            for title, run in (("zhixing", ours), ("lm-eval hf", theirs)):
                wall, cpu = time.perf_counter(), time.process_time()
                accuracy = run(folder)
                found = (time.perf_counter() - wall, time.process_time() - cpu, accuracy)
                best[title] = min(best.get(title, found), found)
    assert best["zhixing"][2] == best["lm-eval hf"][2], "the accuracies differ"
    mine, other = best["zhixing"], best["lm-eval hf"]
    rows = [
        Measurement(name, mine[k], "s", "lm-eval hf", other[k], other[k] / mine[k])
        for k, name in enumerate(("wall time", "CPU time"))
    ]
    report(rows, given.json)


if __name__ == "__main__":
    main()

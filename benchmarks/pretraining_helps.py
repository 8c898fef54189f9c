"""Masked-language pretraining on one text helps a small classifier with few labels: pretrained against from scratch.

    python benchmarks/pretraining_helps.py TEXT TRAIN DEV [--tagged] [--labels 500] [--seeds 3] [--minutes 20] [--json]

TEXT is running text (--tagged: tagged sentences, as in brown.zip), TRAIN and DEV are labelled records (SST-2). A small
encoder, a bidirectional LSTM whose label is read from the mean of all its states, is pretrained once with masked words
on TEXT; then, for each seed, it is tuned on the same few labelled records, by the same rate and for as long, as one of
equal shape and equal tokenizer that begins at random. Both are measured on all of DEV.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import common
import zhixing
from zhixing.core.progress import human_count
from zhixing.data import shapes
from zhixing.workflows.records_run import RecordOutcome

SHAPE = {"family": "lstm-encoder", "depth": 1, "width": 192}
TOKENIZER = {"kind": "wordpiece", "vocab_size": 6000, "lowercase": True}
MASK_SHARE = 0.3
"""A corpus of a million words teaches more in the same time when more of them are hidden (Wettig et al. 2023)."""


def sentences(path: str, target: Path) -> Path:
    """Writes the sentences of tagged words as running text, one record each."""
    records: Any = (placed.record for placed in shapes.read(path, shape="tagged"))
    texts = (" ".join(record.tokens) for record in records)
    target.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return target


def sample(path: str, count: int, seed: int, target: Path) -> Path:
    """Writes so many records of a labelled file, evenly over its labels."""
    by_label: dict[str, list[str]] = {}
    for placed in shapes.read(path, shape="labelled"):
        record: Any = placed.record
        by_label.setdefault(record.label, []).append(record.text)
    rows = []
    for label, texts in sorted(by_label.items()):
        chosen = random.Random(seed).sample(texts, min(len(texts), count // len(by_label)))
        rows += [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text in chosen]
    target.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return target


def run(recipe: dict[str, Any], folder: Path) -> RecordOutcome:
    """Trains, and returns what came of it."""
    outcome = zhixing.train(recipe, folder)
    assert isinstance(outcome, RecordOutcome)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("train")
    parser.add_argument("dev")
    parser.add_argument("--tagged", action="store_true", help="TEXT is word/tag, as the Brown corpus")
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=20.0, help="of pretraining")
    parser.add_argument("--steps", type=int, help="of pretraining, instead of minutes")
    parser.add_argument("--runs", type=Path, help="keep the runs here")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    length = {"steps": arguments.steps} if arguments.steps else {"minutes": arguments.minutes}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        text = str(sentences(arguments.text, folder / "sentences.jsonl")) if arguments.tagged else arguments.text
        pretrained = run(
            {
                "name": "pretrained",
                "data": {"paths": [text]},
                "tokenizer": TOKENIZER,
                "model": SHAPE,
                "train": {"objective": "masked", "batch_tokens": 2048, **length},
                "task": {"mask_share": MASK_SHARE},
            },
            folder / "pretrained",
        )
        print(f"masked words: perplexity {pretrained.score.measures['perplexity']:.1f}")
        scores: dict[str, list[float]] = {"pretrained": [], "from scratch": []}
        for seed in range(arguments.seeds):
            few = sample(arguments.train, arguments.labels, seed, folder / f"few-{seed}.jsonl")
            same = {
                "data": {"paths": [str(few)], "validation_paths": [arguments.dev]},
                "task": {"summary": "mean"},
                "optimizer": {"name": "adamw", "learning_rate": 1e-3},
                "train": {"objective": "classification", "epochs": 8.0, "batch_size": 16, "seed": seed},
            }
            tuned = {"model": {"start": str(pretrained.folder), "dropout": 0.3}}
            fresh = {"model": {**SHAPE, "dropout": 0.3}, "tokenizer": {"path": str(pretrained.folder)}}
            for name, recipe in (("pretrained", tuned), ("from scratch", fresh)):
                outcome = run({**same, **recipe}, folder / f"{name.replace(' ', '-')}-{seed}")
                scores[name].append(outcome.score.measures["accuracy"])
    better = [a - b for a, b in zip(scores["pretrained"], scores["from scratch"], strict=True)]
    common.report(
        [
            common.Measurement(
                f"accuracy with {human_count(arguments.labels)} labels, pretrained",
                statistics.mean(scores["pretrained"]), "", "the same from scratch",
                statistics.mean(scores["from scratch"]), runs=scores["pretrained"],
            ),
            common.Measurement("difference, smallest over seeds", min(better), "", runs=better),
        ],
        arguments.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Tiny Shakespeare by characters: validation loss and time of the three recipes, beside nanoGPT.

    python benchmarks/shakespeare.py INPUT.TXT [--recipe cpu|cpu-best|20min|all] [--peer CHECKOUT] [--quick] [--json]

Both programs are timed as whole processes, from start to end, and by their training alone. Losses are measured by
nanoGPT's estimator (the mean over random blocks of the held-out tenth; 1,024 blocks, so that chance is below 0.01)
and on the whole held-out text in consecutive blocks and with a sliding window. With the path of a nanoGPT checkout as
--peer its CPU recipe runs in turn; without, its published figures stand beside ours: 1.8857 and, for its GPU recipe,
1.4697.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import common
from zhixing.checkpoints.folder import load_folder
from zhixing.evaluation.language_modelling import TokenDocument, evaluate_tokens
from zhixing.models.transformer import Transformer

RECIPES = {"cpu": 1.8857, "cpu-best": 1.8857, "20min": 1.4697}
"""Recipe and the loss of nanoGPT's that it is held against."""

NANOGPT_CPU = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
).split()
ESTIMATOR_BLOCKS = 1024


def split(path: Path) -> tuple[str, str]:
    """Divides the text as nanoGPT does."""
    text = path.read_text(encoding="utf-8")
    return text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]


def estimate(model: Transformer, tokens: torch.Tensor, block: int) -> float:
    """Returns nanoGPT's estimate: the mean loss over random blocks."""
    generator = torch.Generator().manual_seed(1337)
    starts = torch.randint(len(tokens) - block, (ESTIMATOR_BLOCKS,), generator=generator)
    total = 0.0
    for some in starts.split(64):
        index = some[:, None] + torch.arange(block)
        total += float(model.losses(tokens[index], tokens[index + 1]).mean(1).sum())
    return total / ESTIMATOR_BLOCKS


def run_ours(recipe: str, text: Path, folder: Path, quick: bool) -> tuple[float, float, dict[str, float]]:
    """Trains by a recipe in a process of its own; returns whole seconds, training seconds and losses."""
    file = Path(__file__).parents[1] / "recipes" / f"shakespeare-char-{recipe}.yaml"
    command = [sys.executable, "-m", "zhixing.cli.main", "--quiet", "train", str(file), str(text), "--run", str(folder)]
    if quick:
        command += ["--set", "train.minutes=null", "--set", "train.steps=100", "--set", "train.validate_every=100"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - start
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = max(row["seconds"] for row in rows if row["kind"] == "train")
    opened = load_folder(folder / "model")
    assert opened.tokenizer is not None
    held_out = split(text)[1]
    tokens = torch.tensor(opened.tokenizer.encode(held_out))
    block = opened.model.config.context
    document = TokenDocument(tokens.numpy(), len(held_out))
    losses = {"estimator": estimate(opened.model, tokens, block)}
    for name, stride in (("full", block), ("sliding", block // 4)):
        losses[name] = evaluate_tokens(opened.model, [document], start=None, window=block, stride=stride)[0].loss
    return whole, trained, losses


def run_nanogpt(checkout: Path, text: Path) -> tuple[float, float, float]:
    """Runs nanoGPT's CPU recipe in a copy of its checkout; returns whole seconds, training seconds and its loss."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "nanoGPT"
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"))
        data = copy / "data" / "shakespeare_char"
        train, held_out = split(text)
        characters = sorted(set(train + held_out))
        index = {character: number for number, character in enumerate(characters)}
        for name, part in (("train", train), ("val", held_out)):
            np.array([index[character] for character in part], dtype=np.uint16).tofile(data / f"{name}.bin")
        with (data / "meta.pkl").open("wb") as file:  # the format that nanoGPT reads
            pickle.dump({"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": index}, file)
        command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *NANOGPT_CPU]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True, env={**os.environ})
        whole = time.perf_counter() - start
    losses = [float(value) for value in re.findall(r"step \d+: train loss [\d.]+, val loss ([\d.]+)", done.stdout)]
    steps = [float(value) for value in re.findall(r"iter \d+: loss [\d.]+, time ([\d.]+)ms", done.stdout)]
    return whole, 2000 * sorted(steps)[len(steps) // 2] / 1000, losses[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="input.txt, the 1.1 MB of Tiny Shakespeare")
    parser.add_argument("--recipe", choices=[*RECIPES, "all"], default="cpu")
    parser.add_argument("--peer", help="the path of a nanoGPT checkout")
    parser.add_argument("--runs", type=int, default=1, help="repeat the recipe and the peer so often, in turn")
    parser.add_argument("--quick", action="store_true", help="100 steps only: shows that it runs, not how well")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    rows: list[common.Measurement] = []
    for recipe in RECIPES if options.recipe == "all" else [options.recipe]:
        ours, theirs = [], []
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory() as temporary:
                ours.append(run_ours(recipe, options.text.resolve(), Path(temporary) / "run", options.quick))
            if options.peer and recipe != "20min":
                theirs.append(run_nanogpt(Path(options.peer), options.text.resolve()))
        for position, name in enumerate(("process", "training")):
            values = sorted(run[position] for run in ours)
            value, peer_value = values[len(values) // 2], None
            if theirs:
                peer_value = sorted(run[position] for run in theirs)[len(theirs) // 2]
            ratio = peer_value / value if peer_value else None
            name = f"{recipe}.{name}_seconds"
            rows.append(common.Measurement(name, value, "s", "nanoGPT", peer_value, ratio, None, values))
        peer_loss = sorted(run[2] for run in theirs)[len(theirs) // 2] if theirs else RECIPES[recipe]
        for kind in ("estimator", "full", "sliding"):
            values = sorted(run[2][kind] for run in ours)
            value = values[len(values) // 2]
            compared = (peer_loss, peer_loss / value) if kind == "estimator" else (None, None)
            rows.append(common.Measurement(f"{recipe}.loss_{kind}", value, "nats", "nanoGPT", *compared, None, values))
    common.report(rows, options.json)


if __name__ == "__main__":
    main()

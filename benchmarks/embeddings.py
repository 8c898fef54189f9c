"""Sentence vectors of minilm beside `transformers`: equal, and how fast on texts of mixed lengths.

    python benchmarks/embeddings.py --peer transformers

The texts are cut from this repository's own pages, 5 to 250 tokens long. The peer is the plain loop: batches padded to
their longest text, mean of the vectors that are no padding, scaled to length one; once in the order in which the texts
come, once with the texts sorted for it beforehand. It runs in a process of its own; all take turns. CPU time is of the
whole process.
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from zhixing.checkpoints.references import resolve
from zhixing.core.device import tune_allocator
from zhixing.tasks.embed import Embedder, open_embedder

sys.path.insert(0, str(Path(__file__).parent))
from common import Measurement, report

ROOT = Path(__file__).resolve().parent.parent
PEER_BATCH = 32

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def texts_of(embedder: Embedder, count: int, shortest: int, longest: int, seed: int = 0) -> list[str]:
    """Cuts texts with evenly distributed numbers of tokens out of the repository's pages."""
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
    words = " ".join(page.read_text(encoding="utf-8") for page in pages).split()
    words = [word for word in words if "[" not in word]  # the name of a token, as [MASK], is plain text only to us
    draw = random.Random(seed)
    found = []
    while len(found) < count:
        wanted, start = draw.randint(shortest, longest), draw.randrange(len(words) - longest)
        text = " ".join(words[start : start + wanted])
        tokens = embedder.runner.tokenizer.encode(text)
        while len(tokens) + 2 > wanted and " " in text:
            text = text.rsplit(" ", max(1, (len(tokens) + 2 - wanted) // 4))[0]
            tokens = embedder.runner.tokenizer.encode(text)
        found.append(text)
    return found


def peer_of(ref: str) -> Embed:
    """Returns `transformers` with mean pooling."""
    from transformers import AutoModel, AutoTokenizer

    folder = resolve(ref)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(texts), PEER_BATCH):
            batch = tokenizer(
                list(texts[start : start + PEER_BATCH]),
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            means = (states * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(means, dim=1).numpy())
        return np.concatenate(parts)

    return embed


def timed(embed: Embed, texts: Sequence[str]) -> tuple[float, float, NDArray[np.float32]]:
    """Returns seconds, CPU seconds and the vectors."""
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = embed(texts)
    return time.perf_counter() - wall, time.process_time() - cpu, vectors


class Peer:
    """The peer in a process of its own, so that nothing of ours (kept memory, the library of products) is in it."""

    def __init__(self, model: str, threads: int) -> None:
        command = [sys.executable, __file__, "--model", model, "--threads", str(threads), "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, texts: Sequence[str]) -> tuple[float, float, NDArray[np.float32]]:
        """Embeds texts; returns seconds, CPU seconds and the vectors."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump(list(texts), self.process.stdin)
        self.process.stdin.flush()
        found: tuple[float, float, NDArray[np.float32]] = pickle.load(self.process.stdout)  # noqa: S301 - our own
        return found

    @staticmethod
    def serve(model: str) -> None:
        """Is the other process: answers until its input ends."""
        answers = sys.stdout.buffer
        sys.stdout = sys.stderr
        embed = peer_of(model)
        with contextlib.suppress(EOFError):
            while True:
                texts = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own
                pickle.dump(timed(embed, texts), answers)
                answers.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--peer", choices=["transformers"], help="compare with it")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    if options.serve:
        Peer.serve(options.model)
        return
    tune_allocator()
    embedder = open_embedder(options.model)
    texts = texts_of(embedder, options.texts, 5, 250)

    def ours(given: Sequence[str]) -> tuple[float, float, NDArray[np.float32]]:
        return timed(lambda some: embedder(some).vectors, given)

    ways = {"zhixing": (ours, texts)}
    if options.peer:
        peer = Peer(options.model, options.threads)
        ways |= {"arrival order": (peer, texts), "sorted": (peer, sorted(texts, key=len))}  # type: ignore[dict-item]
    for embed, given in ways.values():
        embed(given[:32])  # the first call also chooses kernels and allocates
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    vectors: dict[str, NDArray[np.float32]] = {}
    for _ in range(options.rounds):
        for name, (embed, given) in ways.items():
            wall, cpu, vectors[name] = embed(given)
            runs[name].append((wall, cpu))
    found = []
    for index, unit in enumerate(("texts/s", "texts/CPU s")):
        rates = {name: [len(texts) / times[index] for times in timings] for name, timings in runs.items()}
        value = statistics.median(rates["zhixing"])
        for name in [name for name in rates if name != "zhixing"]:
            theirs = statistics.median(rates[name])
            found.append(
                Measurement(f"arrival order; peer: {name}", value, unit, "transformers", theirs, value / theirs,
                            runs=rates["zhixing"])
            )  # fmt: skip
        if not options.peer:
            found.append(Measurement("arrival order", value, unit, runs=rates["zhixing"]))
    if options.peer:
        sentences = texts_of(embedder, 200, 5, 60, seed=1)
        one, other = ours(sentences)[2], peer(sentences)[2]
        worst = float(np.abs(one @ one.T - other @ other.T).max())
        found.append(Measurement("cosines of 200 sentences, largest difference", worst, ""))
        again = float(np.abs(vectors["zhixing"] - vectors["arrival order"]).max())
        found.append(Measurement("vectors of all texts, largest difference", again, ""))
        assert peer.process.stdin is not None
        peer.process.stdin.close()
    report(found, options.json)


if __name__ == "__main__":
    main()

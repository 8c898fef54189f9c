"""Embedding texts of mixed lengths on a CPU: Zhixing beside CTranslate2 and transformers, on the same weights.

    python benchmarks/embed.py [--model minilm] [--peer ctranslate2 --converted FOLDER] [--peer transformers]
        [--python PYTHON] [--quantize q8] [--texts 500] [--threads 2] [--runs 5] [--json]

All get the same token ids, sorted by length, which spares the peers most of their padding; they compute batches of 32.
CTranslate2 is measured in int8 and in float32 on a folder that `ct2-transformers-converter` made; it and transformers
run in processes of their own, in the Python that --python names. Zhixing is called as a user's program calls it, with
the texts; its tokenizer's time is part of its own. All take turns; the median counts. How near the vectors are to
Zhixing's float32 ones is shown.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from common import Measurement, Peer, report
from decode import TEXT

LONGEST = 250
BATCH = 32


def sentences(count: int, seed: int = 0) -> list[str]:
    """Returns texts of 5 to 250 words' worth of tokens, of real words in random order."""
    words, draw = TEXT.split(), random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(3, LONGEST - 80))) for _ in range(count)]


def peers_of(arguments: argparse.Namespace, folder: Path) -> dict[str, Peer]:
    """Starts the peers that were asked for."""
    peers, threads = {}, str(arguments.threads)
    for name in arguments.peer:
        if name == "transformers":
            peers[name] = Peer(arguments.python, "embed_peers.py", [name, str(folder), threads], arguments.threads)
            continue
        if arguments.converted is None:
            sys.exit("--peer ctranslate2 needs --converted FOLDER, from: ct2-transformers-converter --model ...")
        for compute in ("int8", "float32"):
            call = [f"{name}:{compute}", arguments.converted, threads]
            peers[f"{name}:{compute}"] = Peer(arguments.python, "embed_peers.py", call, arguments.threads)
    return peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--peer", action="append", default=[], choices=["ctranslate2", "transformers"])
    parser.add_argument("--converted", help="the folder that ct2-transformers-converter made")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--quantize", choices=["q8", "q4"], help="let Zhixing quantise the encoder's matrices")
    parser.add_argument("--engine", default="auto", choices=["auto", "native", "torch"])
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    os.environ["ZHIXING_THREADS"] = str(arguments.threads)
    import torch

    from zhixing.checkpoints.references import resolve
    from zhixing.tasks.embed import open_embedder

    torch.set_num_threads(arguments.threads)
    exact = open_embedder(arguments.model, engine="torch")
    ours = open_embedder(arguments.model, engine=arguments.engine, quantize=arguments.quantize)
    texts = sentences(arguments.texts)
    tokens = [exact.runner.framed(one) for one in exact.runner.encode(texts)]
    order = sorted(range(len(texts)), key=lambda place: len(tokens[place]))
    ordered = [tokens[place] for place in order]
    expected = exact(texts).vectors
    peers = peers_of(arguments, resolve(arguments.model))
    seconds: dict[str, list[float]] = {"zhixing": []}
    for turn in range(arguments.runs + 1):  # the first one warms up
        start = time.perf_counter()
        vectors = ours(texts).vectors
        own = time.perf_counter() - start
        if turn:
            seconds["zhixing"].append(own)
        for name, peer in peers.items():
            answer = peer({"texts": ordered, "batch": BATCH})
            if turn:
                seconds.setdefault(name, []).append(float(answer["seconds"]))
            ends = np.array(answer["vectors"]) * expected[[order[0], order[-1]]]
            if turn == 0:
                print(f"{name}: cosine to float32 {ends.sum(1).min():.5f}", file=sys.stderr)
    print(f"zhixing: cosine to float32 {(vectors * expected).sum(1).min():.5f} at least", file=sys.stderr)
    rate = {name: len(texts) / statistics.median(values) for name, values in seconds.items()}
    label = f"embed {len(texts)} texts, {sum(map(len, tokens))} tokens"
    value, runs = rate["zhixing"], [len(texts) / one for one in seconds["zhixing"]]
    rows = [
        Measurement(label, value, "texts/s", name, other, value / other, runs=runs)
        for name, other in rate.items() if name != "zhixing"
    ] or [Measurement(label, value, "texts/s", runs=runs)]  # fmt: skip
    report(rows, arguments.json)


if __name__ == "__main__":
    main()

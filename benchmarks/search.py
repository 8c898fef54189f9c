"""The index over many short texts: how fast it is built beside its encoder alone, how fast and how exact it answers.

    python benchmarks/search.py texts.txt                           100,000 texts through minilm
    python benchmarks/search.py texts.txt --random-vectors          without the encoder: what the index itself costs

Texts are the lines of a file, repeated with a number when there are too few. Times are of the processor, in one thread
with OMP_NUM_THREADS=1, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from zhixing.core.progress import set_quiet
from zhixing.tasks.embed import open_embedder
from zhixing.tasks.search.index import Index, Item
from zhixing.tasks.search.store import Store, create_store


class RandomVectors:
    """Stands for an encoder: vectors that depend on the text alone, at no cost worth mentioning."""

    width, fingerprint = 384, "random"
    runner = SimpleNamespace(
        room=254, tokenizer=SimpleNamespace(encode_with_offsets=lambda text: ([0], [(0, len(text))]))
    )

    def __call__(self, texts: list[str]) -> Any:
        """Returns a vector for each text."""
        rows = [np.random.default_rng(list(text.encode())).standard_normal(384, np.float32) for text in texts]
        return SimpleNamespace(vectors=np.stack(rows))


def many(path: Path, count: int) -> list[str]:
    """Returns so many different texts, made of the lines of a file."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [lines[number % len(lines)] + (f" {number}" if number >= len(lines) else "") for number in range(count)]


def main() -> None:
    """Builds an index and searches it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--random-vectors", action="store_true")
    given = parser.parse_args()
    set_quiet(True)
    texts = many(given.texts, given.count)
    encoder: Any = RandomVectors() if given.random_vectors else open_embedder(given.model)
    figures: dict[str, Any] = {"texts": len(texts)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "index"
        create_store(folder, {"model": given.model, "encoder": encoder.fingerprint, "width": encoder.width})
        index = Index(folder, Store(folder), encoder)
        sample = texts[: min(5000, len(texts))]
        started = time.process_time()
        for start in range(0, len(sample), 512):
            encoder(sample[start : start + 512])
        alone = (time.process_time() - started) / len(sample)
        started, wall = time.process_time(), time.monotonic()
        index.add(Item(str(number), text) for number, text in enumerate(texts))
        built = time.process_time() - started
        figures |= {
            "encoder_alone_texts_per_s": round(1 / alone),
            "index_texts_per_s": round(len(texts) / built),
            "index_share_of_encoder_speed": round(alone * len(texts) / built, 3),
            "build_wall_s": round(time.monotonic() - wall, 1),
        }
        started = time.process_time()
        index = Index(folder, Store(folder), encoder)
        figures["open_ms"] = round(1000 * (time.process_time() - started), 1)
        queries = random.Random(0).sample(texts, given.queries)
        for mode in ("semantic", "keyword", "hybrid"):
            times = []
            for query in queries:
                started = time.process_time()
                index.search(query, 10, mode)
                times.append(1000 * (time.process_time() - started))
            times.sort()
            figures[f"{mode}_ms"] = {"median": round(times[len(times) // 2], 2), "worst": round(times[-1], 2)}
        exact = np.array(index.store.vectors)
        recall = 0.0
        for query in queries[:100]:
            vector = encoder([query]).vectors[0]
            right = set(np.argsort(-(exact @ (vector / np.linalg.norm(vector))), kind="stable")[:10].tolist())
            recall += len(right & {int(hit.key) for hit in index.search(query, 10, "semantic")}) / 10
        figures["recall_at_10_against_brute_force"] = recall / min(100, len(queries))
        figures["bytes_per_text"] = round(sum(file.stat().st_size for file in folder.iterdir()) / len(texts))
        figures["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

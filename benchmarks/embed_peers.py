"""The peers of `embed.py`: each a process of its own, in its own Python, that embeds lists of token ids.

    PYTHON benchmarks/embed_peers.py ctranslate2:int8 | ctranslate2:float32 | transformers FOLDER THREADS

It reads one JSON object a line, {"texts": [[ids]], "batch": N}, texts sorted by length, computes one mean-pooled,
normalised vector per text, padded batch by padded batch, and answers {"seconds": S, "vectors": [the first and the last
one]}. Vectors are left where the library computed them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

Work = Callable[[list[list[int]], int], tuple[float, list[list[float]]]]


def ctranslate2(folder: str, threads: int, compute: str) -> Work:
    """CTranslate2 on a converted folder; pooling by numpy, of each batch."""
    import ctranslate2 as library
    import numpy as np

    encoder = library.Encoder(folder, device="cpu", compute_type=compute, intra_threads=threads, inter_threads=1)

    def work(texts: list[list[int]], size: int) -> tuple[float, list[list[float]]]:
        start, vectors = time.perf_counter(), []
        for first in range(0, len(texts), size):
            batch = texts[first : first + size]
            states = np.array(encoder.forward_batch(batch).last_hidden_state)
            for row, text in zip(states, batch, strict=True):
                mean = row[: len(text)].mean(0)
                vectors.append(mean / np.linalg.norm(mean))
        return time.perf_counter() - start, [vectors[0].tolist(), vectors[-1].tolist()]

    return work


def transformers(folder: str, threads: int) -> Work:
    """transformers in float32."""
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def work(texts: list[list[int]], size: int) -> tuple[float, list[list[float]]]:
        start, vectors = time.perf_counter(), []
        for first in range(0, len(texts), size):
            batch = texts[first : first + size]
            longest = max(map(len, batch))
            ids = torch.tensor([text + [0] * (longest - len(text)) for text in batch])
            mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in batch])
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            vectors.extend(torch.nn.functional.normalize(mean, dim=1))
        return time.perf_counter() - start, [vectors[0].tolist(), vectors[-1].tolist()]

    return work


def main() -> None:
    name, folder, threads = sys.argv[1:4]
    library, _, compute = name.partition(":")
    work = (
        ctranslate2(folder, int(threads), compute) if library == "ctranslate2" else transformers(folder, int(threads))
    )
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        seconds, vectors = work(order["texts"], order["batch"])
        print(json.dumps({"seconds": seconds, "vectors": vectors}), flush=True)


if __name__ == "__main__":
    main()

"""The peers of `decode.py`: each a process of its own, in its own Python, that is told what to do line by line.

    PYTHON benchmarks/decode_peers.py llama.cpp FILE.gguf THREADS

It reads one JSON object a line, {"work": "decode" | "prefill" | "streams", "tokens": [...], "count": N, "streams": N},
does it, and answers {"seconds": S, "tokens": [what it wrote]}. Between two lines it sleeps. Nothing of Zhixing is
imported: the peer's Python need not have it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

Answer = dict[str, object]
Work = Callable[[dict[str, object]], Answer]


def llama_cpp(file: str, threads: int) -> Work:
    """llama.cpp through its C interface: no text, no sampling chain, the likeliest token by numpy."""
    import ctypes

    import llama_cpp as lib
    import numpy as np

    lib.llama_backend_init()
    quiet = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(quiet, None)
    model = lib.llama_model_load_from_file(file.encode(), lib.llama_model_default_params())
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

    def context(streams: int, room: int) -> object:
        settings = lib.llama_context_default_params()
        settings.n_ctx = streams * -(-room // 256) * 256
        settings.n_ubatch = 512  # computed together; a call may hold more
        settings.n_batch = max(512, room)
        settings.n_seq_max = streams
        settings.n_threads = settings.n_threads_batch = threads
        return lib.llama_init_from_model(model, settings)

    def feed(where: object, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = lib.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for place, (token, position, stream, wanted) in enumerate(rows):
            batch.token[place], batch.pos[place], batch.logits[place] = token, position, wanted
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, stream
        if lib.llama_decode(where, batch):
            raise SystemExit("llama_decode failed")
        lib.llama_batch_free(batch)

    def best(where: object, place: int) -> int:
        logits = lib.llama_get_logits_ith(where, place)
        return int(np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (vocabulary,)).argmax())

    def work(order: dict[str, object]) -> Answer:
        prompt, count, streams = order["tokens"], order["count"], order.get("streams", 1)
        where = context(streams, len(prompt) + count)
        last = len(prompt) - 1
        start = time.perf_counter()
        for stream in range(streams):
            feed(where, [(token, place, stream, place == last) for place, token in enumerate(prompt)])
        chosen = [best(where, last if streams == 1 else -1)] * streams
        if order["work"] != "prefill":
            start = time.perf_counter()
        written = [chosen[0]]
        for step in range(count - 1 if order["work"] == "prefill" else count):
            feed(where, [(token, len(prompt) + step, stream, True) for stream, token in enumerate(chosen)])
            chosen = [best(where, stream) for stream in range(streams)]
            written.append(chosen[0])
        seconds = time.perf_counter() - start
        lib.llama_free(where)
        return {"seconds": seconds, "tokens": written}

    work.quiet = quiet  # type: ignore[attr-defined]  # the library calls it as long as it runs
    return work


def transformers(folder: str, threads: int) -> Work:
    """transformers in float32, on a folder in the Hugging Face layout."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def work(order: dict[str, object]) -> Answer:
        prompt, count, streams = order["tokens"], order["count"], order.get("streams", 1)
        start = time.perf_counter()
        out = model(torch.tensor([prompt] * streams), use_cache=True, logits_to_keep=1)
        chosen = out.logits[:, -1].argmax(-1)
        if order["work"] != "prefill":
            start = time.perf_counter()
        written = [int(chosen[0])]
        for _ in range(count - 1 if order["work"] == "prefill" else count):
            out = model(chosen[:, None], past_key_values=out.past_key_values, use_cache=True)
            chosen = out.logits[:, -1].argmax(-1)
            written.append(int(chosen[0]))
        return {"seconds": time.perf_counter() - start, "tokens": written}

    return work


PEERS = {"llama.cpp": llama_cpp, "transformers": transformers}


def main() -> None:
    name, path, threads = sys.argv[1:4]
    work = PEERS[name](path, int(threads))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

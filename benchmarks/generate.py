"""Decoding speed: tokens per second of greedy generation, beside `transformers` on the same folder of random weights.

    python benchmarks/generate.py [--peer transformers] [--quick] [--json] [--threads N]

Both write the same number of tokens from the same prompt, turn by turn, so that whatever else the machine does falls on
both; the best run of each counts. The texts must be equal. The roof is the memory bandwidth that a copy of 128 MB
reaches, over the bytes of weights that one token must read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import Measurement, report
from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.families import family_named
from zhixing.generation import Generator, SamplingOptions
from zhixing.models import ops
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer

Write = Callable[[int], list[int]]
FAMILIES = {"llama": {}, "nanochat": {"logit_softcap": 15.0}, "gpt2": {"tied": True, "activation": "gelu_tanh"}}
PROMPT = 32


def make_folder(family: str, folder: Path) -> None:
    """Saves a model of 6 layers, 384 wide, with random weights."""
    fixed = {**family_named(family).start, **FAMILIES[family]}
    config = TransformerConfig(
        vocab_size=8192, width=384, layers=6, heads=6, kv_heads=6, head_dim=64, context=1024,
        mlp_width=1024 if fixed["gated"] else 1536, **fixed,
    )  # fmt: skip
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(folder, model.eval(), None, family)


def bandwidth() -> float:
    """Returns the bytes per second that reading reaches: the best of several sums over 128 MB."""
    block = torch.ones(1 << 25)
    best = min(_seconds(lambda: block.sum()) for _ in range(8))
    return block.nbytes / best


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ours(folder: Path, prompt: list[int]) -> tuple[Write, int]:
    """Returns the writer, and the bytes of weights that it reads per token."""
    ops.select_matmul()
    model = load_folder(folder).model
    generator = Generator(model, None, owned=True)
    tables = 0 if model.head is None else model.embedding.weight.nbytes
    read = sum(parameter.nbytes for parameter in model.parameters()) - tables

    def write(count: int) -> list[int]:
        options = SamplingOptions(temperature=0, max_tokens=count, end_tokens=())
        return generator.generate([prompt], options)[0].tokens

    return write, read


def theirs(folder: Path, prompt: list[int]) -> Write:
    """Returns the peer's writer."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def write(count: int) -> list[int]:
        tokens = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=count,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        return tokens[0, len(prompt) :].tolist()

    return write


def measure(family: str, peer: str | None, count: int, turns: int) -> Measurement:
    """Measures one family."""
    prompt = torch.randint(0, 8192, (PROMPT,), generator=torch.Generator().manual_seed(1)).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / family
        make_folder(family, folder)
        write, weights = ours(folder, prompt)
        other = theirs(folder, prompt) if peer else None
    expected = write(count)  # also warms up
    if other is not None and other(count) != expected:
        sys.exit(f"{family}: the peer wrote another text from the same weights")
    own: list[float] = []
    peers: list[float] = []
    for _ in range(turns):
        own.append(count / _seconds(lambda: write(count)))
        if other is not None:
            peers.append(count / _seconds(lambda: other(count)))
    best, peer_best = max(own), max(peers, default=None)
    return Measurement(
        name=f"greedy decode, {family}, 6 layers of 384", value=best, unit="tokens/s", peer=peer, peer_value=peer_best,
        ratio=best / peer_best if peer_best else None, roof_share=best * weights / bandwidth(), runs=own,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=["transformers"], help="also measure this library, if it is installed")
    parser.add_argument("--quick", action="store_true", help="fewer tokens and turns")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count, turns = (48, 3) if arguments.quick else (256, 7)
    report([measure(family, arguments.peer, count, turns) for family in FAMILIES], arguments.json)


if __name__ == "__main__":
    main()

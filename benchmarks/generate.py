"""Float32 weights: greedy decoding and reading of prompts, by PyTorch and by the core, beside `transformers`.

    python benchmarks/generate.py [--model REF] [--engine torch|native] [--peer transformers] [--quick] [--json]

Without --model, folders of random weights (6 layers, 384 wide) are made; a GGUF file is expanded first. Both write the
same number of tokens from the same prompt, turn by turn, so that whatever else the machine does falls on both; the best
run of each counts. The texts of PyTorch's path must be the peer's; the core adds in another order. Reading is of 512
tokens, with one token written. The roof is the bandwidth that reading 128 MB reaches, over the bytes of weights
that one token must read.
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
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve
from zhixing.core.device import tune_allocator
from zhixing.families import family_named
from zhixing.generation import Generator, SamplingOptions
from zhixing.models import ops
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native.choice import choose

Write = Callable[[int], list[int]]
FAMILIES = {"llama": {}, "nanochat": {"logit_softcap": 15.0}, "gpt2": {"tied": True, "activation": "gelu_tanh"}}
PROMPT, READ = 32, 512
"""Tokens before what is decoded, and tokens of a prompt that is read."""


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


def ours(folder: Path, prompt: list[int], engine: str) -> tuple[Write, int]:
    """Returns the writer, and the bytes of weights that it reads per token."""
    ops.select_matmul()
    model = load_folder(folder).model
    network = choose(model, engine).network
    generator = Generator(model if network is None else network, None, owned=True)
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


def measure(name: str, folder: Path, engine: str, peer: str | None, count: int, turns: int) -> list[Measurement]:
    """Measures decoding and reading of one model folder through one engine."""
    threads = torch.get_num_threads()
    vocabulary = load_folder(folder).model.config.vocab_size
    tokens = torch.randint(0, vocabulary, (READ,), generator=torch.Generator().manual_seed(1)).tolist()
    results = []
    for what, prompt, new in (("decode", tokens[:PROMPT], count), (f"read {READ}", tokens, 1)):
        write, weights = ours(folder, prompt, engine)
        torch.set_num_threads(threads)  # the core has PyTorch keep to one thread; the peer is to have them all
        other = theirs(folder, prompt) if peer else None
        expected = write(new)  # also warms up
        if other is not None and other(new) != expected and engine == "torch":
            sys.exit(f"{name}: the peer wrote another text from the same weights")
        amount = new if what == "decode" else len(prompt)
        own: list[float] = []
        peers: list[float] = []
        for _ in range(turns):
            own.append(amount / _seconds(lambda: write(new)))  # noqa: B023
            if other is not None:
                peers.append(amount / _seconds(lambda: other(new)))  # type: ignore[misc] # noqa: B023
        best, peer_best = max(own), max(peers, default=None)
        roof = best * weights / bandwidth() if what == "decode" else None
        ratio = best / peer_best if peer_best else None
        results.append(Measurement(f"{what}, {name}, {engine}", best, "tokens/s", peer, peer_best, ratio, roof, own))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model reference instead of random weights")
    parser.add_argument("--engine", choices=["torch", "native"], help="only this path; default: both")
    parser.add_argument("--peer", choices=["transformers"], help="also measure this library, if it is installed")
    parser.add_argument("--quick", action="store_true", help="fewer tokens and turns")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tune_allocator()  # as every command does; the peer, in the same process, has the same memory
    count, turns = (48, 3) if arguments.quick else (128, 5)
    rows: list[Measurement] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in [arguments.model] if arguments.model else FAMILIES:
            folder = Path(temporary) / "model"
            if arguments.model:
                opened = open_model(resolve(name), compact=False)
                save_folder(folder, opened.model, opened.tokenizer, opened.family.name)
                label = Path(name).stem
            else:
                make_folder(name, folder)
                label = f"{name}, 6 layers of 384"
            for engine in [arguments.engine] if arguments.engine else ["torch", "native"]:
                rows += measure(label, folder, engine, arguments.peer, count, turns)
    report(rows, arguments.json)


if __name__ == "__main__":
    main()

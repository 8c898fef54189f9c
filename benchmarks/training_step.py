"""One training step of a 10M-parameter decoder: time, rate, and its share of the machine's matrix-product rate.

    python benchmarks/training_step.py [--peer NANOGPT_CHECKOUT] [--quick] [--json]

6 layers, 6 heads, 384 wide, 65 characters, blocks of 256, batches of 8, AdamW, float32. The roof is the float32 rate of
matrix products that this script measures in between, once with PyTorch's default library and once with the fastest that
the machine offers: the best of eight, and what is sustained for as long as a step takes. The work of a step is counted
as 6 operations per matrix weight and token, plus attention in full.
With --peer, nanoGPT's own model takes the same step in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import common
from zhixing.core.device import processor_name, tune_allocator
from zhixing.core.recipe import build_recipe
from zhixing.data.batches import PackedSampler
from zhixing.data.shards import TokenStore
from zhixing.models import ops
from zhixing.models.transformer import Transformer
from zhixing.training.loop import Trainer
from zhixing.training.networks import model_config
from zhixing.training.resolve import resolve

VOCABULARY, LAYERS, HEADS, WIDTH, BLOCK, BATCH = 65, 6, 6, 384, 256, 8


def our_step(optimizer: str, matmul: str) -> tuple[Callable[[], object], float]:
    """Returns a function that does one step, and the operations it takes."""
    values = {
        "data": {"paths": ["unused"]},
        "model": {"depth": LAYERS, "width": WIDTH, "heads": HEADS, "context": BLOCK},
        "optimizer": {"name": optimizer},
        "train": {"steps": 10_000, "batch_size": BATCH, "matmul": matmul},
    }
    recipe = resolve(build_recipe(values))
    ops.set_matmul(recipe.train.matmul)
    model = Transformer(model_config(recipe.model, VOCABULARY))
    model.initialise(torch.Generator().manual_seed(0))
    tokens = torch.randint(0, VOCABULARY, (200_000,), generator=torch.Generator().manual_seed(1)).tolist()
    trainer = Trainer(model, PackedSampler(TokenStore.from_documents([tokens]), BLOCK, BATCH), recipe)
    return trainer.step, model.config.flops_per_token(BLOCK) * BLOCK * BATCH


def nanogpt_step(checkout: Path) -> Callable[[], object]:
    """Returns a function that does one step of nanoGPT's model, as its train.py does it."""
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    config = GPTConfig(
        block_size=BLOCK, vocab_size=VOCABULARY, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, dropout=0.0, bias=False
    )
    model = GPT(config)
    optimizer = model.configure_optimizers(1e-1, 1e-3, (0.9, 0.99), "cpu")
    data = torch.randint(0, VOCABULARY, (BATCH, BLOCK + 1))

    def step() -> None:
        _, loss = model(data[:, :-1].contiguous(), data[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def sustained(duration: float) -> float:
    """Returns the mean rate of square products over a time, in GFLOP/s: what noise leaves of it for a step as well."""
    left, right = torch.randn(ops.MATMUL_SIZE, ops.MATMUL_SIZE), torch.randn(ops.MATMUL_SIZE, ops.MATMUL_SIZE)
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < duration:
        ops.product(left, right)
        count += 1
    return 2 * ops.MATMUL_SIZE**3 * count / spent / 1e9


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the path of a nanoGPT checkout")
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 25")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    tune_allocator()
    runs = 5 if options.quick else 25
    best = ops.select_matmul(training=True)
    kinds = {
        "adamw": our_step("adamw", best),
        "muon": our_step("muon", best),
        "adamw_default_BLAS": our_step("adamw", "torch"),
    }
    peer = nanogpt_step(Path(options.peer)) if options.peer else None
    times: dict[str, list[float]] = {name: [] for name in kinds}
    peer_times: list[float] = []
    roofs: dict[str, list[float]] = {"torch": [], best: []}
    lasting: dict[str, list[float]] = {"torch": [], best: []}
    for run in range(runs + 2):
        for name, (step, _) in kinds.items():
            ops.set_matmul("torch" if "BLAS" in name else best)
            times[name].append(seconds(step))
        if peer is not None:
            peer_times.append(seconds(peer))
        for library, rates in roofs.items():
            ops.set_matmul(library)  # type: ignore[arg-type]
            rates.append(ops.matmul_peak())
            lasting[library].append(sustained(times["adamw"][-1]))
        if run == 1:  # the first two rounds warm up
            for values in (*times.values(), peer_times, *roofs.values(), *lasting.values()):
                values.clear()
    roof = {library: statistics.median(rates) for library, rates in roofs.items()}
    flops = kinds["adamw"][1]
    peer_ms = 1000 * statistics.median(peer_times) if peer_times else None
    rows = [
        common.Measurement(f"gemm.{library}", rate, "GFLOP/s", runs=roofs[library]) for library, rate in roof.items()
    ]
    long = {library: statistics.median(rates) for library, rates in lasting.items()}
    rows += [
        common.Measurement(
            f"gemm.{library}, sustained", rate, "GFLOP/s", roof_share=rate / roof[library], runs=lasting[library]
        )
        for library, rate in long.items()
    ]
    for name, values in times.items():
        library = "torch" if "BLAS" in name else best
        milliseconds = 1000 * statistics.median(values)
        rate = flops / milliseconds / 1e6
        peer_name, ratio = ("nanoGPT", peer_ms / milliseconds) if peer_ms else (None, None)
        rows.append(
            common.Measurement(
                f"step.{name}", milliseconds, "ms", peer_name, peer_ms, ratio, rate / roof[library],
                [1000 * value for value in values],
            )
        )  # fmt: skip
        rows.append(common.Measurement(f"rate.{name}", rate, "GFLOP/s", roof_share=rate / roof["torch"]))
        rows.append(
            common.Measurement(f"rate.{name} of what is sustained", rate, "GFLOP/s", roof_share=rate / long["torch"])
        )
    if not options.json:
        print(
            f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__};"
            f" {flops / 1e9:.0f} GFLOP a step. A step's share is of the library it used, a rate's of PyTorch's default."
        )
    common.report(rows, options.json)


if __name__ == "__main__":
    main()

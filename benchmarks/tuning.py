"""Tuning a decoder on instruction records: real tokens a second and peak memory, beside `transformers` and `peft`.

    python benchmarks/tuning.py RECORDS.json [--peer transformers] [--method lora|full] [--quick] [--json]

The first 64 records, batches of 8, AdamW, float32; LoRA of rank 16 on all linear layers. The peer pads its batches, as
its own trainer does. Steps are taken in turn, so that a busy machine disturbs both alike; memory is taken in processes
of their own. Tokens are real ones: padding does not count.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import common
from zhixing.checkpoints.folder import save_folder
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve
from zhixing.core.device import peak_memory_bytes, processor_name, tune_allocator
from zhixing.core.recipe import build_recipe
from zhixing.data.examples import Example
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import read
from zhixing.models import ops
from zhixing.training.loop import Trainer
from zhixing.training.objectives.chat import ChatTurns
from zhixing.training.resolve import resolve as resolve_recipe
from zhixing.training.tuning import apply_tuning

RECORDS, BATCH, RANK = 64, 8, 16
Step = Callable[[], object]


class Repeated:
    """A sampler that gives the same batches again and again."""

    def __init__(self, batches: Sequence[list[Example]]) -> None:
        self.batches, self.at = batches, 0

    def next(self) -> RawBatch:
        """Returns the next batch."""
        self.at += 1
        return RawBatch(self.batches[(self.at - 1) % len(self.batches)], self.at)

    def state_dict(self) -> dict[str, Any]:
        """Returns where it stands."""
        return {"epoch": 0, "position": self.at}

    def load_state_dict(self, state: Any) -> None:
        """Goes on from there."""
        self.at = state["position"]


def recipe_of(options: argparse.Namespace) -> Any:
    tune: dict[str, Any] = {"method": options.method}
    if options.method == "lora":
        tune |= {"rank": RANK, "bits": options.bits}
    train = {"objective": "chat", "steps": 100_000, "batch_size": BATCH, "checkpoint_activations": options.checkpoint}
    values = {"data": {"paths": [options.records]}, "model": {"start": options.model}, "tune": tune, "train": train,
              "optimizer": {"learning_rate": 1e-4}}  # fmt: skip
    return resolve_recipe(build_recipe(values))


def batches_of(records: str, tokenizer: Any, recipe: Any, context: int) -> list[list[Example]]:
    objective = ChatTurns(recipe)
    objective.attach(tokenizer, context)
    found = []
    for placed in read(records):
        found += objective.encode(placed.record).examples
        if len(found) >= RECORDS:
            break
    return [found[at : at + BATCH] for at in range(0, RECORDS, BATCH)]


def our_step(options: argparse.Namespace) -> tuple[Step, list[list[Example]]]:
    """Returns a function that does one optimizer step, and the batches that it goes through."""
    recipe = recipe_of(options)
    ops.set_matmul(recipe.train.matmul)
    opened = open_model(resolve(options.model), compact=options.bits is not None)
    batches = batches_of(options.records, opened.tokenizer, recipe, opened.transformer.config.context)
    apply_tuning(opened.transformer, recipe, opened.tokenizer)
    objective = ChatTurns(recipe)
    return Trainer(opened.model, Repeated(batches), recipe, objective).step, batches


def their_step(folder: Path, batches: Sequence[list[Example]], method: str) -> Step:
    """Returns a function that does one optimizer step of `transformers` (and `peft`) on padded batches."""
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if method == "lora":
        import peft

        config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config)
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    padded = []
    for batch in batches:
        longest = max(len(example["tokens"]) for example in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        labels, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
        for row, example in enumerate(batch):
            ids = torch.from_numpy(example["tokens"].astype("int64"))
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
            labels[row, : len(ids)] = torch.where(torch.from_numpy(example["wanted"]) > 0, ids, -100)
        padded.append({"input_ids": tokens, "labels": labels, "attention_mask": mask})
    state = {"at": 0}

    def step() -> None:
        loss = model(**padded[state["at"] % len(padded)]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state["at"] += 1

    return step


def published(options: argparse.Namespace, folder: Path) -> Path:
    """Writes the model as `transformers` opens it."""
    opened = open_model(resolve(options.model), compact=False)
    assert opened.family is not None
    save_folder(folder, opened.model, opened.tokenizer, opened.family.name, generation=opened.generation)
    return folder


def memory(options: argparse.Namespace, side: str, folder: Path) -> float:
    """Returns the peak memory in GB of one side's process, through all batches once."""
    words = [sys.executable, __file__, options.records, "--model", options.model, "--method", options.method]
    words += ["--bits", options.bits] if options.bits else []
    words += ["--checkpoint"] if options.checkpoint else []
    done = subprocess.run([*words, "--only", side, "--folder", str(folder)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def only(options: argparse.Namespace) -> None:
    """Goes through all batches once with one side, and prints the peak memory in GB."""
    if options.only == "ours":
        step, batches = our_step(options)
    else:
        recipe = recipe_of(options)
        from zhixing.checkpoints.model_tokenizer import open_tokenizer

        batches = batches_of(options.records, open_tokenizer(options.folder), recipe, 8192)
        step = their_step(Path(options.folder), batches, options.method)
    for _ in batches:
        step()
    print(peak_memory_bytes() / 1e9)


def seconds(work: Step) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="instruction records, such as an Alpaca file")
    parser.add_argument("--model", default="smollm2-135m", help="the model to tune")
    parser.add_argument("--method", default="lora", choices=["lora", "full"])
    parser.add_argument("--bits", choices=["int8", "int4"], help="keep the base packed")
    parser.add_argument("--checkpoint", action="store_true", help="compute activations again instead of keeping them")
    parser.add_argument("--peer", choices=["transformers"], help="compare with transformers and peft")
    parser.add_argument("--quick", action="store_true", help="one pass over the batches instead of three")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tune_allocator()
    if options.only:
        only(options)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = published(options, Path(place) / "model") if options.peer else Path(place)
        step, batches = our_step(options)
        tokens = [sum(len(example["tokens"]) for example in batch) for batch in batches]
        peer = their_step(folder, batches, options.method) if options.peer else None
        rates: list[float] = []
        peer_rates: list[float] = []
        for at in range(-1, len(batches) * (1 if options.quick else 3)):
            mine, theirs = seconds(step), seconds(peer) if peer is not None else None
            if at >= 0:  # the first pair warms up
                count = tokens[(at + 1) % len(tokens)]
                rates.append(count / mine)
                peer_rates += [count / theirs] if theirs is not None else []
        ours, other = statistics.median(rates), statistics.median(peer_rates) if peer_rates else None
        peak, peer_peak = memory(options, "ours", folder), memory(options, "peer", folder) if peer else None
    name = "peft" if options.method == "lora" else "transformers"
    rows = [
        common.Measurement("speed", ours, "tokens/s", name if other else None, other, ours / other if other else None,
                           runs=rates),
        common.Measurement("memory", peak, "GB", name if peer_peak else None, peer_peak,
                           peer_peak / peak if peer_peak else None),
    ]  # fmt: skip
    if not options.json:
        print(
            f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, products by"
            f" {ops.matmul_backend()}; {RECORDS} records of {sum(tokens) / RECORDS:.0f} tokens, {options.method}"
        )
    common.report(rows, options.json)


if __name__ == "__main__":
    main()

"""Opening models: `zhixing models show` from command to end, loading a folder and its memory, beside transformers.

    python benchmarks/models.py [--quick] [--json] [--peer none]

`show` is measured on whatever of the catalogue is in the cache, and on a sparse file of one terabyte, which takes no
room: its time must not depend on the size. A folder of SmolLM2's shape with random weights is loaded in a process of
its own, so that the peak memory is that of loading alone; transformers loads the same folder in the same way, in turn.
Every weight is then touched once: transformers maps the file, and has read nothing before that. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Measurement, report

SHAPE = {
    "vocab_size": 49152, "width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "mlp_width": 1536,
    "context": 8192, "tied": True,
}  # fmt: skip
PROBE = """
import json, sys, time
import torch
def peak():  # not getrusage, which also counts the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
folder = sys.argv[1]
if sys.argv[2] == "transformers":
    from transformers import AutoModelForCausalLM
    before, start = peak(), time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
else:
    from pathlib import Path
    from zhixing.checkpoints.folder import load_folder
    before, start = peak(), time.perf_counter()
    model = load_folder(Path(folder)).model
for parameter in model.parameters():
    parameter.sum()
print(json.dumps({"seconds": time.perf_counter() - start, "memory": peak() - before}))
"""


def show_seconds(ref: str, runs: int) -> list[float]:
    """Returns how long `zhixing models show` takes, from command to end."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        words = [sys.executable, "-m", "zhixing.cli.main", "models", "show", ref]
        subprocess.run(words, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return times


def terabyte(folder: Path) -> None:
    """Writes a model folder whose weights are one sparse terabyte."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    size = 1 << 40
    text = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)


def write_model(folder: Path, layers: int) -> int:
    """Writes a folder of SmolLM2's shape; returns the bytes of its weights."""
    import torch

    from zhixing.checkpoints.folder import save_folder
    from zhixing.families import family_named
    from zhixing.models.config import TransformerConfig
    from zhixing.models.transformer import Transformer

    model = Transformer(TransformerConfig(**{**family_named("llama").fixed, **SHAPE, "layers": layers}))
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(folder, model, None, "llama")
    return sum(parameter.numel() for parameter in model.parameters()) * 4


def load(folder: Path, who: str, runs: int) -> tuple[list[float], int]:
    """Returns the times of loading, and the largest memory that it took."""
    found = []
    for _ in range(runs):
        words = [sys.executable, "-c", PROBE, str(folder), who]
        found.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    return [one["seconds"] for one in found], max(one["memory"] for one in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, and a model of four layers")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--peer", default="transformers", choices=["transformers", "none"])
    options = parser.parse_args()

    from zhixing.checkpoints.catalogue import catalogue

    runs = 2 if options.quick else 5
    measured = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "terabyte").mkdir()
        terabyte(place / "terabyte")
        refs = {entry.name: entry.name for entry in catalogue().values() if entry.cached()}
        for label, ref in {**refs, "terabyte": str(place / "terabyte")}.items():
            times = show_seconds(ref, runs)
            measured.append(Measurement(f"models.show.{label}", min(times), "s", runs=times))
        weights = write_model(place / "model", 4 if options.quick else SHAPE["layers"])
        times, memory = load(place / "model", "zhixing", runs)
        peer = options.peer if options.peer != "none" and importlib.util.find_spec("transformers") else None
        theirs, their_memory = load(place / "model", peer, runs) if peer else ([], 0)
        measured += [
            Measurement(
                "models.load.seconds", min(times), "s", peer, min(theirs) if peer else None,
                min(theirs) / min(times) if peer else None, runs=times,
            ),
            Measurement(
                "models.load.memory_per_weight_byte", memory / weights, "", peer,
                their_memory / weights if peer else None, their_memory / memory if peer else None, runs=[memory],
            ),
        ]  # fmt: skip
    report(measured, options.json)
    slow = [item.name for item in measured if item.name.startswith("models.show") and item.value >= 1]
    if slow:
        sys.exit(f"a second or more: {', '.join(slow)}")


if __name__ == "__main__":
    main()

"""The C++ core under the address, undefined-behaviour and thread sanitizers: `make native-sanitize`."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.native.test_native_seq2seq import VOCABULARY
from tests.native.test_native_seq2seq import network as seq2seq
from tests.native.test_network import CASES as NETWORKS
from tests.native.test_network import network
from zhixing.native import library, weights
from zhixing.native.plan import transformer_plan
from zhixing.native.seq2seq_plan import reader_plan, writer_plan

HERE = Path(__file__).parent
STEP_TOKENS = 24
CASES = {
    "llama": {}, "gemma3": {}, "gpt2": {}, "neox": {}, "relative": {}, "quantised": {"width": 64, "mlp_width": 96},
    "coarse-head": {"width": 64, "mlp_width": 96},
}  # fmt: skip


def write_network(path, case, changes):
    """Writes the plan of a network that goes on from a text."""
    model = network(case if case in NETWORKS else "llama", **changes)
    slots = weights.Packing({"quantised": "q4", "coarse-head": "q8"}.get(case))
    write_plan(path, transformer_plan(model, slots, coarse_head=case == "coarse-head"), 97)


def write_pair(folder, case):
    """Writes the two plans of an encoder-decoder; returns where."""
    model = seq2seq(case)
    reader = reader_plan(model, weights.Packing("q8"))
    paths = [folder / f"{case}-reader", folder / f"{case}-writer"]
    write_plan(paths[0], reader, VOCABULARY)
    write_plan(paths[1], writer_plan(model.decoder, reader, weights.Packing("q8")), VOCABULARY)
    return paths


def write_plan(path, plan, vocabulary):
    """Writes a plan with its weights, as core_check.cpp reads it."""
    matrices, vectors, size = weights.layout(plan)
    memory = np.zeros(size, np.uint8)
    weights.fill(plan, matrices, vectors, memory)
    numbers, factors = plan.encode(matrices, vectors, STEP_TOKENS)
    path.write_bytes(
        struct.pack("<4q", len(numbers), len(factors), size, vocabulary)
        + numbers.tobytes()
        + factors.tobytes()
        + memory.tobytes()
    )


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_nothing_is_found(sanitizer, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    files = []
    for case, changes in CASES.items():
        files.append(tmp_path / case)
        write_network(files[-1], case, changes)
    for case in ("marian", "t5"):
        files += ["+", *write_pair(tmp_path, case)]
    program = tmp_path / "check"
    sources = sorted(str(path) for path in library.SOURCES.glob("*.cpp"))
    build = [
        compiler, "-std=c++17", "-O1", "-g", "-pthread", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-w",
        *sources, str(HERE / "core_check.cpp"), "-o", str(program),
    ]  # fmt: skip
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr:
        pytest.skip(f"this compiler has no {sanitizer} sanitizer")
    assert built.returncode == 0, built.stderr[-2000:]
    rounds = "6" if sanitizer == "thread" else "12"
    done = subprocess.run([program, rounds, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.strip() == "ok"

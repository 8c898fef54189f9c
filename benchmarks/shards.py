"""Building token shards: peak memory and throughput, from text made by repeating and shuffling lines.

    python benchmarks/shards.py [--quick] [--json] [--text FILE]

The build runs in a process of its own, so that its peak memory is that of the build alone. The roof is the tokenizer
encoding the same text from memory, with nothing read, split or written. There is no peer.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOF_CHARACTERS = 1 << 24


def make_text(seeds: list[Path], target: Path, size: int) -> None:
    """Writes `size` bytes: the lines of the seed texts, shuffled anew each time round."""
    lines: list[str] = []
    count = 0
    for path in seeds:
        lines += path.read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True)
        count += path.stat().st_size
        if count > 1 << 24:
            break
    generator = random.Random(0)
    written = 0
    with target.open("w", encoding="utf-8") as file:
        while written < size:
            generator.shuffle(lines)
            for start in range(0, len(lines), 10_000):
                written += file.write("".join(lines[start : start + 10_000]))
                if written >= size:
                    break


def peak_memory() -> int:
    """Returns the most memory this process has had resident, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts the parent process, as it was when it forked
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def build(text: Path, tokenizer_folder: Path, folder: Path) -> None:
    """The measured process: builds the shards and prints what it took."""
    from zhixing.core.progress import set_quiet
    from zhixing.data import build_shards
    from zhixing.tokenization import Tokenizer

    set_quiet(True)
    tokenizer = Tokenizer.load(tokenizer_folder)
    before = peak_memory()
    start, cpu = time.perf_counter(), time.process_time()
    shards = build_shards([text], tokenizer, folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    tokens = len(shards.train) + len(shards.validation)
    print(json.dumps({"s": seconds, "cpu": cpu, "peak": peak_memory(), "before": before, "tokens": tokens}))


def roof(text: Path, tokenizer_folder: Path) -> tuple[float, float]:
    """Returns the bytes a second, and a CPU second, that the tokenizer alone encodes."""
    from zhixing.tokenization import Tokenizer

    tokenizer = Tokenizer.load(tokenizer_folder)
    with text.open(encoding="utf-8") as file:
        sample = file.read(ROOF_CHARACTERS)
    pieces = [sample[start : start + 32_768] for start in range(0, len(sample), 32_768)]
    start, cpu = time.perf_counter(), time.process_time()
    for index in range(0, len(pieces), 32):
        tokenizer.encode_batch(pieces[index : index + 32])
    size = len(sample.encode("utf-8"))
    return size / (time.perf_counter() - start), size / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50 MB instead of 1 GB")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--peer", help="accepted for the sake of one form; this benchmark has no peer")
    parser.add_argument("--text", type=Path, help="the text whose lines are repeated (default: Python's own sources)")
    parser.add_argument("--build", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build(*options.build)
        return

    from zhixing.data import find_sources, standard_library_paths
    from zhixing.tokenization import train_tokenizer

    size = 50_000_000 if options.quick else 1_000_000_000
    seeds = [options.text] if options.text else [source.path for source in find_sources(standard_library_paths())]
    with tempfile.TemporaryDirectory() as temporary:
        text, tokenizer, shards = (Path(temporary, name) for name in ("text.txt", "tokenizer", "shards"))
        make_text(seeds, text, size)
        with text.open(encoding="utf-8") as file:
            train_tokenizer([file.read(1 << 22)], "byte-bpe", 8192).tokenizer.save(tokenizer)
        command = [sys.executable, __file__, "--build", str(text), str(tokenizer), str(shards)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        roof_rate, roof_cpu_rate = roof(text, tokenizer)
        real = text.stat().st_size
    rate, cpu_rate = real / found["s"], real / found["cpu"]
    rows = [
        ("shards.peak_memory", found["peak"] / 1e6, "MB", None),
        ("shards.memory_of_build", (found["peak"] - found["before"]) / 1e6, "MB", None),
        ("shards.throughput", rate / 1e6, "MB/s", rate / roof_rate),
        ("shards.throughput_per_cpu_second", cpu_rate / 1e6, "MB/s", cpu_rate / roof_cpu_rate),
        ("shards.bytes_per_token", real / found["tokens"], "B", None),
    ]
    if not options.json:
        print(f"token shards from {real / 1e6:.0f} MB of text; roof: the tokenizer alone, {roof_rate / 1e6:.1f} MB/s")
    for name, value, unit, share in rows:
        if options.json:
            row = {
                "name": name,
                "value": round(value, 3),
                "unit": unit,
                "peer": None,
                "peer_value": None,
                "ratio": None,
            }
            print(json.dumps({**row, "roof_share": share and round(share, 3), "runs": 1}))
        else:
            print(f"{name:36} {value:10.2f} {unit:5}{f'  {share:.0%} of the roof' if share else ''}")
    if found["peak"] >= 1e9:
        sys.exit("the build took 1 GB of memory or more")


if __name__ == "__main__":
    main()

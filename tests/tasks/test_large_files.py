"""100,000 rows through `classify`: flat memory, and the same bytes however often the process is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORDS = "a wonderful film that nobody forgets boring and awful Anna lives in Paris 知行合一".split()


def write_rows(path: Path, count: int) -> None:
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))
            file.write(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")


def command(models: Path, source: Path, out: Path) -> list[str]:
    words = ["classify", "-m", str(models / "classifier"), "--file", str(source), "--out", str(out)]
    return [sys.executable, "-m", "zhixing.cli.main", "--quiet", *words]


def peak_memory(words: list[str]) -> int:
    """Runs a command to its end; returns its peak memory in KiB."""
    script = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], stdout=subprocess.PIPE, check=True, env=os.environ)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_memory_is_flat_and_kills_change_nothing(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "few.jsonl", 5_000)
    write_rows(tmp_path / "many.jsonl", 100_000)
    small = peak_memory(command(models, tmp_path / "few.jsonl", tmp_path / "few.out.jsonl"))
    started = time.monotonic()
    large = peak_memory(command(models, tmp_path / "many.jsonl", tmp_path / "whole.jsonl.gz"))
    seconds = time.monotonic() - started
    print(f"peak memory {small >> 10} MiB for 5,000 rows, {large >> 10} MiB for 100,000 in {seconds:.0f} s")
    assert large < small + (40 << 10)
    rng, kills = random.Random(), 0
    while not (tmp_path / "killed.jsonl.gz").exists():
        process = subprocess.Popen(
            command(models, tmp_path / "many.jsonl", tmp_path / "killed.jsonl.gz"), env=os.environ
        )
        try:
            process.wait(seconds * (0.35 + 0.15 * rng.random()))  # so that two kills come before the end
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        assert kills < 60
    assert kills > 1
    assert (tmp_path / "killed.jsonl.gz").read_bytes() == (tmp_path / "whole.jsonl.gz").read_bytes()

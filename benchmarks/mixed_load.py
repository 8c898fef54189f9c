"""An engine under mixed load for as long as is asked: memory, answers, blocks that come back.

    python benchmarks/mixed_load.py MODEL [--minutes 60] [--users 12] [--cache 4096] [--json]

Several threads send requests as a crowd of users would: long and short prompts, many that begin alike, greedy and
drawn, streams that are broken off, answers with stop strings, some aborted at once. The cache is small: requests
wait, and are preempted. Every tenth greedy answer is asked for again alone at the end and must be the same. Measured:
the memory of the process after the first tenth of the time and at the end (it is not to grow), answers and tokens per
second, and that every block of the cache is free when all are done.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from pathlib import Path

import zhixing
from common import Measurement, report
from zhixing.generation import SamplingOptions
from zhixing.generation.engine import Engine

WORDS = "time light water stone river music letter garden window number paper silver morning forest".split()
BEGINNINGS = [f"You are assistant {name}. " + "Answer in short and plain words. " * 12 for name in ("A", "B", "C")]


def resident_bytes() -> int:
    """Returns the memory that the process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Crowd:
    """Users, each a thread with a generator of random numbers of its own."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self.engine, self.end = engine, time.monotonic() + seconds
        self.lock = threading.Lock()
        self.answers = self.tokens = self.aborted = 0
        self.kept: list[tuple[str, int, list[int]]] = []
        self.faults: list[str] = []

    def user(self, number: int) -> None:
        """Sends requests until the time is over."""
        draw = random.Random(number)
        try:
            while time.monotonic() < self.end:
                self._one(draw)
        except Exception as error:  # noqa: BLE001  the fault is the benchmark's result
            self.faults.append(f"user {number}: {type(error).__name__}: {error}")

    def _one(self, draw: random.Random) -> None:
        prompt = draw.choice([*BEGINNINGS, ""]) + " ".join(draw.choices(WORDS, k=draw.randint(1, 120)))
        greedy = draw.random() < 0.5
        length = draw.randint(1, 80)
        options = SamplingOptions(
            temperature=0 if greedy else 0.9, top_p=0.95, max_tokens=length, seed=draw.getrandbits(30), end_tokens=(),
            stop=(" the",) if draw.random() < 0.2 else (),
        )  # fmt: skip
        request = self.engine.submit(prompt, options)
        fate = draw.random()
        if fate < 0.1:
            time.sleep(draw.random() * 0.2)
            request.abort()
        elif fate < 0.5:
            for count, _ in enumerate(request):
                if fate < 0.2 and count > 5:
                    request.abort()
        answer = request.generation()
        with self.lock:
            self.answers, self.tokens = self.answers + 1, self.tokens + len(answer.tokens)
            self.aborted += fate < 0.2
            if greedy and fate >= 0.2 and not options.stop and draw.random() < 0.1 and len(self.kept) < 200:
                self.kept.append((prompt, length, answer.tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="any reference")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--users", type=int, default=12, help="users at a time")
    parser.add_argument("--cache", type=int, default=4096, help="tokens that the cache holds")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    model = zhixing.load(Path(arguments.model) if Path(arguments.model).exists() else arguments.model)
    engine = Engine(model.network, model.tokenizer, owned=True, cache_tokens=arguments.cache)
    seconds = 60 * arguments.minutes
    crowd = Crowd(engine, seconds)
    users = [threading.Thread(target=crowd.user, args=(number,)) for number in range(arguments.users)]
    started = time.monotonic()
    for user in users:
        user.start()
    samples: list[int] = []
    while any(user.is_alive() for user in users):
        time.sleep(min(5.0, seconds / 50))
        samples.append(resident_bytes())
    spent = time.monotonic() - started
    load = engine.load()
    settled, last = max(samples[: max(1, len(samples) // 10)]), max(samples[-max(1, len(samples) // 10) :])
    different = 0
    for prompt, length, tokens in crowd.kept:
        alone = engine.submit(prompt, SamplingOptions(temperature=0, max_tokens=length, end_tokens=()))
        different += alone.generation().tokens != tokens
    rows = [
        Measurement("memory after a tenth of the time", settled / 1e6, "MB"),
        Measurement("memory at the end", last / 1e6, "MB"),
        Measurement("answers", crowd.answers, ""),
        Measurement("of them broken off", crowd.aborted, ""),
        Measurement("tokens per second", crowd.tokens / spent, "tokens/s"),
        Measurement("preempted", load.preempted, ""),
        Measurement("blocks that did not come back", load.blocks - load.free, ""),
        Measurement("answers compared with the same alone", len(crowd.kept), ""),
        Measurement("of them different", different, ""),
    ]
    report(rows, arguments.json)
    if crowd.faults or different or load.free != load.blocks or last > settled * 1.02 + 8e6:
        sys.exit("\n".join([*crowd.faults, "memory grew, blocks were lost, or answers differ: see above"]))


if __name__ == "__main__":
    main()

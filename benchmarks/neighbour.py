"""A busy neighbour: what is left of decoding when another program takes one processor.

    python benchmarks/neighbour.py [--model smollm2-135m] [--peer llama.cpp] [--python PYTHON] [--runs 5] [--json]

A process that computes without pause is bound to one processor while every other run is measured; the share of the
undisturbed rate that is left is shown. Two threads on two processors, one of them shared, can keep three quarters.
A program whose threads wait for each other by spinning keeps much less: the thread that is waited for gets no time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from common import Measurement, report
from decode import PROMPT, TEXT, Ours, Peer

WRITTEN = 64


def neighbour(processor: int) -> subprocess.Popen[bytes]:
    """Starts a process that keeps one processor busy."""
    code = f"import os\nos.sched_setaffinity(0, {{{processor}}})\nwhile True: pass"
    return subprocess.Popen([sys.executable, "-c", code])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--peer", action="append", default=[], choices=["llama.cpp"])
    parser.add_argument("--python", default=sys.executable, help="the Python that has llama-cpp-python")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    os.environ["ZHIXING_THREADS"] = str(arguments.threads)
    from zhixing.checkpoints.references import resolve

    path = resolve(arguments.model)
    ours = Ours(path, None, None)
    contestants: dict[str, Ours | Peer] = {"zhixing": ours}
    for name in arguments.peer:
        contestants[name] = Peer(arguments.python, name, path, arguments.threads)
    assert ours.model.tokenizer is not None
    order = {"work": "decode", "tokens": ours.model.tokenizer.encode(TEXT)[:PROMPT], "count": WRITTEN}
    rates: dict[tuple[str, bool], list[float]] = {}
    for turn in range(arguments.runs + 1):  # the first one warms up
        for busy in (False, True):
            beside = neighbour(min(os.sched_getaffinity(0))) if busy else None
            time.sleep(0.2)
            for name, contestant in contestants.items():
                rate = WRITTEN / float(contestant(order)["seconds"])  # type: ignore[arg-type]
                if turn:
                    rates.setdefault((name, busy), []).append(rate)
            if beside is not None:
                beside.kill()
                beside.wait()
    rows = []
    for name in contestants:
        alone, disturbed = (statistics.median(rates[name, busy]) for busy in (False, True))
        label = f"{name} beside a busy neighbour"
        rows.append(
            Measurement(label, disturbed, "tokens/s", "alone", alone, disturbed / alone, runs=rates[name, True])
        )
    for contestant in contestants.values():
        contestant.close()
    report(rows, arguments.json)


if __name__ == "__main__":
    main()

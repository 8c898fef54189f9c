"""Writing on a CPU from the same model file: Zhixing's native core beside llama.cpp and transformers.

    python benchmarks/decode.py [--model REF ...] [--peer llama.cpp] [--peer transformers] [--python PYTHON]
        [--rows decode,behind,prefill,streams,prefix,start] [--kv-cache q8] [--head q4] [--kernels avx2] [--threads 2]
        [--runs 5] [--json]

Without --model, the two GGUF files of the catalogue are measured. A peer runs in a process of its own, in the Python
that --python names (transformers: in this one), and gets the model expanded to float32 if it is transformers. All take
turns, so that whatever else the machine does falls on all; the median of the runs counts. Everyone writes the
likeliest tokens behind the same prompt; how many of them agree is shown. llama.cpp is called through its C interface,
without text or sampling, Zhixing through its engine, as a user's program calls it.

The roof of decoding is memory: the bytes of packed weights that one token reads, over the bandwidth that reading
256 MiB with all threads reaches, measured between the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from common import Measurement, report

CATALOGUE = ("smollm2-135m", "gemma3-270m")
PROMPT, PREFILL, WRITTEN, STREAM_WRITTEN, PREFIX = 32, 512, 128, 32, 1000
"""Tokens: of a prompt before decoding, of a prompt that is read, written by one stream, by each of several; of a
prefix that is read once, and of what is read before decoding behind it."""

TEXT = (
    "There was nothing so very remarkable in that; nor did Alice think it so very much out of the way to hear the"
    " Rabbit say to itself, when she thought it over afterwards, it occurred to her that she ought to have wondered at"
    " this, but at the time it all seemed quite natural; but when the Rabbit actually took a watch out of its"
    " waistcoat-pocket, and looked at it, and then hurried on, Alice started to her feet, for it flashed across her"
    " mind that she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, and"
    " burning with curiosity, she ran across the field after it, and was just in time to see it pop down a large"
    " rabbit-hole under the hedge. "
)
"""What the prompts are cut from: Carroll 1865."""

STREAMS = (1, 2, 4, 8, 16, 32)
ROWS = ("decode", "behind", "prefill", "streams", "prefix", "start")
Order = dict[str, object]


@dataclass
class Series:
    """One thing that is measured: the order, how many tokens it is, and everyone's runs in seconds."""

    name: str
    order: Order
    amount: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, list[int]] = field(default_factory=dict)


class Peer:
    """A peer in its own process; see `decode_peers.py`."""

    def __init__(self, python: str, name: str, path: Path, threads: int) -> None:
        script = Path(__file__).with_name("decode_peers.py")
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [python, str(script), name, str(path), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the peer ended before it answered; its message is above")
        return json.loads(line)

    def __call__(self, order: Order) -> dict[str, object]:
        """Has an order done; returns what the peer answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Ours:
    """Zhixing on one file, as a user's program calls it."""

    def __init__(self, path: Path, kv_cache: str | None, head: str | None) -> None:
        import zhixing
        from zhixing.generation.engine import Engine
        from zhixing.native.network import NativeNetwork

        self.model = zhixing.load(path, engine="native", kv_cache=kv_cache, head=head)
        network = self.model.network
        assert isinstance(network, NativeNetwork)
        self.engine = Engine(network, None)
        self.read_per_token = network.runtime.weight_bytes - network.runtime.program.spared

    def __call__(self, order: Order) -> dict[str, object]:
        """Does an order, as `decode_peers.py` describes it."""
        from zhixing.generation import SamplingOptions

        prompt, count, streams = list(order["tokens"]), int(order["count"]), int(order.get("streams", 1))  # type: ignore[call-overload]
        # The token that reading the prompt gives is not decoded: one more is written, and the reading's time left out.
        new = count if order["work"] == "prefill" else count + 1
        options = SamplingOptions(temperature=0, max_tokens=new, end_tokens=())
        self.engine.forget()
        requests = [self.engine.submit(prompt, options) for _ in range(streams)]
        while streams > 1 and not all(request.answer.progress.tokens for request in requests):
            time.sleep(0.0005)
        start, before = time.perf_counter(), sum(len(request.answer.progress.tokens) for request in requests)
        answers = [request.generation() for request in requests]
        if streams > 1:  # while all of them write
            seconds = (time.perf_counter() - start) * count * streams / (new * streams - before)
        else:
            seconds = answers[0].prompt_seconds if order["work"] == "prefill" else answers[0].seconds
        return {"seconds": seconds, "tokens": answers[0].tokens}

    def close(self) -> None:
        """Nothing is to be closed."""


def orders(rows: list[str], tokens: list[int], streams: list[int]) -> list[Series]:
    """Returns what is measured, with prompts cut from these tokens."""
    prompt = tokens[:PROMPT]
    series = []
    if "decode" in rows:
        series.append(Series("decode", {"work": "decode", "tokens": prompt, "count": WRITTEN}, WRITTEN))
    if "behind" in rows:
        order: Order = {"work": "decode", "tokens": (tokens * 2)[:PREFIX], "count": WRITTEN}
        series.append(Series(f"decode behind {PREFIX}", order, WRITTEN))
    if "prefill" in rows:
        series.append(Series(f"prefill {PREFILL}", {"work": "prefill", "tokens": tokens, "count": 1}, PREFILL))
    for count in streams if "streams" in rows else ():
        order = {"work": "streams", "tokens": prompt, "count": STREAM_WRITTEN, "streams": count}
        series.append(Series(f"{count} together", order, STREAM_WRITTEN * count))
    return series


def prefix_seconds(ours: Ours, tokens: list[int], turn: int) -> tuple[float, float]:
    """Returns the time to the first token behind 1,000 tokens and a question, never read before, and read before."""
    from zhixing.generation import SamplingOptions

    prefix = [tokens[turn], *(tokens * 2)[: PREFIX - 1]]
    options = SamplingOptions(temperature=0, max_tokens=1)
    seconds = []
    for question in (tokens[5:21], tokens[40:56]):
        start = time.perf_counter()
        ours.model.engine.submit(prefix + question, options).generation()
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def start_seconds(path: Path) -> float:
    """Returns the time from the command to its first token: a command that writes one."""
    command = [sys.executable, "-m", "zhixing.cli.main", "generate", str(path), "Once upon a time", "--max-tokens", "1"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def expanded(path: Path, folder: Path) -> Path:
    """Writes a GGUF file's weights as a float32 model folder, for transformers."""
    from zhixing.checkpoints.folder import save_folder
    from zhixing.checkpoints.opening import open_model

    opened = open_model(path, compact=False)
    save_folder(folder, opened.model, opened.tokenizer, opened.family.name)
    return folder


def agreement(texts: dict[str, list[int]], peer: str) -> str:
    """Says how many leading tokens both wrote alike."""
    mine, theirs = texts["zhixing"], texts[peer]
    length = min(len(mine), len(theirs))
    return f"{next((i for i in range(length) if mine[i] != theirs[i]), length)} of {length} tokens alike"


def measure(reference: str, arguments: argparse.Namespace, temporary: Path) -> list[Measurement]:
    """Measures one model."""
    from zhixing.checkpoints.references import resolve
    from zhixing.native.measure import read_bandwidth

    path = resolve(reference)
    ours = Ours(path, arguments.kv_cache, arguments.head)
    contestants: dict[str, Ours | Peer] = {"zhixing": ours}
    for peer in arguments.peer:
        where = expanded(path, temporary / path.stem) if peer == "transformers" else path
        contestants[peer] = Peer(
            sys.executable if peer == "transformers" else arguments.python, peer, where, arguments.threads
        )
    assert ours.model.tokenizer is not None
    tokens = ours.model.tokenizer.encode(TEXT * 5)[:PREFILL]
    series = orders(arguments.rows, tokens, arguments.streams)
    roofs, starts, firsts = [], [], []
    for turn in range(arguments.runs + 1):  # the first one warms up
        for item in series:
            for name, contestant in contestants.items():
                if name == "transformers" and item.order["work"] == "streams" and turn > 1:
                    continue  # it takes a minute, and nothing is claimed of it
                answer = contestant(item.order)
                item.texts[name] = answer["tokens"]  # type: ignore[assignment]
                if turn:
                    item.seconds.setdefault(name, []).append(float(answer["seconds"]))  # type: ignore[arg-type]
        roofs.append(read_bandwidth())
        if "prefix" in arguments.rows:
            firsts.append(prefix_seconds(ours, tokens, turn))
        if "start" in arguments.rows:
            starts.append(start_seconds(path))
    for contestant in contestants.values():
        contestant.close()
    results = []
    roof = statistics.median(roofs) / ours.read_per_token
    for item in series:
        rates = {name: [item.amount / one for one in seconds] for name, seconds in item.seconds.items()}
        value = statistics.median(rates["zhixing"])
        share = value / roof if item.name == "decode" else None
        label = f"{item.name}, {path.stem}"
        for peer in arguments.peer:
            other = statistics.median(rates[peer])
            results.append(Measurement(label, value, "tokens/s", peer, other, value / other, share, rates["zhixing"]))
            if item.name == "decode":
                print(f"{label}: {agreement(item.texts, peer)} with {peer}", file=sys.stderr)
        if not arguments.peer:
            results.append(Measurement(label, value, "tokens/s", roof_share=share, runs=rates["zhixing"]))
    if firsts:
        cold, known = (statistics.median(part) for part in zip(*firsts[1:], strict=True))
        label = f"first token behind {PREFIX} known tokens, {path.stem}"
        results.append(Measurement(label, known * 1000, "ms", "unknown", cold * 1000, cold / known))
    if starts:
        first = Measurement(f"command to first token, {path.stem}", statistics.median(starts[1:]), "s", runs=starts[1:])
        results.append(first)
    results.append(Measurement("memory read", statistics.median(roofs) / 1e9, "GB/s", runs=[r / 1e9 for r in roofs]))
    return results


def chosen(text: str) -> list[str]:
    """Reads the names of --rows."""
    names = text.split(",")
    if unknown := set(names) - set(ROWS):
        raise argparse.ArgumentTypeError(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="a model reference or .gguf file; may be repeated")
    parser.add_argument("--peer", action="append", default=[], choices=["llama.cpp", "transformers"])
    parser.add_argument("--python", default=sys.executable, help="the Python that has llama-cpp-python")
    parser.add_argument("--rows", type=chosen, default=list(ROWS), help=f"what to measure, of {','.join(ROWS)}")
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=list(STREAMS))
    parser.add_argument("--kv-cache", choices=["f16", "q8", "f32"], help="how Zhixing keeps keys and values")
    parser.add_argument("--head", choices=["q4"], help="Zhixing finds tokens by way of a head in 4 bits")
    parser.add_argument("--kernels", default="auto", help="force kernels: avx512, avx2 or scalar")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    os.environ["ZHIXING_THREADS"], os.environ["ZHIXING_KERNELS"] = str(arguments.threads), arguments.kernels
    import torch

    torch.set_num_threads(arguments.threads)
    results: list[Measurement] = []
    with tempfile.TemporaryDirectory() as temporary:
        for reference in arguments.model or CATALOGUE:
            results += measure(reference, arguments, Path(temporary))
    report(results, arguments.json)


if __name__ == "__main__":
    main()

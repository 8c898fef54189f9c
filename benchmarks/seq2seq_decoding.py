"""Translating on a CPU by beam search: Zhixing's native core beside CTranslate2, on the same weights and sources.

    python benchmarks/seq2seq_decoding.py [--model FOLDER --source val.en.gz [--target val.de.gz]]
        [--peer ctranslate2 --python PYTHON] [--batch 16,32,64,128] [--sentences 500] [--threads 2] [--runs 5] [--quick]
        [--json]

Without --model, a model of the recipe multi30k-transformer (Marian's layout, 3 + 3 layers, 256 wide, 6,000 tokens) is
made with random weights; where its answers would end means nothing, so that everybody writes 15 tokens behind every
source. Everybody gets the same token ids, sorted by length, and searches with 4 beams. CTranslate2 runs in processes of
its own, in the Python that --python names, which needs `transformers`, too: it converts the folder, and is measured in
int8 and in float32. Zhixing is measured in float32 and with matrices quantised to 8 bits. Each is measured with every
size of batch, and its best one counts. All take turns; the median of the runs counts. Beside the speed stand the share
of answers that are, token by token, those of PyTorch in float32, and BLEU where there are references.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import Measurement, Peer, report

BEAMS, WRITTEN = 4, 15
VOCABULARY, END, START = 6000, 5998, 5999
Ids = list[list[int]]
Work = Callable[[Ids, int], tuple[float, Ids]]
"""Translates sources in batches of a size; returns the seconds and the answers."""


@dataclass
class Side:
    """Who translates, and what came of it."""

    work: Work
    seconds: dict[int, list[float]] = field(default_factory=dict)
    answers: Ids = field(default_factory=list)

    def best(self) -> tuple[int, list[float]]:
        """Returns the fastest size of batch, and its seconds."""
        return min(self.seconds.items(), key=lambda item: statistics.median(item[1]))


def random_folder(path: Path) -> None:
    """Writes a model of the recipe's sizes, with random weights."""
    import torch

    from zhixing.checkpoints.seq2seq_folder import save_seq2seq
    from zhixing.core.recipe import build_recipe
    from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder
    from zhixing.training.kinds.seq2seq import transformer_config
    from zhixing.training.resolve import resolve

    recipe = resolve(build_recipe({
        "data": {"paths": ["pairs"]}, "train": {"objective": "seq2seq", "steps": 1},
        "model": {"depth": 3, "width": 256, "heads": 4, "mlp_width": 512, "context": 128},
    }))  # fmt: skip
    model = TransformerEncoderDecoder(transformer_config(recipe.model, VOCABULARY, START))
    model.initialise(torch.Generator().manual_seed(0))
    save_seq2seq(path, model, None, "marian", generation={"eos_token_id": END, "pad_token_id": START})


def drawn_sources(count: int) -> Ids:
    """Draws sources as unequal in length as captions are."""
    draw = random.Random(0)
    return [[*(draw.randrange(END) for _ in range(max(3, round(draw.gauss(14, 5))))), END] for _ in range(count)]


def lines_of(path: Path, count: int) -> list[str]:
    """Reads the first lines of a text file, which may be compressed."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line, _ in zip(file, range(count), strict=False)]


def ours(folder: Path, engine: str, quantize: str | None, length: int | None) -> Work:
    """Zhixing, as a program calls it."""
    from zhixing.generation import Generator, SamplingOptions, options_from_config
    from zhixing.generation.opening import open_seq2seq

    opened = open_seq2seq(folder, engine=engine, quantize=quantize)
    known, _ = options_from_config(opened.generation, str(folder))
    options: SamplingOptions = known.replace(temperature=0.0, num_beams=BEAMS)
    if length is not None:
        options = options.replace(end_tokens=(), max_tokens=length)
    generator = Generator(opened.model, None)

    def work(sources: Ids, size: int) -> tuple[float, Ids]:
        start, answers = time.perf_counter(), []
        for first in range(0, len(sources), size):
            answers += [answer.tokens for answer in generator.generate(sources[first : first + size], options)]
        return time.perf_counter() - start, answers

    return work


def theirs(peer: Peer, settings: dict[str, object]) -> Work:
    """CTranslate2."""

    def work(sources: Ids, size: int) -> tuple[float, Ids]:
        answer = peer({"sources": sources, "batch": size, "beams": BEAMS, **settings})
        return float(answer["seconds"]), answer["answers"]

    return work


def bleu(folder: Path, answers: Ids, wanted: Sequence[str]) -> float:
    """Returns BLEU of answers, end tokens left out."""
    from zhixing.checkpoints.seq2seq_folder import load_seq2seq
    from zhixing.evaluation.metrics.registry import score

    tokenizers = load_seq2seq(folder).tokenizers
    assert tokenizers is not None
    texts = [tokenizers.target.decode(answer, skip_special=True).strip() for answer in answers]
    return score("bleu", texts, [[one] for one in wanted])[0].value


def stripped(answer: list[int], end: int | None) -> list[int]:
    """Returns an answer without its end token."""
    return answer[:-1] if answer and answer[-1] == end else answer


def measure(arguments: argparse.Namespace, folder: Path) -> list[Measurement]:
    """Runs the comparison."""
    from zhixing.checkpoints.seq2seq_folder import load_seq2seq

    opened = load_seq2seq(folder)
    trained = arguments.model is not None
    wanted: list[str] = []
    if arguments.source is not None:
        assert opened.tokenizers is not None
        sources = [opened.tokenizers.encode_source(one) for one in lines_of(arguments.source, arguments.sentences)]
        wanted = lines_of(arguments.target, arguments.sentences) if arguments.target is not None else []
    else:
        sources = drawn_sources(arguments.sentences)
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    ordered = [sources[index] for index in order]
    length = None if trained else WRITTEN
    end = opened.generation.get("eos_token_id")
    settings = {
        "penalty": opened.generation.get("length_penalty", 1.0), "length": length,
        "most": opened.generation.get("max_new_tokens", opened.model.config.context - 1),
    }  # fmt: skip
    exact = ours(folder, "torch", None, length)(ordered, 32)[1]
    sides = {
        "float32": Side(ours(folder, "native", None, length)), "q8": Side(ours(folder, "native", "q8", length)),
    }  # fmt: skip
    peers: list[Peer] = []
    with tempfile.TemporaryDirectory() as place:
        for name in arguments.peer:
            for compute in ("int8", "float32"):
                call = [str(folder), f"{place}/converted", compute, str(arguments.threads)]
                peers.append(Peer(arguments.python, "seq2seq_peers.py", call, arguments.threads))
                sides[f"{name}:{compute}"] = Side(theirs(peers[-1], settings))
        for turn in range(arguments.runs + 1):  # the first one warms up
            for side in sides.values():
                for size in arguments.batch:
                    seconds, side.answers = side.work(ordered, size)
                    if turn:
                        side.seconds.setdefault(size, []).append(seconds)
    for peer in peers:
        peer.close()
    texts = {name: [stripped(answer, end) for answer in side.answers] for name, side in sides.items()}
    texts["torch float32"] = [stripped(answer, end) for answer in exact]
    label = f"{len(sources)} sentences, {BEAMS} beams"
    found = []
    for name in ("float32", "q8"):
        size, runs = sides[name].best()
        rates = [len(sources) / one for one in runs]
        value, tokens = statistics.median(rates), sum(map(len, texts[name])) / len(sources)
        rivals = [rival for rival in sides if ":" in rival]
        for rival in rivals or [None]:
            other = None if rival is None else len(sources) / statistics.median(sides[rival].best()[1])
            ratio = None if other is None else value / other
            found.append(
                Measurement(f"{label}, {name}, {size} at once", value, "sentences/s", rival, other, ratio, runs=rates)
            )
        found.append(Measurement(f"{label}, {name}, {size} at once", value * tokens, "target tokens/s"))
    for name in sides:
        equal = sum(a == b for a, b in zip(texts[name], texts["torch float32"], strict=True)) / len(sources)
        found.append(Measurement(f"equal to PyTorch, {name}", 100 * equal, "% of answers"))
        if ":" in name:
            found.append(Measurement(f"best size of batch, {name}", sides[name].best()[0], "sentences"))
    if wanted:
        references = [wanted[index] for index in order]
        found += [Measurement(f"translation, {name}", bleu(folder, texts[name], references), "BLEU") for name in texts]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder in Marian's layout; without it, random weights")
    parser.add_argument("--source", type=Path, help="texts to translate, one a line")
    parser.add_argument("--target", type=Path, help="their translations, for BLEU")
    parser.add_argument("--peer", action="append", default=[], choices=["ctranslate2"])
    parser.add_argument("--python", default=sys.executable, help="the Python that has the peer")
    parser.add_argument("--batch", default="16,32,64,128", help="sources that are translated at once")
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few sentences, one run")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    arguments.batch = [int(size) for size in arguments.batch.split(",")]
    if (arguments.model is None) != (arguments.source is None):
        sys.exit("--model and --source go together: a trained model needs texts, and texts a trained model")
    if arguments.quick:
        arguments.sentences, arguments.runs, arguments.batch = 64, 1, arguments.batch[:1]
    os.environ["ZHIXING_THREADS"] = str(arguments.threads)
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.model is not None:
        report(measure(arguments, arguments.model), arguments.json)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        random_folder(folder)
        report(measure(arguments, folder), arguments.json)


if __name__ == "__main__":
    main()

"""Training an encoder-decoder beside a plain `transformers` loop: real tokens per second on the same records.

    python benchmarks/seq2seq_training.py [--source train.en --target train.de] [--steps 12] [--threads 2] [--json]

Both train a Transformer of the same sizes (Marian's layout, 3 + 3 layers, 256 wide) with AdamW, label smoothing 0.1 and
dropout 0.1 on the same pairs, about as many real tokens a step. The peer is the loop that one writes first: shuffled
batches of equal size, padded to their longest, backward pass, optimizer step. The two take turns, several times.
Without files, pairs with the lengths of short captions are drawn. Real tokens are those of sources and targets, end
tokens included, padding not.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common import Measurement, report
from zhixing.core.device import tune_allocator
from zhixing.core.recipe import Recipe, build_recipe
from zhixing.data.examples import ExampleStore, ExampleWriter
from zhixing.data.length_batches import LengthSampler
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.kinds.seq2seq import transformer_config
from zhixing.training.loop import Trainer
from zhixing.training.objectives.seq2seq import Seq2Seq
from zhixing.training.resolve import resolve

VOCABULARY, BATCH_TOKENS, CONTEXT = 6000, 4096, 128
Pairs = list[tuple[list[int], list[int]]]
END, PAD = VOCABULARY - 2, VOCABULARY - 1


def read_pairs(source: Path, target: Path, most: int) -> Pairs:
    """Reads parallel files and encodes them with one tokenizer that is learned from both."""
    sides = [file.read_text(encoding="utf-8").splitlines()[:most] for file in (source, target)]
    tokenizer = train_tokenizer([line for side in sides for line in side], vocab_size=VOCABULARY - 2).tokenizer
    encoded = [tokenizer.encode_batch(side) for side in sides]
    return [([*one, END], [*other, END]) for one, other in zip(*encoded, strict=True)]


def drawn_pairs(count: int) -> Pairs:
    """Draws pairs of about 15 tokens a side, as unequal in length as captions are."""
    draw = random.Random(0)
    pairs = []
    for _ in range(count):
        length = max(3, round(draw.gauss(14, 5)))
        other = max(3, round(length * draw.gauss(1.05, 0.2)))
        pairs.append(tuple([*(draw.randrange(END) for _ in range(size)), END] for size in (length, other)))
    return pairs  # type: ignore[return-value]


def our_recipe(threads: int) -> Recipe:
    """Returns the resolved recipe of the run."""
    return resolve(build_recipe({
        "data": {"paths": ["pairs"]},
        "model": {"depth": 3, "width": 256, "heads": 4, "mlp_width": 512, "context": CONTEXT, "dropout": 0.1},
        "task": {"label_smoothing": 0.1}, "optimizer": {"name": "adamw", "learning_rate": 1e-4},
        "train": {"objective": "seq2seq", "steps": 1000, "batch_tokens": BATCH_TOKENS, "threads": threads},
    }))  # fmt: skip


def ours(pairs: Pairs, folder: Path, recipe: Recipe) -> Iterator[int]:
    """Trains; yields the real tokens of each step."""
    with ExampleWriter(folder / "train", Seq2Seq.fields) as writer:
        for number, (source, target) in enumerate(pairs):
            example = {"source": np.array(source), "target": np.array(target), "text": np.zeros(0, np.uint8)}
            writer.add(example, len(source) + len(target), number)
    config = transformer_config(recipe.model, VOCABULARY, PAD)
    model = TransformerEncoderDecoder(config)
    model.initialise(torch.Generator().manual_seed(0))
    sampler = LengthSampler(ExampleStore(folder / "train"), 0, batch_tokens=BATCH_TOKENS)
    trainer = Trainer(model, sampler, recipe, Seq2Seq(recipe))
    while True:
        yield trainer.step().tokens


def theirs(pairs: Pairs, recipe: Recipe) -> Iterator[int]:
    """Trains MarianMT of the same sizes in a plain loop; yields the real tokens of each step."""
    from transformers import MarianConfig, MarianMTModel

    wanted = dataclasses.asdict(transformer_config(recipe.model, VOCABULARY, PAD).encoder)
    layers, heads, hidden = wanted["layers"], wanted["heads"], wanted["mlp_width"]
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=wanted["width"], encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=hidden, decoder_ffn_dim=hidden,
        max_position_embeddings=CONTEXT, activation_function="relu", dropout=0.1, scale_embedding=True,
        pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MarianMTModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    size = max(1, round(BATCH_TOKENS / statistics.mean(len(s) + len(t) for s, t in pairs)))
    draw = random.Random(0)
    while True:
        order = draw.sample(range(len(pairs)), len(pairs))
        for begin in range(0, len(order) - size + 1, size):
            chosen = [pairs[index] for index in order[begin : begin + size]]
            sources, mask = _padded([source for source, _ in chosen], PAD)
            targets, _ = _padded([target for _, target in chosen], -100)
            starts = torch.full((len(chosen), 1), PAD)
            inputs = torch.cat((starts, targets[:, :-1].masked_fill(targets[:, :-1] == -100, PAD)), dim=1)
            logits = model(input_ids=sources, attention_mask=mask, decoder_input_ids=inputs, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield sum(len(source) + len(target) for source, target in chosen)


def _padded(rows: list[list[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
    return tokens, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def rate(work: Iterator[int], steps: int, clock: Callable[[], float]) -> float:
    """Returns real tokens per second over so many steps."""
    started, tokens = clock(), 0
    for _ in range(steps):
        tokens += next(work)
    return tokens / (clock() - started)


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a text file, one sentence a line")
    parser.add_argument("--target", type=Path, help="its translation, line by line")
    parser.add_argument("--pairs", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=12, help="in each turn")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="count processor time, for a machine that is shared")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(options.threads)
    files = (options.source, options.target)
    pairs = read_pairs(*files, options.pairs) if all(files) else drawn_pairs(options.pairs)
    recipe = our_recipe(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as place:
        works = {"ours": ours(pairs, Path(place), recipe), "theirs": theirs(pairs, recipe)}
        found: dict[str, list[float]] = {name: [] for name in works}
        for work in works.values():
            rate(work, 2, clock)  # warm
        for _ in range(options.turns):
            for name, work in works.items():
                found[name].append(rate(work, options.steps, clock))
    best = {name: statistics.median(values) for name, values in found.items()}
    ratio = statistics.median(a / b for a, b in zip(found["ours"], found["theirs"], strict=True))
    unit = "real tokens/s" + (" of processor time" if options.cpu_time else "")
    report(
        [Measurement("training an encoder-decoder", best["ours"], unit, "transformers", best["theirs"], ratio,
                     runs=found["ours"])],
        options.json,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training of an encoder: records a second, beside a plain loop with `transformers`, on the same records.

    python benchmarks/encoder_training.py [RECORDS] [--steps 12] [--rounds 3] [--json]

The network is MiniLM's size (6 layers, 384 wide, random weights), classification, float32, AdamW, batches of 32. The
peer pads each batch of shuffled records to its longest (the usual `DataLoader` with a padding collator); here batches
hold records of similar length, and nothing is computed for padding. Without RECORDS (any labelled file) the texts are
made: 3,000 with lengths as reviews have them, 5 to 250 tokens. Both take turns, and every round is timed in wall-clock
and in processor time: on a busy machine only the second compares.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import common
from zhixing.core.device import tune_allocator
from zhixing.core.recipe import build_recipe
from zhixing.data import shapes
from zhixing.data.examples import ExampleStore, ExampleWriter
from zhixing.data.length_batches import LengthSampler
from zhixing.data.shapes import Labelled
from zhixing.models import ops
from zhixing.tokenization.framing import ENCODER_TOKENS, framed_as_bert
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.kinds.encoder import EncoderMaker
from zhixing.training.loop import Trainer
from zhixing.training.objectives.classification import Classification
from zhixing.training.resolve import resolve

LAYERS, WIDTH, HEADS, VOCABULARY, BATCH, CONTEXT = 6, 384, 12, 8192, 32, 256


def records(path: str | None) -> list[Labelled]:
    """Returns the records of a file, or made ones."""
    if path is not None:
        return [placed.record for placed in shapes.read(path, shape="labelled")]  # type: ignore[misc]
    generator = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bcdfglmnprst" for b in "aeiou" for c in ("n", "r", "st", "lo", "mi", "ka")]
    lengths = (min(230, max(3, int(generator.lognormvariate(3.4, 0.8)))) for _ in range(3000))
    return [Labelled(" ".join(generator.choices(words, k=length)), generator.choice("ab")) for length in lengths]


def ours(found: list[Labelled], folder: Path) -> tuple[Callable[[], int], ExampleStore, int]:
    """Returns a function that trains one step and tells its records, the examples, and the vocabulary's size."""
    recipe = resolve(
        build_recipe(
            {
                "model": {"depth": LAYERS, "width": WIDTH, "heads": HEADS, "context": CONTEXT, "dropout": 0.1,
                          "attention_dropout": 0.1},
                "optimizer": {"name": "adamw", "learning_rate": 1e-4},
                "train": {"objective": "classification", "steps": 10_000, "batch_size": BATCH},
            }
        )
    )  # fmt: skip
    texts = (record.text for record in found)
    trained = train_tokenizer(texts, "wordpiece", VOCABULARY, special_tokens=list(ENCODER_TOKENS))
    tokenizer = framed_as_bert(trained.tokenizer)
    objective = Classification(recipe)
    for record in found:
        objective.observe(record, False)
    objective.settle()
    objective.attach(tokenizer, CONTEXT)
    with ExampleWriter(folder / "examples", objective.fields) as writer:
        for number, record in enumerate(found):
            example = objective.encode(record).examples[0]
            writer.add(example, objective.length(example), number)
    store = ExampleStore(folder / "examples")
    begun = EncoderMaker().begin(recipe, tokenizer, objective, None)
    ops.set_matmul(recipe.train.matmul)  # type: ignore[arg-type]
    trainer = Trainer(begun.model, LengthSampler(store, 1, batch_size=BATCH), recipe, objective)

    def step() -> int:
        trainer.step()
        return BATCH

    return step, store, tokenizer.vocab_size


def peer(store: ExampleStore, vocabulary: int, labels: int) -> Callable[[], int]:
    """Returns a function that does the same step as most scripts with `transformers` do it."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, num_labels=labels,
    )  # fmt: skip
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        generator = np.random.default_rng(1)
        while True:
            order = generator.permutation(len(store))
            for begin in range(0, len(order) - BATCH + 1, BATCH):
                examples = store.take(order[begin : begin + BATCH])
                longest = max(len(example["tokens"]) for example in examples)
                tokens = torch.zeros(BATCH, longest, dtype=torch.long)
                mask = torch.zeros(BATCH, longest, dtype=torch.long)
                for row, example in enumerate(examples):
                    tokens[row, : len(example["tokens"])] = torch.from_numpy(example["tokens"].astype(np.int64))
                    mask[row, : len(example["tokens"])] = 1
                yield tokens, mask, torch.tensor([int(example["label"][0]) for example in examples])

    source = batches()

    def step() -> int:
        tokens, mask, wanted = next(source)
        model(input_ids=tokens, attention_mask=mask, labels=wanted).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return BATCH

    return step


def rate(step: Callable[[], int], steps: int) -> tuple[float, float]:
    """Returns records per second of wall-clock and of processor time."""
    wall, processor, done = time.perf_counter(), time.process_time(), 0
    for _ in range(steps):
        done += step()
    return done / (time.perf_counter() - wall), done / (time.process_time() - processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="?", help="a file of labelled records")
    parser.add_argument("--steps", type=int, default=12, help="steps of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    tune_allocator()
    found = records(arguments.records)
    with tempfile.TemporaryDirectory() as folder:
        mine, store, vocabulary = ours(found, Path(folder))
        theirs = peer(store, vocabulary, len({record.label for record in found}))
        rate(mine, 2), rate(theirs, 2)  # warm up
        rounds = [(rate(mine, arguments.steps), rate(theirs, arguments.steps)) for _ in range(arguments.rounds)]
    figures = []
    for place, name in enumerate(("wall-clock", "processor time")):
        values, peers = [one[place] for one, _ in rounds], [other[place] for _, other in rounds]
        ratio = statistics.median(a / b for a, b in zip(values, peers, strict=True))
        mean, other = statistics.median(values), statistics.median(peers)
        title = f"encoder training, {name}"
        figures.append(common.Measurement(title, mean, "records/s", "transformers", other, ratio, runs=values))
    common.report(figures, arguments.json)


if __name__ == "__main__":
    main()

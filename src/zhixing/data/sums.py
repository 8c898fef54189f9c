"""Sums of two-digit numbers: a task with exact answers, small enough to learn by reinforcement in minutes on a CPU."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from zhixing.core.errors import BadInput
from zhixing.core.files import atomic_folder

FIRST, LAST = 10, 99
HELD_OUT_PAIRS = 300


@dataclass(frozen=True)
class Sums:
    """The files that were written, and how many sums each holds.

    Attributes:
        texts: Lines of text, `12+34=46`, to learn what a sum looks like.
        train: Records to be answered, of the same sums.
        held_out: Records of sums that are in neither of them, in neither order.
        counts: Records of `train` and of `held_out`.
    """

    texts: Path
    train: Path
    held_out: Path
    counts: tuple[int, int]


def make_sums(folder: Path, seed: int = 0) -> Sums:
    """Writes all sums of two numbers from 10 to 99.

    Args:
        folder: A folder that does not exist yet.
        seed: Chooses which are held out.

    Raises:
        BadInput: The folder is there already.
    """
    if folder.exists():
        raise BadInput("there is something here already", where=str(folder), remedy="name another folder, or remove it")
    generator = random.Random(seed)
    pairs = [(a, b) for a in range(FIRST, LAST + 1) for b in range(a, LAST + 1)]
    generator.shuffle(pairs)
    held_out = [generator.choice(((a, b), (b, a))) for a, b in pairs[:HELD_OUT_PAIRS]]
    train = [pair for a, b in pairs[HELD_OUT_PAIRS:] for pair in sorted({(a, b), (b, a)})]
    texts = [{"text": f"{a}+{b}={a + b}"} for a, b in train]
    with atomic_folder(folder) as part:
        for name, rows in (("texts", texts), ("train", _asked(train)), ("held-out", _asked(held_out))):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (part / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return Sums(folder / "texts.jsonl", folder / "train.jsonl", folder / "held-out.jsonl", (len(train), len(held_out)))


def _asked(pairs: list[tuple[int, int]]) -> list[dict[str, str]]:
    return [{"source": f"{a}+{b}=", "target": str(a + b)} for a, b in pairs]

"""Tiny Shakespeare by characters, equal tokens: n-gram, LSTM and GPT side by side in bits per character.

    python benchmarks/families_shakespeare.py INPUT.TXT

Every model reads the training text (the first nine tenths) as often as `--passes` says, one time unless given; the
n-gram model counts it once, which is all that it can do with it. The held-out tenth is measured whole, each character
seeing all before it that the model reads. It is `zhixing compare` with recipes/compare-shakespeare.yaml; a
comparison that was stopped goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path

from zhixing.core.comparison_recipe import load_comparison
from zhixing.workflows.compare import compare

sys.path.insert(0, str(Path(__file__).parent))
from common import Measurement, report

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "compare-shakespeare.yaml"
VARIANTS = ("n-gram", "lstm", "gpt")
HELD_OUT = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="tiny Shakespeare's input.txt, also .gz")
    parser.add_argument("--passes", type=float, default=1.0, help="how often the training text is read")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--run", type=Path, help="folder of the runs; default: runs/families-shakespeare-PASSES")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    opener = gzip.open if options.text.suffix == ".gz" else open
    with opener(options.text, "rt", encoding="utf-8") as file:
        characters = len(file.read())
    tokens = int(characters * (1 - HELD_OUT) * options.passes)
    overrides = [
        f"base.data.paths={json.dumps([str(options.text)])}", f"base.train.threads={options.threads}",
        f"budget.tokens={tokens}", f"seeds={list(range(options.seeds))}",
    ]  # fmt: skip
    recipe = load_comparison(RECIPE, overrides)
    recipe.variants = {name: recipe.variants[name] for name in VARIANTS}
    folder = options.run or Path("runs") / f"families-shakespeare-{options.passes:g}"
    result = compare(recipe, folder)
    found = []
    for name in VARIANTS:
        trials = [trial for trial in result.trials if trial.variant == name and trial.value is not None]
        values = [float(trial.value) for trial in trials if trial.value is not None]
        if not values:
            continue
        label = f"{name} ({trials[0].parameters:,} parameters, {trials[0].seconds:.0f} s)"
        found.append(Measurement(label, sum(values) / len(values), "bits/character", runs=values))
    report(found, options.json)
    for sentence in result.sentences:
        print(sentence, file=sys.stderr)


if __name__ == "__main__":
    main()

"""Parity of every family with `transformers`: the greatest difference between logits, on tiny random models.

    python benchmarks/families.py [--family NAME ...] [--json] [--write]

For each family: its folder opened here; saved here and opened there; token by token with a cache; a batch of prompts of
unequal lengths; and each rope scaling; of encoders every head. Texts are longer than the sliding windows and than the
context that scaled frequencies were made for. The roof is 1e-4; a larger difference ends the command with exit code 1.
`--write` refreshes the tables of docs/families.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from common import Measurement, report
from family_parity import CASES, Case, cached, loaded, padded, published, saved, scalings
from family_parity_others import OTHERS, Differences
from family_parity_others import WAYS as OTHER_WAYS
from zhixing.checkpoints.folder import load_folder
from zhixing.families import FAMILIES

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
MOST = 1e-4
WAYS = {"load": "opened here", "save": "saved back", "cache": "with cache", "batch": "unequal lengths"}
FEATURES = {
    "gpt2": "layer norms, learned positions, transposed fused weights",
    "gpt_neox": "parallel residual, part of a head rotated, interleaved fused weights",
    "llama": "grouped heads, SwiGLU, biases as an option",
    "mistral": "sliding window in every layer",
    "qwen2": "biases on queries, keys and values; windows in upper layers",
    "qwen3": "queries and keys normalised per head",
    "gemma2": "norms on both sides, stored from one; scaled embeddings; capped scores and logits; alternating windows",
    "gemma3_text": "as Gemma 2, normalised queries and keys, windows with a rotary base of their own",
    "phi3": "fused projections, window, part of a head rotated, LongRoPE",
    "olmo2": "norms behind the parts; queries and keys normalised over all heads",
    "smollm3": "layers without positions",
    "nanochat": "weightless norms, reversed rotation, squared ReLU, capped logits",
}


def measure(case: Case) -> dict[str, float]:
    """Returns the greatest difference of each way."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "published"
        theirs = published(case, folder)
        ours = load_folder(folder)
        return {
            "load": loaded(theirs, ours),
            "save": saved(theirs, ours, Path(place) / "saved"),
            "cache": max(cached(theirs, ours, case, fast) for fast in (True, False)),
            "batch": max(padded(theirs, ours, case, fast) for fast in (True, False)),
        }


@torch.no_grad()
def measure_others(names: Sequence[str]) -> dict[str, Differences]:
    """Returns the greatest differences of encoders, encoder-decoders and describers of images."""
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            found[name] = OTHERS[name][2](Path(place))
    return found


def tables(
    plain: dict[str, dict[str, float]], scaled: dict[str, dict[str, float]], others: dict[str, Differences]
) -> str:
    """Returns all tables as Markdown."""
    rows = ["| family | published models | what is particular | " + " | ".join(WAYS.values()) + " |"]
    rows.append("|---|---|---|" + "---|" * len(WAYS))
    for name, results in plain.items():
        figures = " | ".join(f"{results[way]:.1e}" for way in WAYS)
        rows.append(f"| `{name}` | {FAMILIES[name].examples} | {FEATURES[name]} | {figures} |")
    rows += ["", "| family | published models | what is particular | " + " | ".join(OTHER_WAYS.values()) + " |"]
    rows.append("|---|---|---|" + "---|" * len(OTHER_WAYS))
    for name, results in others.items():
        figures = " | ".join(f"{results[way]:.1e}" if way in results else "-" for way in OTHER_WAYS)
        rows.append(f"| `{name}` | {OTHERS[name][0]} | {OTHERS[name][1]} | {figures} |")
    kinds = list(scalings(1))
    rows += ["", "| rope scaling | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for name, results in scaled.items():
        rows.append(f"| `{name}` | " + " | ".join(f"{results[k]:.1e}" if k in results else "-" for k in kinds) + " |")
    return "\n".join(rows)


def write(text: str) -> None:
    """Replaces the tables of the page."""
    begin, end = "<!-- tables: python benchmarks/families.py --write -->", "<!-- end of tables -->"
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(begin)[0], page.split(end)[1]
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}, float32 on a CPU."
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{versions}\n\n{end}{after}", encoding="utf-8")


def main() -> int:
    """Measures, prints and, when asked, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=[*FAMILIES, *OTHERS], help="only these")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--write", action="store_true", help="refresh docs/families.md")
    options = parser.parse_args()
    if options.write and options.family:
        parser.error("--write needs all families")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)

    plain: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    scaled: dict[str, dict[str, float]] = defaultdict(dict)
    for case in CASES.values():
        if options.family and case.family not in options.family:
            continue
        results = measure(case)
        if case.scaling is None:
            for way, figure in results.items():
                plain[case.family][way] = max(plain[case.family][way], figure)
        else:
            scaled[case.family][case.scaling] = max(results.values())
    others = measure_others([name for name in OTHERS if not options.family or name in options.family])
    figures = [
        *((f"{name}: {what}", figure)
          for name in plain
          for what, figure in [
              *((WAYS[way], plain[name][way]) for way in WAYS),
              *((f"rope scaling {kind}", figure) for kind, figure in scaled.get(name, {}).items()),
          ]),
        *((f"{name}: {OTHER_WAYS[way]}", figure) for name, ways in others.items() for way, figure in ways.items()),
    ]  # fmt: skip
    measurements = [
        Measurement(what, figure, "largest |difference| of logits", roof_share=figure / MOST)
        for what, figure in figures
    ]
    if options.json:
        report(measurements, as_json=True)
    else:
        print(tables(plain, scaled, others))
    if options.write:
        write(tables(plain, scaled, others))
    worst = max(measurements, key=lambda item: item.value)
    if not worst.value < MOST:
        print(f"{worst.name}: {worst.value:.1e} is not below {MOST:.0e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

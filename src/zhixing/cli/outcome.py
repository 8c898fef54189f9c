"""How the training commands show what came out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from zhixing.core.progress import human_count

if TYPE_CHECKING:
    from zhixing.workflows.pretrain import Outcome
    from zhixing.workflows.records_run import RecordOutcome

USES = {
    "classification": 'zhixing classify "TEXT" --model {model}',
    "tagging": 'zhixing tag "TEXT" --model {model}',
    "span": 'zhixing answer "QUESTION" "TEXT" --model {model}',
    "masked": 'zhixing fill "The ____ of the text." --model {model}',
    "contrastive": 'zhixing embed "TEXT" --model {model}',
}
"""What a model of an objective is used with."""


def print_outcome(outcome: Outcome | RecordOutcome, as_json: bool) -> None:
    """Prints what came out of a run, and where everything is."""
    from zhixing.workflows.records_run import RecordOutcome

    if isinstance(outcome, RecordOutcome):
        _print_records(outcome, as_json)
    else:
        _print_text(outcome, as_json)


def _print_records(outcome: RecordOutcome, as_json: bool) -> None:
    """Prints the measures on the held-out records, some predictions, and the next commands."""
    import shlex

    from zhixing.workflows.prepare import relative

    folder, score = relative(outcome.folder), outcome.score
    if as_json:
        values = {
            "run": folder,
            "model": f"{folder}/model",
            "report": f"{folder}/report.html",
            "objective": outcome.objective,
            "evaluation": {
                **score.figures(),
                "targets": score.tokens,
                "records": outcome.records,
                "all_records": outcome.all_records,
                "scores": [one.to_json() for one in outcome.scores],
            },
            "proof": vars(outcome.proof) if outcome.proof else None,
        }
        print(json.dumps(values, ensure_ascii=False))
        return
    part = "" if outcome.records == outcome.all_records else f" of {outcome.all_records:,}, taken evenly"
    print(f"\nHeld-out records ({outcome.records:,}{part}):")
    intervals = {one.name: one.interval for one in outcome.scores}
    for name, value in [*score.measures.items(), ("loss", score.loss)]:
        interval = intervals.get(name)
        spread = f"   {interval.low:.4f} to {interval.high:.4f} (95 %)" if interval else ""
        print(f"  {name.replace('_', ' '):<18} {value:9.4f}{spread}")
    for sample in outcome.samples[:3]:
        predicted, right = (" ".join(sample[name].split()) for name in ("predicted", "right"))  # a line each
        print(f"  predicted {predicted}   right {right}")
    print(f"\nModel:  {folder}/model\nReport: {folder}/report.html")
    name = shlex.quote(folder)
    use = USES.get(outcome.objective)
    print("\nNext:" + (f"\n  {use.format(model=name)}" if use else "") + f"\n  zhixing report {name}")


def _print_text(outcome: Outcome, as_json: bool) -> None:
    """Prints the held-out figures beside the yardsticks, some writing, and where everything is."""
    from zhixing.workflows.prepare import relative

    folder, score = relative(outcome.folder), outcome.score
    if as_json:
        values = {
            "run": folder,
            "model": f"{folder}/model",
            "report": f"{folder}/report.html",
            "evaluation": score.to_json(),
            "yardsticks": [yardstick.to_json() for yardstick in outcome.yardsticks],
            "proof": vars(outcome.proof) if outcome.proof else None,
        }
        print(json.dumps(values, ensure_ascii=False))
        return
    print("\nHeld-out text, bits per byte (lower is better):")
    bars = [(f"{yardstick.name}", yardstick.bits_per_byte) for yardstick in outcome.yardsticks]
    bars.append(("this model", score.bits_per_byte))
    longest = max(value for _, value in bars)
    for name, value in sorted(bars, key=lambda bar: -bar[1]):
        print(f"  {name:<11} {value:7.4f}  {'█' * max(1, round(32 * value / longest))}")
    perplexity = f"{score.perplexity:.2f}" if math.isfinite(score.perplexity) else "not finite"
    print(
        f"  perplexity {perplexity} per token with this tokenizer;"
        f" {human_count(score.tokens)} tokens, window {score.window}, stride {score.stride}"
    )
    for note in score.notes:
        print(f"  {note}")
    for sample in outcome.samples[:2]:
        print(f"\n--- it writes, after {sample['prompt'][-60:]!r} ---\n{sample['text'][:400].rstrip()}")
    print(f"\nModel:  {folder}/model\nReport: {folder}/report.html")


def print_next_commands(outcome: Outcome) -> None:
    """Prints commands to go on with, each of which works as printed."""
    import shlex

    from zhixing.workflows.prepare import relative

    folder = shlex.quote(relative(outcome.folder))
    print("\nNext:")
    print(f"  zhixing generate {folder} {shlex.quote(_first_line(outcome))} --max-tokens 200")
    print(f"  zhixing tokenizer show {folder}/model")
    print(f"  zhixing eval {folder} README.md" if Path("README.md").exists() else f"  zhixing report {folder}")
    print("  zhixing runs")


def _first_line(outcome: Outcome) -> str:
    """Returns a short prompt of one line, from the samples where there are any."""
    lines = [line.strip() for sample in outcome.samples for line in sample["prompt"].splitlines()]
    return next((line for line in lines if line), "The")[:40]

"""The model card of a tuned decoder: README.md of its adapter or model folder, from the run and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from zhixing.checkpoints.catalogue import catalogue
from zhixing.core.recipe import Recipe
from zhixing.families import FAMILIES
from zhixing.training.objectives import objective_named
from zhixing.version import __version__

TEMPLATE = """---
{front}---

# {name}

{start_sentence} with Zhixing {version}: {summary}.

| | |
|---|---|
| base | {base} |
| method | {method} |
| trained | {trained:,} of {parameters:,} parameters |
| layout | {family} (opens in {opens}) |
| training | {steps}, {records:,} records, {tokens:,} tokens in them |
{figures}
| measured on | {measured:,} held-out records of {all_records:,} |

## Data

| file | SHA-256 | bytes |
|---|---|---|
{inputs}

Licence of the records: {licence}. Hash of all examples (SHA-256): `{data_hash}`.
{cut:,} records were cut to what the model reads, {dropped:,} left out as too long, {faulty:,} left out as wrong.

## Recipe

```yaml
{recipe}```

## Limits

The figures hold for records like those that were held out. Tuning teaches a way to answer, not facts: the model is
wrong where its base is, and repeats whatever bias the records hold.

## Use

```python
import zhixing

model = zhixing.load("path/to/this/folder")
print(model.chat("Hello!").text)
```
"""

SECTIONS = ("data", "model", "tune", "optimizer", "schedule", "train")
LICENCES = {"apache": "apache-2.0", "mit": "mit", "gemma": "gemma"}
"""The hub's words for licences, by how ours begin."""


def tuned_card(recipe: Recipe, facts: dict[str, Any]) -> str:
    """Returns the text of the card for a finished run."""
    model, data, evaluation = facts["model"], facts["data"], facts["evaluation"]
    start, tune = recipe.model.start, recipe.tune
    entry = catalogue().get(start or "")
    adapter = start is not None and (tune.method == "prompt" or (tune.method == "lora" and tune.publish == "adapter"))
    known = model["family"] in FAMILIES
    opens = "`peft` on its base, and in Zhixing" if adapter else "`transformers` and in Zhixing" if known else "Zhixing"
    front: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers" if known else "zhixing",
        "pipeline_tag": "text-generation", "tags": ["zhixing", tune.method],
    }  # fmt: skip
    if start is not None:
        front["base_model"] = start if entry is not None or ":" in start else Path(start).name
    licence = next((name for key, name in LICENCES.items() if entry and entry.licence.lower().startswith(key)), None)
    front |= {"license": licence} if licence else {}
    figures = {**evaluation["measures"], "loss": evaluation["loss"]}
    better: dict[str, Any] = facts.get("improvement", {})
    rows = [f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in figures.items()]
    if better:
        p = max(better["p_bootstrap"], better["p_randomisation"])
        words = {"the second is": "better", "the first is": "worse"}
        said = next((word for key, word in words.items() if better["verdict"].startswith(key)), "no proven difference")
        rows.append(
            f"| loss before, after | {better['loss_before']:.4f}, {better['loss_after']:.4f}"
            f" ({said} by paired tests over {better['n']} records: p = {p:.2g}) |"
        )
    base = f"`{front['base_model']}`" if start is not None else "random weights"
    inputs = [
        f"| `{Path(one['path']).name}` | `{one.get('sha256') or 'unknown'}` | {one.get('size', 0):,} |"
        for one in data["inputs"]
    ]
    return TEMPLATE.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True), name=recipe.name, version=__version__,
        start_sentence="Tuned" if start else "Trained from scratch",
        summary=objective_named(recipe.train.objective).summary,
        base=base + (f" ({entry.licence})" if entry else ""), method=_method(recipe),
        trained=model["parameters"] - model.get("frozen", 0), parameters=model["parameters"], family=model["family"],
        opens=opens, steps=steps_taken(recipe, facts), records=data["train"]["records"], tokens=data["train"]["tokens"],
        figures="\n".join(rows),
        measured=evaluation["records"], all_records=evaluation["all_records"], inputs="\n".join(inputs),
        licence=recipe.data.licence or "not given; it is their owner's", data_hash=data["data_hash"], cut=data["cut"],
        dropped=data["dropped"], faulty=data["faulty"], recipe=_shortened(recipe),
    )  # fmt: skip


def steps_taken(recipe: Recipe, facts: dict[str, Any]) -> str:
    """Says how many steps were made, and which one's weights are published where it is not the last."""
    planned = recipe.train.steps or 0
    training: dict[str, Any] = facts.get("training", {})
    done: int = training.get("steps", planned)
    published: list[int] = training.get("published", [done])
    early = f": {training['stopped_early']}" if "stopped_early" in training else ""
    text = f"{done:,} steps" + (f" of {planned:,} (stopped early{early})" if done < planned else "")
    if len(published) > 1:
        return f"{text}; published: the mean of steps {', '.join(f'{step:,}' for step in published)}"
    by = f" by {training['best_by'].replace('_', ' ')}" if "best_by" in training else ""
    return text + (f"; published: step {published[0]:,}, the best{by}" if published[0] != done else "")


def _method(recipe: Recipe) -> str:
    tune = recipe.tune
    match tune.method:
        case "lora":
            kind = " and ".join(name for name, used in (("DoRA", tune.dora), ("rsLoRA", tune.rslora)) if used) or "LoRA"
            where = "all linear maps of the blocks" if tune.targets is None else ", ".join(tune.targets)
            packed = f", on a base of {tune.bits}" if tune.bits else ""
            return f"{kind} of rank {tune.rank} on {where}{packed}"
        case "last":
            return f"the last {tune.layers} layers"
        case "prompt":
            return f"{tune.prompt_tokens} learned tokens in front of each text"
        case _:
            return "all weights"


def _shortened(recipe: Recipe) -> str:
    """Returns what differs from the defaults, without places on this disk."""
    values = recipe.model_dump(exclude_defaults=True)
    shown = {name: values[name] for name in SECTIONS if name in values}
    data = dict(shown.get("data", {}))
    for key in ("paths", "validation_paths"):
        if key in data:
            data[key] = [Path(path).name for path in data[key]]
    if data:
        shown["data"] = data
    start = shown.get("model", {}).get("start")
    if isinstance(start, str) and "/" in start and ":" not in start:
        shown["model"] = {**shown["model"], "start": Path(start).name}
    text: str = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return text

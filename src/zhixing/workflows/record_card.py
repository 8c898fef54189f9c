"""The model card of a run on records: README.md of its model folder, written from the run and nothing else."""

from __future__ import annotations

from typing import Any

from zhixing.core.recipe import Recipe
from zhixing.families.registry import ENCODERS, SEQ2SEQ
from zhixing.families.vision_encoder_decoder import NAME as DESCRIBER
from zhixing.training.objectives import objective_named
from zhixing.version import __version__
from zhixing.workflows.tuned_card import steps_taken

TASKS = {
    "classification": "text-classification",
    "tagging": "token-classification",
    "span": "question-answering",
    "masked": "fill-mask",
    "contrastive": "sentence-similarity",
    "caption": "image-to-text",
    "seq2seq": "translation",
}
"""The hub's words for what a model is for, by objective."""

TEMPLATE = """---
library_name: {library}
{task}tags: [zhixing]
---

# {name}

Trained with Zhixing {version}: {summary}.

| | |
|---|---|
| objective | {objective} |
| layout | {family} (opens in {opens}) |
| parameters | {parameters:,} |
| began with | {start} |
| tokenizer | {kind}, {vocab_size:,} tokens |
| training | {steps}, {records:,} records, {tokens:,} tokens in them |
{figures}
| measured on | {measured:,} held-out records of {all_records:,} |

## Data

Paths: {paths}. Hash of all examples (SHA-256): `{data_hash}`.
{cut:,} records were cut to what the model reads.
The licence of the records is their owner's; this run does not know it.

## Limits

The figures hold for records like those it was measured on. The model repeats whatever bias its records hold.
"""


def record_card(recipe: Recipe, facts: dict[str, Any]) -> str:
    """Returns the text of the card for a finished run."""
    model, data, evaluation = facts["model"], facts["data"], facts["evaluation"]
    objective = objective_named(recipe.train.objective)
    known = model["family"] in (*ENCODERS, *SEQ2SEQ, DESCRIBER)
    task = TASKS.get(objective.name)
    by_name = {one["measure"]: one for one in evaluation["scores"]}
    figures = []
    for name, value in {**evaluation["measures"], "loss": evaluation["loss"]}.items():
        interval = by_name.get(name, {}).get("interval")
        spread = f" ({interval['low']:.4f} to {interval['high']:.4f} at 95 %)" if interval else ""
        figures.append(f"| {name.replace('_', ' ')} | {value:.4f}{spread} |")
    return TEMPLATE.format(
        name=recipe.name, version=__version__, summary=objective.summary, objective=objective.name,
        library="transformers" if known else "zhixing", opens="`transformers` and in Zhixing" if known else "Zhixing",
        task=f"pipeline_tag: {task}\n" if task else "", family=model["family"], parameters=model["parameters"],
        start=f"`{recipe.model.start}`" if recipe.model.start else "random weights",
        kind=facts["tokenizer"]["kind"], vocab_size=facts["tokenizer"]["vocab_size"], steps=steps_taken(recipe, facts),
        records=data["train"]["records"], tokens=data["train"]["tokens"], figures="\n".join(figures),
        measured=evaluation["records"], all_records=evaluation["all_records"],
        paths=", ".join(f"`{path}`" for path in data["paths"]), data_hash=data["data_hash"], cut=data["cut"],
    )  # fmt: skip

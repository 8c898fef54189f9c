"""The model card: README.md of a model folder, written from the run and nothing else."""

from __future__ import annotations

from typing import Any

from zhixing.core.recipe import Recipe
from zhixing.families import FAMILIES
from zhixing.training.resolve_counting import FAMILY as COUNTED
from zhixing.version import __version__
from zhixing.workflows.tuned_card import steps_taken

TEMPLATE = """---
library_name: {library}
pipeline_tag: text-generation
tags: [zhixing]
---

# {name}

A small language model, trained from scratch with Zhixing {version}.

| | |
|---|---|
| layout | {family} (opens in {opens}) |
| parameters | {parameters:,} |
{sizes}
| tokenizer | {kind}, {vocab_size} tokens |
| training tokens seen | {seen} |
| held-out text | {bits_per_byte:.4f} bits per byte, perplexity {perplexity:.2f} with this tokenizer |
| measured with | window {window}, stride {stride}, {tokens:,} tokens |

## Data

Paths: {paths}. Hash of all inputs (SHA-256): `{data_hash}`.
{train_documents:,} documents with {train_bytes:,} bytes to train on,
{validation_documents:,} documents with {validation_bytes:,} bytes held out ({split}).
The licence of the text is its owner's; this run does not know it.

## Limits

The model has learned the patterns of its training text and nothing else. It does not know facts, follow instructions
or refuse requests, and it repeats whatever bias the text holds.

## Use

```python
import zhixing

model = zhixing.load("path/to/this/folder")
print(model.generate("Once", max_tokens=100))
```
"""


def model_card(recipe: Recipe, facts: dict[str, Any]) -> str:
    """Returns the text of the card for a finished run."""
    model, data, score = facts["model"], facts["data"], facts["evaluation"]
    train = recipe.train
    assert train.steps is not None
    assert train.batch_size is not None
    assert train.block is not None
    known = model["family"] in FAMILIES
    if model["family"] == COUNTED:
        sizes = f"| order | {model['order']} |"
        seen = f"{data['train']['tokens']:,}, counted"
    else:
        total = train.steps * train.batch_size * train.accumulate * train.block
        total = facts.get("training", {}).get("tokens", total)
        seen = f"{total:,} in {steps_taken(recipe, facts)}"
        sizes = f"| layers, width | {model['layers']}, {model['width']} |"
        if "heads" in model:
            sizes += f"\n| heads, context | {model['heads']}, {model['context']} tokens |"
    split = "whole documents" if recipe.data.split == "document" else "the end of the text"
    return TEMPLATE.format(
        name=recipe.name, version=__version__, family=model["family"], parameters=model["parameters"],
        library="transformers" if known else "zhixing", opens="`transformers` and in Zhixing" if known else "Zhixing",
        sizes=sizes,
        kind=facts["tokenizer"]["kind"], vocab_size=model["vocab_size"],
        seen=seen,
        bits_per_byte=score["bits_per_byte"], perplexity=score["perplexity"] or float("nan"),
        window=score["window"], stride=score["stride"], tokens=score["tokens"],
        paths=", ".join(f"`{path}`" for path in data["paths"]), data_hash=data["data_hash"],
        train_documents=data["train"]["documents"], train_bytes=data["train"]["bytes"],
        validation_documents=data["validation"]["documents"], validation_bytes=data["validation"]["bytes"], split=split,
    )  # fmt: skip

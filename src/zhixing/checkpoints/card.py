"""The card of a model that is written anew: what was known of it goes along, its licence above all.

Cards of runs are written by `workflows`, from what the run knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from zhixing.checkpoints.describe import describe
from zhixing.checkpoints.gguf.header import is_gguf


def carried_card(path: Path) -> str:
    """Returns the card of a model folder; of a GGUF file, what its header says, as a card; "" where nothing is said."""
    if not is_gguf(path):
        card = path / "README.md" if path.is_dir() else path.parent / "README.md"
        return card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    facts = describe(path)
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if facts.licence is not None:
        front["license"] = facts.licence
    kinds = ", ".join(facts.types)
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    licence = facts.licence or "the file says none; ask its maker"
    what = f"{facts.parameters:,} parameters of the family {facts.family}, expanded from `{path.name}` (GGUF: {kinds})."
    return f"---\n{head}---\n\n# {facts.name or path.stem}\n\n{what} Licence: {licence}.\n"


def merged_card(base: Path, adapters: Sequence[tuple[Path, float]]) -> str:
    """Returns the card of a model with adapters folded in: what it is made of, and the terms of its base.

    Args:
        base: The model that the adapters belong to.
        adapters: Their folders, each with its share.
    """
    facts = describe(base)
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["zhixing"]}
    if facts.licence is not None:
        front["license"] = facts.licence
    named = facts.name or _name(base)
    rows = [f"- `{_name(folder)}`" + (f", counted {share:g}" if share != 1 else "") for folder, share in adapters]
    licence = (
        f"Licence of the base: {facts.licence}." if facts.licence else "The licence of the base is not known here."
    )
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {named} with adapters",
        f"The weights of `{named}` with these adapters folded in:",
        "\n".join(rows),
        f"{licence} That of what the adapters were trained on is its owner's.",
    ]
    for folder, _ in adapters:
        card = folder / "README.md"
        if card.is_file():
            text = card.read_text(encoding="utf-8", errors="replace")
            body = text.split("\n---", 2)[-1] if text.startswith("---") else text
            parts.append(f"## The adapter `{_name(folder)}`, as its own card has it\n\n{_deeper(body).strip()}")
    return "\n\n".join(parts) + "\n"


def _deeper(text: str) -> str:
    """Returns a card with its headings two steps lower; lines of code stay."""
    lines, code = [], False
    for line in text.splitlines():
        code ^= line.startswith("```")
        lines.append(f"##{line}" if line.startswith("#") and not code else line)
    return "\n".join(lines)


def _name(path: Path) -> str:
    """Returns what a model is called: its folder's name, of a run the run's."""
    place = path.resolve()
    return place.parent.name if place.name == "model" else place.name

"""The card of a model that is written anew: what was known of it goes along, its licence above all.

Cards of runs are written by `workflows`, from what the run knows.
"""

from __future__ import annotations

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

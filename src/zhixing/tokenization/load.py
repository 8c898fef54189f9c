"""Opening a tokenizer from whatever it was published as.

Here: finding out which format a path holds. The formats themselves are in `vocabulary_files` and `sentencepiece`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import read_json
from zhixing.tokenization.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer

MAX_BYTES = 256_000_000
"""No tokenizer file is larger; the largest published ones have some 40 MB."""


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Opens a tokenizer."""
    path = Path(path)
    if not path.exists():
        raise MissingResource("no such file or folder", where=str(path), remedy="check the path")
    folder = path if path.is_dir() else path.parent
    file = folder / TOKENIZER_FILE if path.is_dir() else path
    config: Any = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else None
    if config is not None and not isinstance(config, dict):
        raise BadInput("not a JSON object", where=str(folder / CONFIG_FILE))
    return Tokenizer(read_json(file), config, where=str(file))

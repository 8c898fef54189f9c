"""What a model is, as a hash of its content: two folders with the same fingerprint give the same results."""

from __future__ import annotations

import hashlib
from pathlib import Path

from zhixing.core.files import hash_file

PARTS = ("*.safetensors", "config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model",
         "tokenizer_config.json", "preprocessor_config.json", "modules.json",
         "1_Pooling/config.json", "sentence_bert_config.json")  # fmt: skip


def model_fingerprint(path: Path) -> str:
    """Returns the hash of a model's weights, configuration and tokenizer, whatever it is called and wherever it is.

    Args:
        path: A model folder or a .gguf file.
    """
    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for part in PARTS:
        for file in sorted(path.glob(part)):
            digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()

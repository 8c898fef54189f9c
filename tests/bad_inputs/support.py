"""What the tests of bad input share: the text and recipe of a tiny run, and ways to damage and to check."""

import hashlib
from pathlib import Path

import torch

from zhixing.checkpoints.folder import save_folder
from zhixing.cli.main import main
from zhixing.families import family_named
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

RECIPE = """
name: tiny
data: {paths: [text.txt], validation_fraction: 0.2}
tokenizer: {kind: byte-bpe, vocab_size: 300}
model: {family: llama, depth: 1, width: 16, heads: 2, context: 16}
train: {steps: 3, batch_size: 2, save_every: 1, keep: 3, matmul: torch}
"""
TEXT = "\n\n".join(
    f"{number} To know and to do. 知行合一，道可道。 {number * 7919} words and words" for number in range(80)
)


SIZES = {"width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp_width": 24, "context": 16}


def make_models(place):
    """Writes the same tiny model twice, once in one file and once sharded; returns the first."""
    folder = place / "model"
    tokenizer = train_tokenizer([], "byte").tokenizer
    shape = TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES, **family_named("llama").fixed)
    model = Transformer(shape)
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(folder, model.eval(), tokenizer, "llama", card="# A card\n")
    save_folder(folder.with_name("sharded"), model, tokenizer, "llama", max_shard_size=8000)
    return folder


def main_code():
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


def check(ended, code, *words):
    """Holds what a command said against the rules: one message, without a traceback, with the words that matter."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert "internal fault" not in ended.err
    assert ended.err.count("zhixing: ") == 1, ended.err
    for word in words:
        assert word in ended.err, f"{word!r} is not in: {ended.err}"


def content(folder):
    """Returns the hashes of everything in a folder that must not be lost."""
    files = [path for part in ("checkpoints", "model", "tokenizer") for path in sorted((folder / part).rglob("*"))]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def cut(path, share):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])


def replace(path, data):
    return lambda: Path(path).write_bytes(data)


def remove(path):
    return lambda: Path(path).unlink()

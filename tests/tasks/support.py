"""Makes tiny models, and runs the command line in this process."""

import io
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.generation.chat_model import chat_network, chat_tokenizer
from zhixing.checkpoints.encoder_folder import save_encoder
from zhixing.checkpoints.folder import save_folder
from zhixing.cli.main import main
from zhixing.families.encoders import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.tokenization.tokenizer import Tokenizer

WORDS = "a wonderful film that nobody forgets 知行合一 Anna lives in Paris 苏轼 was born in Meishan boring and awful"
LONGEST = 24
"""Tokens that the tiny encoders read."""


def bert_tokenizer(folder: Path) -> Tokenizer:
    """A tokenizer of BERT's kind, from a vocab.txt: the words, and all of their characters."""
    letters = sorted(set(WORDS.lower()) - {" "})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*pieces, *WORDS.lower().split()])), encoding="utf-8")
    return Tokenizer.load(folder)


def save_encoder_model(folder: Path, head: HeadConfig, seed: int = 0) -> EncoderModel:
    tokenizer = bert_tokenizer(folder.with_name("vocabulary"))
    config = TransformerConfig(
        **FIXED, vocab_size=tokenizer.vocab_size, width=32, layers=2, heads=4, kv_heads=4, head_dim=8, mlp_width=48,
        context=LONGEST, activation="gelu", token_types=2, tied=True,
    )  # fmt: skip
    model = EncoderModel(config, head)
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    save_encoder(folder, model, tokenizer, "bert")
    return model.eval()


def save_chat(folder: Path, **options: object) -> None:
    tokenizer = chat_tokenizer()
    save_folder(folder, chat_network(tokenizer, **options), tokenizer, "llama")  # type: ignore[arg-type]


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object, stdin: bytes = b""):
    """Runs a command; returns its exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["zhixing", *map(str, words)])
    fake = types.SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: stdin == b"", read=lambda: stdin.decode())
    monkeypatch.setattr(sys, "stdin", fake)
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    out, err = capsys.readouterr()
    return types.SimpleNamespace(code=code, out=out, err=err)

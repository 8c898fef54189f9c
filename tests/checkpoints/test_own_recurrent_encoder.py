"""A recurrent encoder as a model folder."""

import json
from pathlib import Path

import pytest
import torch

from zhixing.checkpoints.encoder_folder import is_encoder, load_encoder, save_encoder
from zhixing.core.errors import BadInput
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent_encoder import RecurrentEncoderConfig, recurrent_encoder_model
from zhixing.tasks.embed import Embedder
from zhixing.tokenization.train import train_tokenizer


def saved(folder: Path, head: HeadConfig) -> EncoderModel:
    tokenizer = train_tokenizer(["the cat sees 知行"], "character").tokenizer
    config = RecurrentEncoderConfig(tokenizer.vocab_size, "lstm", embedding=6, hidden=5, layers=1)
    model = recurrent_encoder_model(config, head)
    model.initialise(torch.Generator().manual_seed(0))
    save_encoder(folder, model, tokenizer, "lstm", card="# 知行")
    return model.eval()


HEADS = [
    HeadConfig(kind="tag", labels=("B-知", "O"), crf=True),
    HeadConfig(kind="classify", labels=("x", "y"), summary="mean", problem="multi", activation="relu"),
    HeadConfig(kind="pool", pooling="max", normalise=True),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_it_comes_back_as_it_was(head: HeadConfig, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", head)
    assert is_encoder(tmp_path / "model")
    opened = load_encoder(tmp_path / "model")
    assert opened.model.head_config == head
    assert opened.tokenizer is not None
    batch = Ragged.of([[1, 2, 3], [4]])
    assert torch.equal(opened.model(batch), model(batch))


def test_it_embeds_texts(tmp_path: Path) -> None:
    saved(tmp_path / "model", HEADS[2])
    vectors = Embedder(load_encoder(tmp_path / "model"))(["the cat", "知行"]).vectors
    assert vectors.shape == (2, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "mamba"}, "'cell'"),
        ({"hidden": 6}, "shape"),
        ({"bidirectional": False}, "nothing of what follows|tensors|shape"),
        ({"head": {"kind": "dance"}}, "'kind'"),
        ({"head": {"kind": "tag", "labels": [1]}}, "labels"),
        ({"head": {"kind": "pool", "hat": 1}}, "'hat'"),
        ({"speed": 3}, "'speed'"),
    ],
)
def test_a_wrong_config_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    saved(folder, HEADS[0])
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(BadInput, match=message):
        load_encoder(folder)

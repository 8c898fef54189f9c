"""A recurrent model as a model folder."""

import json
from pathlib import Path

import pytest
import torch

import zhixing
from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.recurrent import CELLS, Cell, RecurrentConfig, RecurrentNetwork
from zhixing.tokenization.train import train_tokenizer


def saved(folder: Path, cell: Cell, tied: bool = False) -> RecurrentNetwork:
    tokenizer = train_tokenizer(["the cat sees 知行"], "character").tokenizer
    config = RecurrentConfig(
        tokenizer.vocab_size, cell, width=8, hidden=12, layers=2, tied=tied, zero_init_outputs=False
    )
    network = RecurrentNetwork(config)
    network.initialise(torch.Generator().manual_seed(0))
    save_folder(folder, network, tokenizer, cell)
    return network.eval()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", [True, False])
def test_it_comes_back_as_it_was(cell: Cell, tied: bool, tmp_path: Path) -> None:
    network = saved(tmp_path / "model", cell, tied)
    opened = load_folder(tmp_path / "model")
    assert opened.family is None
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(opened.model(tokens), network(tokens))
    half = load_folder(tmp_path / "model", torch.bfloat16).model
    assert next(half.parameters()).dtype == torch.bfloat16


def test_it_writes_and_is_measured(tmp_path: Path) -> None:
    network = saved(tmp_path / "model", "lstm")
    model = zhixing.load(tmp_path / "model")
    together = model.generate(["the ", "知"], temperature=0.0, max_tokens=12)
    assert together == [model.generate(text, temperature=0.0, max_tokens=12) for text in ("the ", "知")]
    assert model.complete("the", max_tokens=5, num_beams=3, temperature=0.0)[0].tokens
    with pytest.raises(BadInput):
        model.complete("the", penalty_alpha=0.5, top_k=3)
    assert model.tokenizer is not None
    ids = [model.tokenizer.end_of_text_id, *model.tokenizer.encode("the cat")]
    tokens = torch.tensor([ids])
    expected = torch.nn.functional.cross_entropy(network(tokens)[0, :-1], tokens[0, 1:])
    score = model.evaluate(["the cat"])
    assert score.loss == pytest.approx(expected.item(), rel=1e-5)
    assert score.window == 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "mamba"}, "'cell'"),
        ({"hidden": 13}, "shape"),
        ({"layers": 1}, "unknown tensors"),
        ({"layers": 3}, "missing tensors"),
        ({"tied": True}, "tensors"),
        ({"width": 1 << 29}, "shape"),
        ({"peephole": True}, "unknown configuration field"),
    ],
)
def test_a_wrong_config_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    saved(folder, "gru")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(BadInput, match=message):
        load_folder(folder)


def test_missing_weights(tmp_path: Path) -> None:
    saved(tmp_path / "model", "rnn")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(MissingResource):
        load_folder(tmp_path / "model")

"""Recurrent encoders on ragged batches against a loop over single sequences, and every head on them."""

import pytest
import torch

from zhixing.core.errors import BadInput
from zhixing.models.heads import EncoderModel, HeadConfig, HeadKind
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent import CELLS, Cell
from zhixing.models.recurrent_encoder import RecurrentEncoder, RecurrentEncoderConfig, recurrent_encoder_model

SEQUENCES = [[1, 2, 3, 4, 5], [6], [7, 8, 9], [1, 2, 3], [4, 4, 4, 4, 4, 4, 4]]


def config(cell: Cell = "lstm", **fields: object) -> RecurrentEncoderConfig:
    return RecurrentEncoderConfig(vocab_size=12, cell=cell, embedding=6, hidden=5, layers=2, **fields)  # type: ignore[arg-type]


def encoder(cell: Cell = "lstm", **fields: object) -> RecurrentEncoder:
    made = RecurrentEncoder(config(cell, **fields))
    made.initialise(torch.Generator().manual_seed(0))
    return made.eval()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("both", [True, False])
def test_vectors_are_those_of_each_sequence_alone(cell: Cell, both: bool) -> None:
    made = encoder(cell, bidirectional=both)
    batch = Ragged.of(SEQUENCES)
    found, state = made.read(batch)
    assert found.shape == (len(batch.tokens), made.config.width)
    for number, (sequence, vectors) in enumerate(zip(SEQUENCES, batch.split(found), strict=True)):
        x = made.embedding(torch.tensor([sequence]))
        expected, after = made.cells(x)
        assert torch.allclose(vectors, expected[0], atol=1e-6)
        for mine, theirs in zip(state, after if cell == "lstm" else (after,), strict=True):
            assert torch.allclose(mine[:, number], theirs[:, 0], atol=1e-6)
        if both:  # backwards is forwards on the sequence turned round, with the other weights
            single = torch.nn.LSTM if cell == "lstm" else torch.nn.GRU if cell == "gru" else torch.nn.RNN
            one = single(6, 5, 1, batch_first=True)
            for name, parameter in one.named_parameters():
                parameter.data.copy_(getattr(made.cells, f"{name}_reverse"))
            turned, _ = one(x.flip(1))
            first_layer = single(6, 5, 1, batch_first=True, bidirectional=True)
            for name, parameter in first_layer.named_parameters():
                parameter.data.copy_(getattr(made.cells, name))
            assert torch.allclose(first_layer(x)[0][0, :, 5:], turned.flip(1)[0], atol=1e-6)


def test_gradients_reach_everything() -> None:
    made = encoder("gru", dropout=0.1).train()
    made(Ragged.of(SEQUENCES)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in made.parameters())


@pytest.mark.parametrize(
    ("kind", "labels", "shape"),
    [
        ("none", (), (19, 10)),
        ("masked", (), (19, 12)),
        ("replaced", (), (19,)),
        ("classify", ("x", "y", "z"), (5, 3)),
        ("tag", ("B", "I", "O"), (19, 3)),
        ("span", (), (19, 2)),
        ("pool", (), (5, 10)),
    ],
)
def test_every_head_stands_on_it(kind: HeadKind, labels: tuple[str, ...], shape: tuple[int, ...]) -> None:
    model = recurrent_encoder_model(config(), HeadConfig(kind=kind, labels=labels, crf=kind == "tag"))
    model.initialise(torch.Generator().manual_seed(0))
    assert isinstance(model, EncoderModel)
    assert model(Ragged.of(SEQUENCES)).shape == shape


def test_a_summary_is_of_all_tokens() -> None:
    head = HeadConfig(kind="classify", labels=("x", "y"), summary="max")
    model = recurrent_encoder_model(config(bidirectional=False), head)
    model.initialise(torch.Generator().manual_seed(0))
    batch = Ragged.of(SEQUENCES)
    vectors = torch.stack([part.amax(0) for part in batch.split(model.encoder(batch))])
    assert torch.allclose(model(batch), model.head(vectors), atol=1e-6)  # type: ignore[misc]
    for head in (HeadConfig(kind="classify", labels=("x",)), HeadConfig(kind="pool", pooling="first")):
        with pytest.raises(BadInput, match="knows nothing of what follows"):
            recurrent_encoder_model(config(bidirectional=False), head)


def test_configurations() -> None:
    for both in (True, False):
        for cell in CELLS:
            made = RecurrentEncoder(config(cell, bidirectional=both))
            assert sum(parameter.numel() for parameter in made.parameters()) == made.config.parameter_count()
    assert config().describe() == "BiLSTM, 2 layers, 5 wide"
    with pytest.raises(BadInput):
        config(dropout=1.0)
    with pytest.raises(BadInput, match="no second sentence"):
        encoder()(Ragged.of([[1, 2]], [[0, 1]]))

"""Recurrent encoder-decoders against a loop that does one sequence, one step and one source token at a time."""

import math

import pytest
import torch

from zhixing.core.errors import BadInput
from zhixing.core.recipe import OptimizerRecipe
from zhixing.models.loss import IGNORED
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent import CELLS, Cell
from zhixing.models.recurrent_attention import SCORES, SourceAttention
from zhixing.models.recurrent_encoder import RecurrentEncoderConfig
from zhixing.models.recurrent_seq2seq import RecurrentEncoderDecoder, RecurrentSeq2SeqConfig
from zhixing.training.optimizers import MuonAdamW

SOURCES = [[1, 2, 3, 4], [5], [6, 7], [8, 9, 1, 2, 3, 4]]
TARGETS = [[3], [4, 5, 6, 2], [7, 2], [1, 2, 3, 4, 2]]
KINDS: list[dict[str, object]] = [
    {"attention": "bahdanau", "score": "additive"},
    *({"attention": "luong", "score": score} for score in SCORES),
    {"attention": "luong", "score": "general", "input_feeding": True},
    {"attention": "luong", "score": "additive", "input_feeding": True},
]


def make(cell: Cell = "lstm", both: bool = True, **fields: object) -> RecurrentEncoderDecoder:
    sizes = {"vocab_size": 11, "embedding": 6}
    dropout = float(fields.get("dropout", 0))  # type: ignore[arg-type]
    encoder = RecurrentEncoderConfig(cell=cell, hidden=4, layers=2, bidirectional=both, dropout=dropout, **sizes)
    config = RecurrentSeq2SeqConfig(encoder, hidden=8 if both else 4, start=0, **sizes, **fields)  # type: ignore[arg-type]
    model = RecurrentEncoderDecoder(config)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model.eval()


def attend(attention: SourceAttention, state: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The formulas of the papers for one state, (hidden), and one source, (longest, width)."""
    energies = []
    for vector in vectors:
        if attention.score == "additive":
            inner = attention.query.weight @ state + attention.query.bias + attention.key.weight @ vector  # type: ignore[union-attr]
            energies.append(attention.energy.weight[0] @ torch.tanh(inner))  # type: ignore[union-attr]
        elif attention.score == "general":
            energies.append(state @ attention.key.weight @ vector)  # type: ignore[union-attr]
        else:
            energies.append(state @ vector)
    total = sum(math.exp(energy.item()) for energy in energies)
    weights = [math.exp(energy.item()) / total for energy in energies]
    return sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))  # type: ignore[return-value]


def plain(model: RecurrentEncoderDecoder, source: list[int], inputs: list[int]) -> torch.Tensor:
    """Logits behind each input token, (inputs, vocab)."""
    config, lstm = model.config, model.config.encoder.cell == "lstm"
    vectors, state = model.encoder.cells(model.encoder.embedding(torch.tensor([source])))
    vectors = vectors[0]
    bridged = []
    for number, part in enumerate(state if lstm else (state,)):
        rows = []
        for layer in range(config.encoder.layers):
            ends = part.view(config.encoder.layers, -1, part.shape[-1])[layer].flatten()
            one = model.bridge.maps[number * config.encoder.layers + layer]
            rows.append(torch.tanh(one.weight @ ends + one.bias))
        bridged.append(torch.stack(rows)[:, None])
    feed, found = torch.zeros(config.output), []
    for token in inputs:
        y = model.embedding.weight[token]
        before = bridged[0][-1, 0]
        if config.attention == "bahdanau":
            context = attend(model.attention, before, vectors)
            x = torch.cat((y, context))
        else:
            x = torch.cat((y, feed)) if config.input_feeding else y
        out, after = model.cells(x[None, None], tuple(bridged) if lstm else bridged[0])
        bridged = list(after) if lstm else [after]
        s = out[0, 0]
        if config.attention == "bahdanau":
            seen = torch.cat((s, context, y))
        else:
            seen = torch.cat((s, attend(model.attention, s, vectors)))
        feed = torch.tanh(model.combine.weight @ seen)
        found.append(model.output_matrix @ feed)
    return torch.stack(found)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_logits_are_those_of_a_plain_loop(kind: dict[str, object], cell: Cell) -> None:
    model = make(cell, **kind)
    sources, inputs = Ragged.of(SOURCES), model.shifted(Ragged.of(TARGETS))
    found = inputs.split(model(sources, inputs))
    for source, target, logits in zip(SOURCES, TARGETS, found, strict=True):
        assert torch.allclose(logits, plain(model, source, [0, *target[:-1]]), atol=1e-5)


@pytest.mark.parametrize(
    "fields", [{"shared": True}, {"tied": True}, {"shared": True, "tied": True, "input_feeding": True}, {"both": False}]
)
def test_shared_and_tied_tables_and_one_direction(fields: dict[str, object]) -> None:
    model = make("gru", **fields)  # type: ignore[arg-type]
    sources, inputs = Ragged.of(SOURCES[:2]), model.shifted(Ragged.of(TARGETS[:2]))
    for source, target, logits in zip(SOURCES, TARGETS, inputs.split(model(sources, inputs)), strict=False):
        assert torch.allclose(logits, plain(model, source, [0, *target[:-1]]), atol=1e-5)
    assert model.config.parameter_count() == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_reading_gives_the_same_logits_in_any_order_of_rows(kind: dict[str, object]) -> None:
    model = make(**kind)
    sources, inputs = Ragged.of(SOURCES), model.shifted(Ragged.of(TARGETS))
    expected = inputs.split(model(sources, inputs))
    network = model.reading(sources)
    cache = network.new_cache(4, 10)
    logits = network.next_logits(torch.zeros(4, 1, dtype=torch.long), cache)
    for row in range(4):
        assert torch.allclose(logits[row], expected[row][0], atol=1e-5)
    cache.repeat(2)
    cache.keep(torch.tensor([7, 2, 3]))  # the last source, and the second twice
    logits = network.next_logits(torch.tensor([[1], [4], [4]]), cache)
    for row, source in enumerate((3, 1, 1)):
        assert torch.allclose(logits[row], expected[source][1], atol=1e-5)


def test_padding_of_sources_gets_no_weight() -> None:
    for score in SCORES:
        attention = SourceAttention(5, 5, score)
        vectors = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
        states = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
        present = torch.tensor([[True, True, False, False], [True, True, True, True]])
        seen, weights = attention(states, attention.keys(vectors), vectors, present)
        assert weights[0, :, 2:].eq(0).all()
        assert torch.allclose(weights.sum(-1), torch.ones(2, 3))
        alone, _ = attention(states[:1], attention.keys(vectors[:1, :2]), vectors[:1, :2], None)
        assert torch.allclose(seen[:1], alone, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[:2] + KINDS[-1:], ids=lambda kind: "-".join(map(str, kind.values())))
def test_losses_and_gradients(kind: dict[str, object]) -> None:
    model = make(**kind, dropout=0.1)
    sources, targets = Ragged.of(SOURCES), Ragged.of(TARGETS)
    wanted = targets.tokens.clone()
    wanted[3] = IGNORED
    inputs = model.shifted(targets)
    assert [part.tolist() for part in inputs.split(inputs.tokens)] == [[0, *target[:-1]] for target in TARGETS]
    losses = model.losses(sources, inputs, wanted)
    logits = model(sources, inputs)
    expected = torch.nn.functional.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-5)
    model.train()
    model.loss_sum(sources, inputs, wanted).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_it_learns_to_copy() -> None:
    model = make("gru", attention="luong", score="dot")
    optimizer = MuonAdamW(model.named_parameters(), OptimizerRecipe(name="adamw", learning_rate=0.02))
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        lengths = torch.randint(1, 4, (16,), generator=generator)
        sequences = [torch.randint(2, 11, (int(n),), generator=generator).tolist() for n in lengths]
        targets = Ragged.of([[*sequence, 1] for sequence in sequences])
        loss = model.loss_sum(Ragged.of(sequences), model.shifted(targets), targets.tokens) / len(targets.tokens)
        loss.backward()
        optimizer.step(1.0)
        optimizer.zero_grad()
    assert loss.item() < 1.2  # ln 11 = 2.4 by chance


def test_what_cannot_be() -> None:
    with pytest.raises(BadInput, match="additive"):
        make(attention="bahdanau", score="dot")
    with pytest.raises(BadInput, match="start token"):
        RecurrentSeq2SeqConfig(make().config.encoder, 11, 6, 8, start=11)
    with pytest.raises(BadInput, match="one size for both"):
        RecurrentSeq2SeqConfig(make().config.encoder, 12, 6, 8, start=0, shared=True)
    with pytest.raises(BadInput, match="dot product"):
        SourceAttention(3, 4, "dot")
    model = make()
    with pytest.raises(BadInput, match="4 sources do not go with 1 targets"):
        model(Ragged.of(SOURCES), Ragged.of([[1]]))
    with pytest.raises(BadInput, match="4 sources"):
        model.reading(Ragged.of(SOURCES)).new_cache(3, 5)

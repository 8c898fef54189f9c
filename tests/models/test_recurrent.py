"""Recurrent language models against torch's cells run one token at a time, and the plain loops of their own parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.models.loss import IGNORED
from zhixing.models.network import UNBOUNDED
from zhixing.models.recurrent import (
    CELLS,
    Cell,
    RecurrentConfig,
    RecurrentNetwork,
    initialise_cells,
    make_cells,
    run_ragged,
)


def make(cell: Cell, tied: bool = False, hidden: int = 12, **fields: object) -> RecurrentNetwork:
    config = RecurrentConfig(vocab_size=11, cell=cell, width=8, hidden=hidden, layers=2, tied=tied, **fields)  # type: ignore[arg-type]
    network = RecurrentNetwork(config)
    network.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network.eval()


def plain_step(network: RecurrentNetwork, token: torch.Tensor, state: list) -> torch.Tensor:
    """One token through single torch cells that share the network's weights, layer by layer."""
    config, cells = network.config, network.cells
    x = network.embedding.weight[token]
    for layer in range(config.layers):
        weights = [getattr(cells, f"{kind}_l{layer}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        match config.cell:
            case "rnn":
                x = state[layer] = torch._VF.rnn_tanh_cell(x, state[layer], *weights)
            case "gru":
                x = state[layer] = torch._VF.gru_cell(x, state[layer], *weights)
            case "lstm":
                state[layer] = torch._VF.lstm_cell(x, state[layer], *weights)
                x = state[layer][0]
    if network.projection is not None:
        x = x @ network.projection.weight.T
    return x @ network.output_matrix.T


def zero_state(network: RecurrentNetwork, batch: int) -> list:
    zero = torch.zeros(batch, network.config.hidden)
    return [(zero, zero) if network.config.cell == "lstm" else zero for _ in range(network.config.layers)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("tied", "hidden"), [(False, 12), (True, 8), (True, 12)])
def test_logits_are_those_of_single_cells(cell: Cell, tied: bool, hidden: int) -> None:
    network = make(cell, tied, hidden)
    assert (network.projection is not None) == (tied and hidden != 8)
    tokens = torch.randint(0, 11, (3, 9), generator=torch.Generator().manual_seed(2))
    found = network(tokens)
    state, cache = zero_state(network, 3), network.new_cache(3, 9)
    for place in range(9):
        expected = plain_step(network, tokens[:, place], state)
        assert torch.allclose(found[:, place], expected, atol=1e-5)
        assert torch.allclose(network.next_logits(tokens[:, place : place + 1], cache), expected, atol=1e-5)
    assert sum(parameter.numel() for parameter in network.parameters()) == network.config.parameter_count()


@pytest.mark.parametrize("cell", CELLS)
def test_a_document_begins_with_nothing(cell: Cell) -> None:
    network = make(cell)
    tokens = torch.randint(0, 11, (2, 10), generator=torch.Generator().manual_seed(3))
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]])
    found = network.hidden_states(tokens, segments)
    for row, bounds in ((0, [(0, 3), (3, 7), (7, 10)]), (1, [(0, 9), (9, 10)])):
        for start, end in bounds:
            alone = network.hidden_states(tokens[row : row + 1, start:end])
            assert torch.allclose(found[row, start:end], alone[0], atol=1e-6)
    assert not torch.allclose(found[0, 3:], network.hidden_states(tokens)[0, 3:], atol=1e-3)


def test_losses() -> None:
    network = make("lstm")
    tokens = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(4))
    targets = tokens.roll(-1, 1)
    targets[0, 3] = IGNORED
    expected = torch.nn.functional.cross_entropy(
        network(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(2, 7)
    assert torch.allclose(network.losses(tokens, targets), expected, atol=1e-5)
    total = network.loss_sum(tokens, targets)
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-5)
    total.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_padded_prompts_and_a_cache_in_another_order(cell: Cell) -> None:
    network = make(cell)
    prompts = [[1, 2, 3, 4], [5], [6, 7, 8]]
    padding = torch.tensor([0, 3, 1])
    tokens = torch.tensor([[9] * (4 - len(prompt)) + prompt for prompt in prompts])
    cache = network.new_cache(3, 9, padding)
    together = network.next_logits(tokens, cache)
    for row, prompt in enumerate(prompts):
        alone = network.next_logits(torch.tensor([prompt]), network.new_cache(1, 9))
        assert torch.allclose(together[row], alone[0], atol=1e-5)
    cache.repeat(2)
    cache.keep(torch.tensor([4, 0]))
    after = network.next_logits(torch.tensor([[2], [2]]), cache)
    for row, prompt in enumerate(([6, 7, 8, 2], [1, 2, 3, 4, 2])):
        alone = network.next_logits(torch.tensor([prompt]), network.new_cache(1, 9))
        assert torch.allclose(after[row], alone[0], atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    cell=st.sampled_from(CELLS),
    both=st.booleans(),
    begun=st.booleans(),
)
def test_packing_is_one_sequence_after_the_other(lengths: list[int], cell: Cell, both: bool, begun: bool) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    cells = make_cells(cell, 3, 4, 2, bidirectional=both)
    initialise_cells(cells, generator)
    rows = [torch.randn(length, 3, generator=generator) for length in lengths]
    parts = 2 if cell == "lstm" else 1
    start = None
    if begun:
        start = tuple(torch.randn(2 + 2 * both, len(rows), 4, generator=generator) for _ in range(parts))
    out, state = run_ragged(cells, torch.cat(rows), lengths, start)
    outs = out.split(lengths)
    for number, row in enumerate(rows):
        own = None if start is None else tuple(part[:, number : number + 1].contiguous() for part in start)
        first = own if own is None or cell == "lstm" else own[0]
        out, after = cells(row[None], first)
        after = after if cell == "lstm" else (after,)
        assert torch.allclose(outs[number], out[0], atol=1e-6)
        for mine, theirs in zip(state, after, strict=True):
            assert torch.allclose(mine[:, number], theirs[:, 0], atol=1e-6)


def test_initial_weights() -> None:
    config = RecurrentConfig(vocab_size=50, cell="lstm", width=16, hidden=32, layers=2)
    network = RecurrentNetwork(config)
    network.initialise(torch.Generator().manual_seed(0))
    again = RecurrentNetwork(config)
    again.initialise(torch.Generator().manual_seed(0))
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    for gate in network.cells.weight_hh_l1.split(32):
        assert torch.allclose(gate @ gate.T, torch.eye(32), atol=1e-5)
    assert network.cells.bias_ih_l0[32:64].eq(1).all()
    assert network.cells.bias_ih_l0[:32].eq(0).all()
    assert network.head is not None
    assert network.head.weight.eq(0).all()


def test_configurations() -> None:
    config = RecurrentConfig(vocab_size=50, cell="gru", width=16, hidden=32, layers=2)
    assert config.context == UNBOUNDED
    assert config.describe() == "GRU, 2 layers, 32 wide"
    matrices = 3 * 32 * (16 + 32) + 3 * 32 * (32 + 32) + 50 * 32
    assert config.flops_per_token(1) == 6 * matrices
    for fields in ({"width": 0}, {"cell": "mamba"}, {"dropout": 1.0}):
        with pytest.raises(BadInput):
            RecurrentConfig(**{"vocab_size": 5, "cell": "rnn", "width": 2, "hidden": 2, "layers": 1, **fields})  # type: ignore[arg-type]

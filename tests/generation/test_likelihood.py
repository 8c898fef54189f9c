"""Likelihoods of continuations, held against whole passes over prompt and continuation."""

import pytest
import torch
from tests.generation.chat_model import chat_network, chat_tokenizer

from zhixing.core.errors import BadInput
from zhixing.generation.likelihood import Likelihoods
from zhixing.models.network import CausalNetwork
from zhixing.models.recurrent import RecurrentConfig, RecurrentNetwork
from zhixing.native.choice import choose

CONTINUATIONS = [[5], [5, 6], [5, 6, 7], [9, 9], [6]]


def plain(model: CausalNetwork, prompt: list[int], continuation: list[int]) -> float:
    tokens = torch.tensor([[*prompt, *continuation]])
    targets = torch.full_like(tokens, -100)
    targets[0, len(prompt) - 1 : -1] = torch.tensor(continuation)
    return -float(model.losses(tokens, targets).sum())


def networks() -> list[CausalNetwork]:
    tokenizer = chat_tokenizer()
    transformer = chat_network(tokenizer)
    recurrent = RecurrentNetwork(
        RecurrentConfig(vocab_size=40, cell="lstm", width=8, hidden=8, layers=1, zero_init_outputs=False)
    )
    recurrent.initialise(torch.Generator().manual_seed(0))
    return [transformer, recurrent.eval()]


@pytest.mark.parametrize("index", [0, 1])
def test_they_are_those_of_whole_passes(index: int) -> None:
    model = networks()[index]
    likelihoods = Likelihoods(model)
    for prompt in ([1, 2, 3, 4], [1, 2, 3, 8, 9], [1, 2], [1, 2, 3, 8, 9]):
        found = likelihoods(prompt, CONTINUATIONS)
        expected = [plain(model, prompt, continuation) for continuation in CONTINUATIONS]
        assert found == pytest.approx(expected, abs=1e-4)


def test_the_core_gives_the_same() -> None:
    model = networks()[0]
    network = choose(model).network
    if network is None:
        pytest.skip("no native core")
    found = Likelihoods(network)([1, 2, 3], CONTINUATIONS)
    assert found == pytest.approx([plain(model, [1, 2, 3], one) for one in CONTINUATIONS], abs=0.05)


def test_too_long_is_said() -> None:
    with pytest.raises(BadInput, match="more than the model reads"):
        Likelihoods(networks()[0])([1] * 600, [[1]])

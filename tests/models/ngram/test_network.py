"""The network around the tables, and its file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.loss import IGNORED
from zhixing.models.ngram.network import NgramNetwork
from zhixing.models.ngram.storage import read_tables, write_tables
from zhixing.models.ngram.tables import NgramTables

from .reference import build


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> NgramTables:
    generator = np.random.default_rng(1)
    documents = [[*generator.integers(0, 6, generator.integers(1, 20)).tolist(), 6] for _ in range(40)]
    return build(documents, 4, 8, 6, tmp_path_factory.mktemp("model"))[0]


@pytest.fixture(scope="module")
def network(tables: NgramTables) -> NgramNetwork:
    return NgramNetwork(tables)


def test_losses_are_those_of_one_token_at_a_time(network: NgramNetwork) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 8, (3, 40), generator=generator)
    targets = torch.randint(0, 8, (3, 40), generator=generator)
    targets[:, 5] = IGNORED
    found = network.losses(tokens, targets)
    cache = network.new_cache(3, 40)
    for place in range(40):
        logits = network.next_logits(tokens[:, place : place + 1], cache)
        if place == 5:
            assert (found[:, 5] == 0).all()
        else:
            expected = -logits.gather(1, targets[:, place : place + 1])[:, 0]
            assert torch.allclose(found[:, place], expected, atol=1e-4)


def test_padding_on_the_left_is_not_seen(network: NgramNetwork) -> None:
    prompts = [[1, 2, 3, 4], [2], [5, 0, 1]]
    padding = torch.tensor([4 - len(prompt) for prompt in prompts])
    tokens = torch.tensor([[0] * (4 - len(prompt)) + prompt for prompt in prompts])
    cache = network.new_cache(3, 10, padding)
    together = network.next_logits(tokens, cache)
    alone = torch.cat([network.next_logits(torch.tensor([prompt]), network.new_cache(1, 10)) for prompt in prompts])
    assert torch.equal(together, alone)
    cache.repeat(2)
    cache.keep(torch.tensor([5, 0]))
    after = network.next_logits(torch.tensor([[3], [3]]), cache)
    expected = network.next_logits(torch.tensor([[5, 0, 1, 3]]), network.new_cache(1, 10))
    assert torch.equal(after[:1], expected)


def test_segments_hide_earlier_documents(network: NgramNetwork) -> None:
    tokens, segments = torch.tensor([[1, 2, 3, 1, 2, 3, 4]]), torch.tensor([[0, 0, 0, 1, 1, 2, 2]])
    targets = torch.tensor([[2, 3, 4, 2, 3, 4, 5]])
    found = network.losses(tokens, targets, segments)
    parts = [network.losses(tokens[:, a:b], targets[:, a:b]) for a, b in ((0, 3), (3, 5), (5, 7))]
    assert torch.equal(found, torch.cat(parts, 1))
    assert not torch.equal(found, network.losses(tokens, targets))


def test_another_begin_token_counts_as_the_beginning(tables: NgramTables) -> None:
    network = NgramNetwork(NgramTables(8, 6, tables.keys, tables.log_probabilities, tables.log_backoffs, begin_token=7))
    targets = torch.tensor([[1, 2]])
    assert torch.equal(network.losses(torch.tensor([[7, 1]]), targets), network.losses(torch.tensor([[6, 1]]), targets))


def test_gradients_are_refused(network: NgramNetwork) -> None:
    with pytest.raises(BadInput, match="counted"):
        network.loss_sum(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))


def test_the_file_is_safetensors_and_reads_back(tables: NgramTables, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_tables(tables, file)
    assert np.array_equal(load_file(file)["order_3.keys"], tables.keys[1])
    back = read_tables(file, 4, 8, 6, None)
    for mine, theirs in zip(
        [*tables.keys, *tables.log_probabilities, *tables.log_backoffs],
        [*back.keys, *back.log_probabilities, *back.log_backoffs],
        strict=True,
    ):
        assert np.array_equal(mine, theirs)


def test_damaged_files_are_refused(tables: NgramTables, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(MissingResource):
        read_tables(file, 4, 8, 6, None)
    write_tables(tables, file)
    whole = load_file(file)
    for order, vocab_size, begin, message in ((3, 8, 6, "order 3"), (4, 9, 6, "expected 9"), (4, 8, 8, "expected 9")):
        with pytest.raises(BadInput, match=message):
            read_tables(file, order, vocab_size, begin, None)
    unordered = whole["order_3.keys"].copy()
    unordered[[3, 4]] = unordered[[4, 3]]
    outside = whole["order_2.keys"].copy()
    outside[-1] = 64
    nan = whole["order_2.log_backoffs"].copy()
    nan[2] = np.nan
    for name, array, message in (
        ("order_3.keys", unordered, "not in order"),
        ("order_2.keys", outside, "outside"),
        ("order_2.keys", whole["order_2.keys"][1:], "but"),
        ("order_2.log_backoffs", nan, "not numbers"),
        ("order_2.log_backoffs", whole["order_2.log_backoffs"][1:], "back-off weights"),
        ("order_2.log_backoffs", whole["order_2.log_backoffs"][None], "2 dimensions"),
        ("order_2.keys", whole["order_2.keys"].astype(np.float32), "does not belong"),
    ):
        save_file({**whole, name: np.ascontiguousarray(array)}, file)
        with pytest.raises(BadInput, match=message):
            read_tables(file, 4, 8, 6, None)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(BadInput, match="safetensors"):
        read_tables(file, 4, 8, 6, None)
    file.write_bytes((1 << 62).to_bytes(8, "little") + json.dumps({}).encode())
    with pytest.raises(BadInput, match="safetensors"):
        read_tables(file, 4, 8, 6, None)

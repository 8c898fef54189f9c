"""Ragged batches against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.models.heads import pool
from zhixing.models.positions import sinusoids
from zhixing.models.ragged import Ragged, batches_by_length


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=8))
def test_layout(sequences):
    batch = Ragged.of(sequences)
    flat = [token for sequence in sequences for token in sequence]
    assert batch.tokens.tolist() == flat
    assert batch.positions.tolist() == [position for sequence in sequences for position in range(len(sequence))]
    assert [part.tolist() for part in batch.split(batch.tokens)] == sequences
    assert batch.firsts(batch.tokens[:, None])[:, 0].tolist() == [sequence[0] for sequence in sequences]
    rows, mask = batch.padded(batch.tokens, fill=-1)
    assert [[value for value in row if value >= 0] for row in rows.tolist()] == sequences
    assert mask.sum(1).tolist() == [len(sequence) for sequence in sequences]
    assert sum(count * length for _, count, length in batch.runs) == len(flat)


@pytest.mark.parametrize("mode", ["mean", "first", "max", "mean_sqrt"])
def test_pooling_is_that_of_a_loop(mode):
    batch = Ragged.of([[1, 2, 3], [4], [5, 6]])
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    expected = []
    for part in torch.split(vectors, [3, 1, 2]):
        value = {
            "mean": part.mean(0),
            "first": part[0],
            "max": part.amax(0),
            "mean_sqrt": part.sum(0) / len(part) ** 0.5,
        }
        expected.append(value[mode])
    torch.testing.assert_close(pool(vectors, batch, mode, False), torch.stack(expected))
    torch.testing.assert_close(pool(vectors, batch, mode, True).norm(dim=1), torch.ones(3))


def test_an_empty_sequence_is_refused():
    with pytest.raises(BadInput):
        Ragged.of([[1], []])


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100))
def test_groups_hold_every_sequence_once_and_keep_the_bound(lengths, most):
    groups = list(batches_by_length(lengths, most))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or sum(lengths[index] for index in group) <= most


def test_sinusoids_by_the_formula():
    table = sinusoids(torch.arange(7), 6)
    for position in range(7):
        for column in range(6):
            angle = position / 10_000 ** (2 * (column % 3) / 6)
            wanted = torch.sin(torch.tensor(angle)) if column < 3 else torch.cos(torch.tensor(angle))
            assert table[position, column] == pytest.approx(float(wanted), abs=1e-5)

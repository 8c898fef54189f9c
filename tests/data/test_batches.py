from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.data import IGNORE, PackedSampler, TokenStore, sequential_blocks
from zhixing.data.batches import mix, permute


def store(count: int, *lengths: int) -> TokenStore:
    """A store whose tokens are their own positions, so that every batch can be checked."""
    bounds = np.cumsum([0, *lengths]) if lengths else np.array([0, count])
    return TokenStore.from_documents([range(a, b) for a, b in itertools.pairwise(bounds)])


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permutation_is_one_to_one(count: int, key: int) -> None:
    assert sorted(permute(np.arange(count), count, key)) == list(range(count))


@settings(deadline=None)
@given(st.integers(1, 2**61), st.integers(0, 2**64 - 1), st.lists(st.floats(0, 0.999999), min_size=1, max_size=20))
def test_permutation_of_a_vast_range_needs_no_memory(count: int, key: int, places: list[float]) -> None:
    indices = np.unique(np.array([int(place * count) for place in places]))
    images = permute(indices, count, key)
    assert len(np.unique(images)) == len(indices)
    assert images.min() >= 0
    assert images.max() < count
    one_by_one = [int(permute(np.array([index]), count, key)[0]) for index in indices]
    assert one_by_one == images.tolist()


def test_permutations_are_random_enough() -> None:
    count = 1000
    images = np.stack([permute(np.arange(count), count, key) for key in range(200)])
    # Chi-squared of where each of ten indices lands, in ten bins: mean 9, standard deviation about 4.2.
    for index in range(0, count, 100):
        bins = np.bincount(images[:, index] * 10 // count, minlength=10)
        assert ((bins - 20) ** 2 / 20).sum() < 35
    neighbours = np.mean(np.abs(np.diff(images, axis=1)) == 1)
    assert neighbours < 0.01


def test_mix_is_splitmix64() -> None:
    # The first outputs of the reference implementation for seed 1234567.
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 200), st.integers(1, 40), st.integers(1, 9), st.integers(0, 10**9))
def test_an_epoch_has_each_block_once(count: int, block: int, batch: int, seed: int) -> None:
    if count < block + 1:
        return
    sampler = PackedSampler(store(count), block, batch, seed)
    rows: list[np.ndarray] = []
    epochs = 3
    expected = [sampler.blocks_in_epoch(epoch) for epoch in range(epochs)]
    while len(rows) < sum(expected):
        found = sampler.next()
        assert found.tokens.shape == found.targets.shape == (batch, block)
        assert found.tokens.dtype == found.targets.dtype == np.int64
        np.testing.assert_array_equal(found.targets, found.tokens + 1)
        rows += list(found.tokens)
    for blocks in expected:
        now, rows = rows[:blocks], rows[blocks:]
        seen = Counter(token for row in now for token in row.tolist())
        assert max(seen.values()) == 1
        assert len(seen) == blocks * block
        assert blocks >= max(1, (count - 1) // block - 1)


def test_phases_and_orders_differ_between_epochs_and_seeds() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = PackedSampler(store(10_000), 32, 8, seed)
        sampler.epoch = epoch
        return tuple(row[0] for _ in range(10) for row in sampler.next().tokens)

    orders = {order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert len({each[0] % 32 for each in orders}) > 3


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["shuffle", "random"]), st.integers(0, 30), st.booleans(), st.integers(1, 7))
def test_resume_is_exact(mode: str, steps: int, within: bool, new_batch: int) -> None:
    data = store(0, 50, 70, 30, 51)
    whole = PackedSampler(data, 8, 3, seed=5, mode=mode, within_documents=within)
    for _ in range(steps):
        whole.next()
    state = json.loads(json.dumps(whole.state_dict()))
    again = PackedSampler(data, 8, 3, seed=5, mode=mode, within_documents=within)
    again.load_state_dict(state)
    for _ in range(20):
        one, other = whole.next(), again.next()
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.targets, other.targets)
        assert (one.segments is None) == (not within)
        if one.segments is not None and other.segments is not None:
            np.testing.assert_array_equal(one.segments, other.segments)
    # The order of blocks does not depend on how many make a batch.
    other_size = PackedSampler(data, 8, new_batch, seed=5, mode=mode)
    other_size.load_state_dict(state)
    again.load_state_dict(state)
    np.testing.assert_array_equal(
        np.concatenate([other_size.next().tokens for _ in range(3)]),
        np.concatenate([again.next().tokens for _ in range(7)])[: 3 * new_batch],
    )


def test_state_of_another_run_is_refused() -> None:
    state = PackedSampler(store(100), 8, 2, seed=1).state_dict()
    for other in (
        PackedSampler(store(101), 8, 2, seed=1),
        PackedSampler(store(100), 9, 2, seed=1),
        PackedSampler(store(100), 8, 2, seed=2),
        PackedSampler(store(100), 8, 2, seed=1, mode="random"),
    ):
        with pytest.raises(BadInput, match="the sampler's state has"):
            other.load_state_dict(state)


def test_processes_share_the_order() -> None:
    whole = PackedSampler(store(500), 8, 6, seed=3)
    parts = [PackedSampler(store(500), 8, 2, seed=3, rank=rank, world=3) for rank in range(3)]
    for _ in range(30):
        together = np.concatenate([part.next().tokens for part in parts])
        np.testing.assert_array_equal(whole.next().tokens, together)


def test_random_offsets_cover_every_place() -> None:
    sampler = PackedSampler(store(40), 8, 64, seed=0, mode="random")
    seen = Counter(row[0] for _ in range(100) for row in sampler.next().tokens)
    assert set(seen) == set(range(32))  # the last target is token 39
    assert min(seen.values()) > 120
    assert max(seen.values()) < 290


def test_too_short_and_senseless() -> None:
    with pytest.raises(BadInput, match="8 tokens, a block of 8 needs 9") as error:
        PackedSampler(store(8), 8, 1)
    assert "at most 7" in str(error.value)
    assert PackedSampler(store(9), 8, 1).next().targets[0, -1] == 8
    with pytest.raises(BadInput, match="did you mean 'shuffle'"):
        PackedSampler(store(9), 8, 1, mode="shufle")
    with pytest.raises(BadInput, match="positive"):
        PackedSampler(store(9), 8, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 20))
def test_within_documents(lengths: list[int], block: int) -> None:
    if sum(lengths) < block + 1:
        return
    data = store(0, *lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    found = PackedSampler(data, block, 4, within_documents=True).next()
    assert found.segments is not None
    for tokens, targets, segments in zip(found.tokens, found.targets, found.segments, strict=True):
        owners = owner[tokens]
        assert segments[0] == 0
        np.testing.assert_array_equal(np.diff(segments), (np.diff(owners) != 0).astype(int))
        crossing = owner[tokens + 1] != owners
        np.testing.assert_array_equal(targets, np.where(crossing, IGNORE, tokens + 1))
    assert found.target_count == (found.targets != IGNORE).sum()


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 200), st.integers(1, 50), st.integers(1, 50), st.integers(1, 5), st.none() | st.integers(2, 220))
def test_sequential_blocks_count_each_target_once(
    count: int, block: int, stride: int, batch: int, limit: int | None
) -> None:
    stride = min(stride, block)
    last = min(count, limit or count)
    counted: Counter[int] = Counter()
    for found in sequential_blocks(store(count), block, stride, batch=batch, limit=limit):
        assert len(found.tokens) <= batch
        for tokens, targets in zip(found.tokens, found.targets, strict=True):
            chosen = targets != IGNORE
            np.testing.assert_array_equal(targets[chosen], tokens[chosen] + 1)
            counted.update(targets[chosen].tolist())
            if tokens[0] > 0 and targets.max() < last - 1:  # but in the first and last window, context is as promised
                assert chosen.sum() == stride
                assert chosen[-stride:].all()
    assert counted == dict.fromkeys(range(1, last), 1)


def test_sequential_blocks_refuse_what_cannot_be() -> None:
    with pytest.raises(BadInput, match="stride"):
        next(sequential_blocks(store(9), 4, 5))
    with pytest.raises(BadInput, match="at least 2"):
        next(sequential_blocks(store(1), 4))

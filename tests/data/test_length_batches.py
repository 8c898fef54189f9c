"""Batches by length: every example once an epoch, within the budget, alike in length, and exactly resumable."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput, MissingResource
from zhixing.data.examples import ExampleStore, ExampleWriter, read_text, stored_text
from zhixing.data.length_batches import LengthSampler


def write(folder: Path, lengths: list[int]) -> ExampleStore:
    with ExampleWriter(folder, {"tokens": "int32", "note": "uint8"}) as writer:
        for number, length in enumerate(lengths):
            note = stored_text(f"第{number}条")
            writer.add({"tokens": np.full(length, number, np.int32), "note": note}, length, number // 2)
    return ExampleStore(folder)


@pytest.fixture
def store(tmp_path: Path) -> ExampleStore:
    generator = np.random.default_rng(0)
    return write(tmp_path / "store", generator.integers(1, 60, 500).tolist())


def numbers(batch: object) -> list[int]:
    return [int(example["tokens"][0]) for example in batch.examples]  # type: ignore[attr-defined]


def test_examples_come_back_as_they_were_written(store: ExampleStore) -> None:
    for index in (0, 1, 499):
        example = store[index]
        assert example["tokens"].tolist() == [index] * int(store.lengths[index])
        assert read_text(example["note"]) == f"第{index}条"
    assert store.records[7] == 3


def test_a_damaged_store_is_refused(store: ExampleStore) -> None:
    file = store.folder / "tokens.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(BadInput, match=r"tokens.bin is missing or cut short"):
        ExampleStore(store.folder)
    (store.folder / "index.json").write_text(json.dumps({"fields": {"x": "object"}, "count": 1}))
    with pytest.raises(BadInput, match="not an index"):
        ExampleStore(store.folder)
    with pytest.raises(MissingResource):
        ExampleStore(store.folder / "none")


@pytest.mark.parametrize("size", [{"batch_size": 7}, {"batch_tokens": 200}])
def test_an_epoch_has_every_example_once(store: ExampleStore, size: dict[str, int]) -> None:
    sampler = LengthSampler(store, 3, **size)
    for epoch in range(2):
        seen: list[int] = []
        while sampler.epoch == epoch:
            batch = sampler.next()
            seen += numbers(batch)
            if "batch_size" in size:
                assert len(batch.examples) <= 7
            else:
                assert sum(len(example["tokens"]) for example in batch.examples) <= 200
        assert sorted(seen) == list(range(500))


def test_lengths_in_a_batch_are_alike(store: ExampleStore) -> None:
    sampler = LengthSampler(store, batch_size=8)
    waste = []
    for _ in range(sampler.batches_in(1)):
        lengths = [len(example["tokens"]) for example in sampler.next().examples]
        waste.append(1 - sum(lengths) / (len(lengths) * max(lengths)))
    assert np.mean(waste) < 0.08  # in random order it is 45 %


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.booleans())
def test_a_restored_sampler_goes_on_exactly(
    tmp_path_factory: pytest.TempPathFactory, before: int, by_count: bool
) -> None:
    store = write(tmp_path_factory.mktemp("s") / "store", np.random.default_rng(1).integers(1, 30, 90).tolist())
    size = {"batch_size": 4} if by_count else {"batch_tokens": 64}
    sampler, other = LengthSampler(store, 5, **size), LengthSampler(store, 5, **size)
    for _ in range(before):
        sampler.next()
    other.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    for _ in range(40):
        one, two = sampler.next(), other.next()
        assert (numbers(one), one.key) == (numbers(two), two.key)


def test_a_state_of_other_records_is_refused(store: ExampleStore) -> None:
    state = LengthSampler(store, 5, batch_size=4).state_dict()
    for other in (LengthSampler(store, 6, batch_size=4), LengthSampler(store, 5, batch_size=5)):
        with pytest.raises(BadInput, match="resume with the data and settings"):
            other.load_state_dict(state)


def test_batches_in_counts_what_comes(store: ExampleStore) -> None:
    sampler = LengthSampler(store, batch_tokens=200)
    count = 0
    while sampler.epoch == 0:
        sampler.next()
        count += 1
    assert LengthSampler(store, batch_tokens=200).batches_in(1) == count
    assert LengthSampler(store, batch_tokens=200).batches_in(0.5) == pytest.approx(count / 2, rel=0.15)
    assert LengthSampler(store, batch_tokens=200).batches_in(10) == pytest.approx(count * 10, rel=0.02)


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no records to train on"):
        LengthSampler(write(tmp_path / "store", []), batch_size=4)

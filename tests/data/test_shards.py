from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput, MissingResource
from zhixing.data import TokenStore, build_shards, open_shards
from zhixing.data.writer import SplitWriter

from .byte_tokenizer import ByteTokenizer


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.data())
def test_reads_across_files(lengths: list[int], data: st.DataObject) -> None:
    total = sum(lengths)
    arrays = np.split(np.arange(total, dtype=np.uint16), np.cumsum(lengths)[:-1])
    store = TokenStore(arrays, np.array([0, total], np.uint64), np.array([total], np.uint64))
    start = data.draw(st.integers(0, total))
    count = data.draw(st.integers(0, total - start))
    np.testing.assert_array_equal(store.read(start, count), np.arange(start, start + count))
    for bad_start, bad_count in ((-1, 1), (total, 1), (0, total + 1), (0, -1)):
        with pytest.raises(IndexError):
            store.read(bad_start, bad_count)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.data())
def test_documents_at(lengths: list[int], data: st.DataObject) -> None:
    store = TokenStore.from_documents([[7] * length for length in lengths])
    owners = np.repeat(np.arange(len(lengths)), lengths)
    start = data.draw(st.integers(0, max(0, len(store) - 1)))
    count = data.draw(st.integers(0, len(store) - start))
    np.testing.assert_array_equal(store.documents_at(start, count), owners[start : start + count])


def test_whole_documents() -> None:
    store = TokenStore.from_documents([[1] * 5, [2] * 3, [3] * 4], [50, 30, 40])
    expected = {0: (5, 50), 5: (5, 50), 7: (5, 50), 8: (8, 80), 11: (8, 80), 12: (12, 120), 99: (12, 120)}
    assert {limit: store.whole_documents(limit) for limit in expected} == expected
    assert TokenStore.from_documents([]).whole_documents(9) == (0, 0)


def test_writer_fills_files_to_the_limit(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path, "train", np.dtype("<u4"), shard_tokens=100)
    generator = np.random.default_rng(0)
    written = []
    for _ in range(20):
        lengths = generator.integers(1, 60, size=3)
        tokens = generator.integers(0, 1 << 20, size=lengths.sum()).astype(np.uint32)
        writer.write(tokens, lengths, lengths.tolist(), int(lengths.sum()))
        written.append(tokens)
    names, files = writer.close()
    everything = np.concatenate(written)
    assert [files[name]["size"] for name in names[:-1]] == [400] * (len(everything) // 100)
    np.testing.assert_array_equal(np.concatenate([np.fromfile(tmp_path / name, "<u4") for name in names]), everything)
    assert writer.facts.tokens == len(everything)
    assert writer.facts.documents == 60
    documents = np.fromfile(tmp_path / "train.documents", "<u8")
    assert documents[0] == 0
    assert documents[-1] == len(everything)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(40):
        (tmp_path / "text" / f"{number}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "text" / f"{number}.txt").write_text(f"document {number}: 知行合一")
    build_shards([tmp_path / "text"], ByteTokenizer(), tmp_path / "shards")
    return tmp_path / "shards"


def test_whole_shards_verify(shards: Path) -> None:
    found = open_shards(shards, fingerprint="bytes")
    found.verify()
    assert found.train.dtype == np.uint16
    with pytest.raises(BadInput, match="another tokenizer"):
        open_shards(shards, fingerprint="others")


def test_every_kind_of_damage_is_one_clear_error(shards: Path, tmp_path: Path) -> None:
    files = sorted(path.name for path in shards.iterdir() if path.name not in ("index.json", "inputs.json"))
    assert files == [
        *("train-00000.tokens", "train.bytes", "train.documents"),
        *("validation-00000.tokens", "validation.bytes", "validation.documents"),
    ]
    copy = tmp_path / "copy"
    for name in files:
        for damage in ("truncate", "lengthen", "remove", "alter"):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(shards, copy)
            content = bytearray((copy / name).read_bytes())
            if damage == "remove":
                (copy / name).unlink()
            else:
                if damage == "alter":
                    content[0] ^= 1
                (copy / name).write_bytes(
                    content[:-3] if damage == "truncate" else content + b"x" * (damage == "lengthen")
                )
            with pytest.raises(BadInput, match="corrupt token shards") as error:
                open_shards(copy).verify()
            assert name in str(error.value)
            assert "build it again" in str(error.value)


def test_damaged_index(shards: Path) -> None:
    index = json.loads((shards / "index.json").read_text())
    for change, message in (
        ({"version": 99}, "format version 99"),
        ({"dtype": "float64"}, "corrupt"),
        ({"files": {}}, "corrupt"),
        ({"facts": {}}, "corrupt"),
        ({"splits": {"train": ["../../etc/passwd"], "validation": []}}, "strange file name"),
        ({"splits": {"train": [], "validation": []}}, "corrupt"),
    ):
        (shards / "index.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(BadInput, match=message):
            open_shards(shards)
    for content in ("", "[]", "{}", '{"version": 1', '{"version": 1}'):
        (shards / "index.json").write_text(content)
        with pytest.raises(BadInput):
            open_shards(shards)
    (shards / "index.json").unlink()
    with pytest.raises(MissingResource, match="no token shards here"):
        open_shards(shards)


def test_facts_survive_the_disk(shards: Path) -> None:
    found = open_shards(shards)
    facts = found.facts
    assert facts.train.documents + facts.validation.documents == 40
    assert facts.train.bytes == found.train.byte_count
    assert facts.train.tokens == len(found.train) == facts.train.bytes + facts.train.documents
    assert type(facts).from_json(json.loads(json.dumps(facts.to_json()))).to_json() == facts.to_json()

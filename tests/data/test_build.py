from __future__ import annotations

import errno
import json
import os
import random
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import FolderLock
from zhixing.data import ShardOptions, ShardSet, build_shards, open_shards
from zhixing.data.encode import flatten
from zhixing.data.seams import seamless_chunks

from .byte_tokenizer import ByteTokenizer, WordTokenizer

MIXED = "知 行 合 一 the of model language train, data. 学而时习之 不亦说乎 x'll"
WORDS = [*MIXED.split(), "\n", "\n\n", "", ""]


def make_text(seed: int, count: int) -> str:
    generator = random.Random(seed)
    return " ".join(generator.choices(WORDS, k=count))


def write(folder: Path, **contents: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.txt").write_text(content, newline="")
    return folder


def side_of_each(shards: ShardSet) -> dict[str, str]:
    tokenizer = ByteTokenizer()
    sides = {}
    for side, store in (("train", shards.train), ("validation", shards.validation)):
        for index in range(store.document_count):
            sides[tokenizer.decode(store.document(index).tolist())] = side
    return sides


def test_documents_go_through_unchanged(tmp_path: Path) -> None:
    contents = {f"d{number:03}": f"文档 {number}: {make_text(number, number)}" for number in range(100)}
    folder = write(tmp_path / "text", **contents)
    shards = build_shards([folder], ByteTokenizer(), tmp_path / "shards")
    assert set(side_of_each(shards)) == set(contents.values())
    facts = shards.facts
    assert facts.train.documents + facts.validation.documents == facts.sources == 100
    assert facts.train.bytes + facts.validation.bytes == sum(len(text.encode()) for text in contents.values())
    assert facts.train.characters + facts.validation.characters == sum(map(len, contents.values()))
    assert 0 < facts.validation.documents < 20
    assert (facts.separator_id, facts.vocab_size, facts.notes) == (256, 257, ())
    for store in (shards.train, shards.validation):
        for index in range(store.document_count):
            tokens = store.document(index)
            assert tokens[-1] == 256
            assert store.document_bytes[index] == len(tokens) - 1


def test_the_split_is_stable_under_added_and_appended_text(tmp_path: Path) -> None:
    contents = {f"d{number:03}": f"document {number}" for number in range(200)}
    # One long file, which is cut into documents, and which grows.
    contents["long"] = "\n\n".join(make_text(number, 60).replace("\n", " ") for number in range(2000))
    folder = write(tmp_path / "text", **contents)
    options = ShardOptions(validation_fraction=0.2)
    before = side_of_each(build_shards([folder], ByteTokenizer(), tmp_path / "shards", options))
    write(folder, **{f"a{number:03}": f"added {number}" for number in range(100)})
    write(folder, long=contents["long"] + "\n\n" + "\n\n".join(make_text(number, 60) for number in range(200)))
    shards = build_shards([folder], ByteTokenizer(), tmp_path / "shards", options)
    assert not shards.reused
    after = side_of_each(shards)
    changed = [text for text in before if text not in after]
    assert len(changed) == 1  # the last piece of the long file
    assert all(after[text] == side for text, side in before.items() if text in after)
    assert len(before) > 203


def test_equal_documents_land_on_one_side(tmp_path: Path) -> None:
    for number in range(50):
        write(tmp_path / "text", **{f"a{number}": f"text {number % 10}"})
    shards = build_shards([tmp_path / "text"], ByteTokenizer(), tmp_path / "shards", ShardOptions(0.5))
    assert len(side_of_each(shards)) == 10
    assert shards.facts.train.documents % 5 == shards.facts.validation.documents % 5 == 0


def test_few_documents_still_give_validation(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first text", b="second text", c="third text")
    shards = build_shards([folder], ByteTokenizer(), tmp_path / "shards", ShardOptions(0.001))
    assert (shards.facts.train.documents, shards.facts.validation.documents) == (2, 1)
    assert "nearest one" in shards.facts.notes[0]
    one = build_shards([folder / "a.txt"], ByteTokenizer(), tmp_path / "one", ShardOptions(0.2))
    assert side_of_each(one) == {"first te": "train", "xt": "validation"}
    assert "last 20 % of the text" in one.facts.notes[0]
    none = build_shards([folder], ByteTokenizer(), tmp_path / "none", ShardOptions(0))
    assert len(none.validation) == none.validation.byte_count == 0
    assert none.facts.notes == ()


def test_tail_without_separator_is_the_text_encoded_as_a_whole(tmp_path: Path) -> None:
    text = make_text(1, 90_000)
    folder = write(tmp_path / "text", a=text[:200_000], b=text[200_000:])
    options = ShardOptions(validation_fraction=0.1, split="tail", separator=False)
    left = int(len(text) * (1 - 0.1))
    for tokenizer in (ByteTokenizer(end_of_text_id=None), WordTokenizer(50_000)):
        shards = build_shards([folder], tokenizer, tmp_path / f"shards{tokenizer.vocab_size}", options)
        assert shards.train.read(0, len(shards.train)).tolist() == tokenizer.encode_batch([text[:left]])[0]
        assert shards.validation.read(0, len(shards.validation)).tolist() == tokenizer.encode_batch([text[left:]])[0]
        assert shards.facts.train.characters == left
        assert shards.facts.train.bytes == len(text[:left].encode())
        assert shards.facts.train.documents > 3
        assert shards.facts.notes == ()


def test_seams_say_when_a_tokenizer_has_none(tmp_path: Path) -> None:
    notes: list[str] = []
    text = make_text(2, 3000)
    prefixing = lambda texts: [[0, *text.encode()] for text in texts]  # noqa: E731
    assert "".join(seamless_chunks([text], prefixing, notes.append, 600)) == text
    assert len(notes) == 1
    assert "depend on where a text begins" in notes[0]


def test_tail_with_separators_keeps_documents(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="0123456789", b="abcdefghij")
    shards = build_shards([folder], ByteTokenizer(), tmp_path / "shards", ShardOptions(0.25, split="tail"))
    assert side_of_each(shards) == {"0123456789": "train", "abcde": "train", "fghij": "validation"}


def test_built_again_only_when_something_changed(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first", b="second")
    target = tmp_path / "shards"

    def built(tokenizer: ByteTokenizer | None = None, options: ShardOptions | None = None) -> bool:
        return not build_shards([folder], tokenizer or ByteTokenizer(), target, options).reused

    assert built()
    assert not built()
    os.utime(folder / "a.txt", (1, 1))
    assert not built()  # another time, the same content
    status = (folder / "a.txt").stat()
    (folder / "a.txt").write_text("FIRST")
    os.utime(folder / "a.txt", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert built()
    write(folder, c="third")
    assert built()
    (folder / "c.txt").unlink()
    assert built()
    assert built(ByteTokenizer(fingerprint="other"))
    assert built(ByteTokenizer(fingerprint="other"), ShardOptions(seed=1))
    assert not built(ByteTokenizer(fingerprint="other"), ShardOptions(seed=1))
    (target / "train.bytes").write_bytes(b"")
    assert built(ByteTokenizer(fingerprint="other"), ShardOptions(seed=1))
    assert build_shards([folder], ByteTokenizer(), target, rebuild=True).reused is False


def test_same_size_and_time_just_after_writing_is_not_trusted(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first")
    before = (folder / "a.txt").stat()
    build_shards([folder], ByteTokenizer(), tmp_path / "shards")
    (folder / "a.txt").write_text("FIRST")
    os.utime(folder / "a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not build_shards([folder], ByteTokenizer(), tmp_path / "shards").reused


def test_old_files_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "text", a="first")
    os.utime(folder / "a.txt", (time.time() - 100, time.time() - 100))
    build_shards([folder], ByteTokenizer(), tmp_path / "shards")
    monkeypatch.setattr("zhixing.data.inputs.hash_file", lambda path: pytest.fail("hashed again"))
    assert build_shards([folder], ByteTokenizer(), tmp_path / "shards").reused


def test_a_crash_leaves_the_old_shards(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first", b="second")
    build_shards([folder], ByteTokenizer(), tmp_path / "shards")
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    write(folder, c="third")

    class Breaking(ByteTokenizer):
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_shards([folder], Breaking(), tmp_path / "shards")
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shards.building", "shards", "text"]


def test_what_a_killed_build_left_is_cleared(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first", b="second")
    build_shards([folder], ByteTokenizer(), tmp_path / "shards")
    # Killed between the two renames, the worst moment: the old folder is aside, the new one not yet in place.
    (tmp_path / "shards").rename(tmp_path / ".shards.123.old")
    (tmp_path / ".shards.123.part").mkdir()
    (tmp_path / ".shards.123.part" / "train-00000.tokens").write_bytes(b"half")
    assert build_shards([folder], ByteTokenizer(), tmp_path / "shards").reused
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shards.building", "shards", "text"]


def test_full_disk_leaves_the_old_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "text", a="first", b="second")
    build_shards([folder], ByteTokenizer(), tmp_path / "shards")
    write(folder, c="third")

    def full(self: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("zhixing.data.writer._HashedFile.write", full)
    with pytest.raises(MissingResource, match="the disk is full"):
        build_shards([folder], ByteTokenizer(), tmp_path / "shards")
    open_shards(tmp_path / "shards").verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shards.building", "shards", "text"]


def test_two_builds_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first")
    with FolderLock(tmp_path / ".shards.building"), pytest.raises(BadInput, match="another process"):
        build_shards([folder], ByteTokenizer(), tmp_path / "shards")


def test_file_that_changes_while_it_is_read_is_reported_and_built_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first", b="second")

    class Meddling(ByteTokenizer):
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            (folder / "b.txt").write_text("second, and more")
            return super().encode_batch(texts)

    shards = build_shards([folder], Meddling(), tmp_path / "shards")
    assert shards.facts.problems.counts == {"changed": 1}
    assert not build_shards([folder], ByteTokenizer(), tmp_path / "shards").reused


def test_wide_vocabularies_take_32_bits(tmp_path: Path) -> None:
    class Wide(ByteTokenizer):
        def encode_batch(self, texts: list[str]) -> list[np.ndarray]:  # type: ignore[override]
            return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) + 100_000 for text in texts]

    folder = write(tmp_path / "text", a="知行", b="b")
    shards = build_shards([folder], Wide(100_257, 100_256), tmp_path / "shards", ShardOptions(0))
    assert shards.train.dtype == np.uint32
    assert shards.train.document(0).tolist() == [byte + 100_000 for byte in "知行".encode()] + [100_256]
    assert build_shards([folder], ByteTokenizer(1 << 16), tmp_path / "shards").train.dtype == np.uint16


def test_ids_beyond_the_vocabulary_never_wrap_silently(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its vocabulary has 100"):
        build_shards([write(tmp_path / "text", a="text")], ByteTokenizer(100, 99), tmp_path / "shards")
    with pytest.raises(ValueError, match="70000"):
        flatten([np.array([70_000])], np.dtype("<u2"), 65_536, None)


def test_flatten_lists_and_arrays_alike() -> None:
    lists = [[1, 2, 3], [], [4]]
    for encoded in (lists, [np.array(ids, np.uint32) for ids in lists]):
        tokens, lengths = flatten(encoded, np.dtype("<u2"), 10, 9)
        assert tokens.tolist() == [1, 2, 3, 9, 9, 4, 9]
        assert lengths.tolist() == [4, 1, 2]
        tokens, lengths = flatten(encoded, np.dtype("<u4"), 10, None)
        assert tokens.tolist() == [1, 2, 3, 4]
        assert lengths.tolist() == [3, 0, 1]


def test_a_document_that_gives_no_token_is_reported(tmp_path: Path) -> None:
    class Deaf(ByteTokenizer):
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[] if "quiet" in text else list(text.encode()) for text in texts]

    shards = build_shards([write(tmp_path / "t", a="quiet", b="b")], Deaf(), tmp_path / "shards", ShardOptions(0))
    assert shards.facts.train.documents == 1
    assert shards.facts.problems.counts == {"empty": 1}


def test_problems_are_counted_once_though_the_text_is_read_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first", b="second", c="")
    (folder / "d.png").write_bytes(b"")
    (folder / "e.jsonl").write_text('{"text": "third"}\nbroken\n')
    for split in ("tail", "document"):
        shards = build_shards([folder], ByteTokenizer(), tmp_path / split, ShardOptions(0.01, split=split))
        assert shards.facts.problems.counts == {"empty": 1, "binary": 1, "json": 1}


def test_bad_input_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", a="first")
    empty = write(tmp_path / "empty", a="", b="\n")
    with pytest.raises(BadInput, match="no text to read"):
        build_shards([empty], ByteTokenizer(), tmp_path / "shards")
    with pytest.raises(BadInput, match="no end-of-text token"):
        build_shards([folder], ByteTokenizer(256, None), tmp_path / "shards")
    with pytest.raises(BadInput, match="did you mean 'tail'"):
        ShardOptions(split="tails")
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(BadInput, match="validation_fraction"):
            ShardOptions(fraction)
    with pytest.raises(MissingResource):
        build_shards([tmp_path / "nowhere"], ByteTokenizer(), tmp_path / "shards")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingResource):
        build_shards([folder], ByteTokenizer(), tmp_path / "file" / "shards")
    assert not (tmp_path / "shards").exists()


def test_builds_are_deterministic(tmp_path: Path) -> None:
    folder = write(tmp_path / "text", **{f"d{number}": make_text(number, 200) for number in range(50)})
    for name in ("one", "two"):
        build_shards([folder], ByteTokenizer(), tmp_path / name)
    one, two = (json.loads((tmp_path / name / "index.json").read_text()) for name in ("one", "two"))
    assert one == two


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhixing.data.encode.BATCH_CHARACTERS", 1 << 18)
    line = "many words in a line, 一行文字, " * 100 + "\n"
    peaks = []
    for count in (300, 1200):
        (tmp_path / "a.txt").write_text(line * count)

        class Light(ByteTokenizer):
            def encode_batch(self, texts: list[str]) -> list[np.ndarray]:  # type: ignore[override]
                return [np.frombuffer(text.encode(), np.uint8) for text in texts]

        tracemalloc.start()
        build_shards([tmp_path / "a.txt"], Light(), tmp_path / "shards")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]

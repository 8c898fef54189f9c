from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import pytest

from zhixing.core.errors import BadInput, MissingResource
from zhixing.data import Problems, find_sources, standard_library_paths
from zhixing.data.streams import DamagedError, open_source, read_faults


def names(sources: list, root: Path) -> list[str]:
    return [source.name.removeprefix(f"{root}/") for source in sources]


def test_folder_is_walked_in_order_and_what_is_skipped_is_counted(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/deep/k.jsonl", "c.PNG", "d.pyc", ".hidden", ".git/config", "noext", "e.tar.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    problems = Problems()
    sources = find_sources([tmp_path], problems)
    assert names(sources, tmp_path) == ["b.txt", "noext", "a/z.md", "a/deep/k.jsonl"]
    assert problems.counts == {"binary": 2, "hidden": 2, "unsupported": 1}
    assert [source.format for source in sources].count("jsonl") == 1


def test_order_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    for folder, order in (("one", range(9)), ("two", reversed(range(9)))):
        for number in order:
            path = tmp_path / folder / f"{number % 3}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text")
    one, two = (names(find_sources([tmp_path / f]), tmp_path / f) for f in ("one", "two"))
    assert one == two
    assert len(one) == 9


def test_links_neither_loop_nor_count_twice(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "up").symlink_to(tmp_path)
    (tmp_path / "folder" / "same.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "folder" / "broken.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder" / "self.txt").symlink_to(tmp_path / "folder" / "self.txt")
    problems = Problems()
    assert names(find_sources([tmp_path], problems), tmp_path) == ["a.txt"]
    assert problems.counts == {"duplicate": 2, "unreadable": 2}


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert len(find_sources([tmp_path / "a.txt", tmp_path, f"{tmp_path}/*.txt"])) == 1


def test_pattern_with_and_without_matches(tmp_path: Path) -> None:
    for name in ("a.txt", "x/b.txt", "x/y/c.txt", "x/d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert names(find_sources([f"{tmp_path}/**/*.txt"]), tmp_path) == ["a.txt", "x/b.txt", "x/y/c.txt"]
    with pytest.raises(MissingResource, match="no file matches"):
        find_sources([f"{tmp_path}/*.rst"])
    (tmp_path / "odd[1].txt").write_text("text")
    assert names(find_sources([tmp_path / "odd[1].txt"]), tmp_path) == ["odd[1].txt"]


def test_missing_path_and_nothing_readable(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="no such file") as missing:
        find_sources([tmp_path / "x" / "y.txt"])
    assert str(tmp_path) in str(missing.value)
    with pytest.raises(BadInput, match="nothing readable"):
        find_sources([tmp_path])
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadInput, match=r"a \.png file is not text"):
        find_sources([tmp_path / "a.png"])
    with pytest.raises(BadInput):
        find_sources([])
    with pytest.raises(BadInput, match="an empty path"):
        find_sources([""])
    for odd in ("\0", "x" * 5000, tmp_path / "a.png" / "b", "~nobody-of-this-name/x"):
        with pytest.raises(MissingResource):
            find_sources([odd])


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.txt").write_text("text")
    problems = Problems()
    assert len(find_sources([tmp_path], problems)) == 1
    assert problems.counts == {"unsupported": 1}
    with pytest.raises(BadInput, match="neither a file nor a folder"):
        find_sources([tmp_path / "pipe"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    path.chmod(0)
    with pytest.raises(MissingResource, match="no permission"):
        find_sources([path])


def test_zip_members(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("b.txt", "two")
        file.writestr("a/文.txt", "one")
        file.writestr("a/x.jsonl.gz", gzip.compress(b'{"text": "three"}\n'))
        file.writestr("__MACOSX/b.txt", "resource fork")
        file.writestr("c.png", "image")
        file.writestr("inner.zip", "archive")
        file.writestr("odd.txt", "text", compress_type=zipfile.ZIP_LZMA)
        file.writestr("../escape.txt", "harmless: nothing is unpacked to disk")
    problems = Problems()
    found = names(find_sources([archive], problems), tmp_path)
    assert found == ["a.zip!a/x.jsonl.gz", "a.zip!a/文.txt", "a.zip!b.txt"]
    assert problems.counts == {"hidden": 2, "binary": 1, "unsupported": 2}


def test_broken_zip_among_others_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 not really")
    (tmp_path / "b.txt").write_text("text")
    problems = Problems()
    assert len(find_sources([tmp_path], problems)) == 1
    assert problems.counts == {"unreadable": 1}


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"text")
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    [source] = find_sources([tmp_path])
    assert source.name.endswith("caf\\xe9.txt")
    with open_source(source) as stream:
        assert stream.read() == b"text"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_streams_and_their_damage(tmp_path: Path, suffix: str) -> None:
    text = os.urandom(300_000).hex().encode()
    if suffix == ".gz":
        packed = gzip.compress(text[:1000]) + gzip.compress(text[1000:])
    else:
        zstandard = pytest.importorskip("zstandard")
        checked = zstandard.ZstdCompressor(write_checksum=True)  # else Zstandard does not notice altered bytes
        packed = checked.compress(text[:1000]) + checked.compress(text[1000:])
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed)
    [source] = find_sources([path])
    seen = 0

    def advance(count: int) -> None:
        nonlocal seen
        seen += count

    with open_source(source, advance=advance) as stream:
        assert stream.read() == text
    assert seen == len(packed)
    for damaged in (packed[:-9], packed[: len(packed) // 2], packed[:50] + b"\0\xff" * 40 + packed[130:]):
        path.write_bytes(damaged)
        with pytest.raises(read_faults()), open_source(find_sources([path])[0]) as stream:
            stream.read()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_decompression_bomb_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr("zhixing.data.streams.EXPANDS_FREELY", 1 << 20)
    monkeypatch.setattr("zhixing.data.streams.EXPANDS_AT_MOST", 10)
    path = tmp_path / f"a.txt{suffix}"
    if suffix == ".gz":
        path.write_bytes(gzip.compress(bytes(1 << 25)))
    else:
        path.write_bytes(pytest.importorskip("zstandard").compress(bytes(1 << 25)))
    read = 0
    with pytest.raises(DamagedError, match="expands to more"), open_source(find_sources([path])[0]) as stream:
        while chunk := stream.read(1 << 16):
            read += len(chunk)
    assert read <= 1 << 21


def test_standard_library_is_there() -> None:
    sources = find_sources(standard_library_paths())
    found = {source.path.name for source in sources}
    assert {"argparse.py", "decoder.py"} <= found
    assert all(source.path.suffix == ".py" and "site-packages" not in source.path.parts for source in sources)

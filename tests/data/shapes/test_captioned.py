"""Pictures with texts: in folders, in zip archives, and beside text files."""

import json
import zipfile

import pytest

from zhixing.core.errors import BadInput
from zhixing.data import shapes
from zhixing.data.doctor import examine
from zhixing.data.problems import Problems

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read(path, **options):
    problems = Problems()
    reading = shapes.read(path, problems=problems, **options)
    return reading, list(reading), problems


def test_a_zip_archive_of_records_and_their_pictures(tmp_path):
    rows = [{"file_name": f"{name}.png", "text": f"a {name}"} for name in ("cat", "dog", "cow", "bad", *["cat"] * 9)]
    members = {
        "set/metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "set/cat.png": PNG, "set/dog.png": PNG + b"dog", "set/bad.png": b"no picture",
    }  # fmt: skip
    reading, found, problems = read(zipped(tmp_path / "set.zip", members))
    assert reading.shape == "image_text"
    assert [(placed.record.image, placed.record.text) for placed in found] == [
        (PNG, "a cat"),
        (PNG + b"dog", "a dog"),
        *[(PNG, "a cat")] * 9,
    ]
    assert problems.counts == {"shape": 1, "misfit": 2}
    first, second = problems.examples["misfit"]
    assert (first.line, second.line) == (3, 4)
    assert 'no picture "set/cow.png"' in first.message
    assert "bad.png" in second.message


@pytest.mark.parametrize("packed", [False, True])
def test_texts_beside_pictures_are_captions(tmp_path, packed):
    members = {
        "a.png": PNG,
        "a.txt": "a cat\n",
        "b.JPG": b"\xff\xd8\xff",
        "b.txt": "一只狗",
        "c.png": b"x",
        "c.txt": "no",
    }
    folder = tmp_path / "set"
    folder.mkdir()
    for name, content in members.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    reading, found, problems = read(zipped(tmp_path / "set.zip", members) if packed else folder)
    assert reading.shape == "image_text"
    assert [placed.record.text for placed in found] == ["a cat", "一只狗"]
    images = [placed.record.image for placed in found]
    assert images == ([PNG, b"\xff\xd8\xff"] if packed else [folder / "a.png", folder / "b.JPG"])
    assert problems.counts == {"shape": 3, "misfit": 1}
    assert "c.txt" in problems.examples["misfit"][0].source


def test_captions_that_are_none(tmp_path):
    for name, content in {"a": b"", "b": b"\xff\xfe\xfd\xfc", "c": b"fine"}.items():
        (tmp_path / f"{name}.png").write_bytes(PNG)
        (tmp_path / f"{name}.txt").write_bytes(content)
    _, found, problems = read(tmp_path)
    assert [placed.record.text for placed in found] == ["fine"]
    assert problems.counts == {"shape": 3, "empty": 1, "undecodable": 1}


def test_text_files_without_a_picture_each_are_text(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("some text\nand more\n")
    (tmp_path / "a.png").write_bytes(PNG)
    reading, _, problems = read(tmp_path)
    assert reading.shape == "text"
    assert problems.counts["binary"] == 1
    with pytest.raises(BadInput):
        read(tmp_path, shape="image_text")


def test_a_table_with_paths(tmp_path):
    (tmp_path / "x.png").write_bytes(PNG)
    (tmp_path / "captions.csv").write_text("image,caption\nx.png,a thing\ny.png,another\n" + "x.png,a thing\n" * 9)
    _, found, problems = read(tmp_path / "captions.csv")
    assert [placed.record.image for placed in found] == [tmp_path / "x.png"] * 10
    assert "y.png" in problems.examples["misfit"][0].message


def test_the_doctor_finds_the_pictures_too(tmp_path):
    (tmp_path / "x.png").write_bytes(PNG)
    path = tmp_path / "set.jsonl"
    rows = [{"image": "x.png", "caption": f"thing {index} of many"} for index in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"image": "gone.png", "caption": "nothing"}]))
    with examine([str(path)]) as diagnosis:
        assert diagnosis.plans[0].found.shape == "image_text"
        assert diagnosis.plans[0].records == 8
        assert any("gone.png" in finding["message"] for finding in diagnosis.findings.to_json()["findings"])

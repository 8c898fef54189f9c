"""A tokenizer by the name of its model, whatever kind of name that is."""

import pytest

from tests.bad_inputs.support import make_models
from zhixing.checkpoints.convert import to_gguf
from zhixing.checkpoints.hubs.store import Record
from zhixing.checkpoints.model_tokenizer import open_tokenizer
from zhixing.core.errors import BadInput, MissingResource


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    folder = make_models(place)
    to_gguf(folder, place / "x.gguf", "f32")
    return folder


def test_every_kind_of_name(made, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path))
    Record("pypi:tiny==1.0/model", made, {made / "config.json": (made / "config.json").stat().st_size}).write()
    wanted = open_tokenizer(made)
    names = [str(made), made.parent, made / "tokenizer.json", "pypi:tiny==1.0/model", str(made.parent / "x.gguf")]
    for name in names:
        assert open_tokenizer(name).encode("know 知行") == wanted.encode("know 知行")


def test_what_has_no_tokenizer(made, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((BadInput, MissingResource), match="nowhere"):
        open_tokenizer(tmp_path / "nowhere")
    with pytest.raises(MissingResource, match="forbids the network"):
        open_tokenizer("smollm2-135m")
    with pytest.raises(BadInput, match="holds no tokenizer"):
        open_tokenizer(tmp_path)

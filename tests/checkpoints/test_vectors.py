"""The folder of word vectors, and what else opens as vectors."""

import json
from pathlib import Path

import numpy as np
import pytest

from zhixing.checkpoints.vectors import from_gensim, open_vectors, save_vectors
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.vectors import Subwords, WordVectors


@pytest.fixture
def vectors() -> WordVectors:
    generator = np.random.default_rng(0)
    table = generator.normal(size=(50, 4)).astype(np.float32)
    values = generator.normal(size=(3, 4)).astype(np.float32)
    return WordVectors(["a b", "知行", "c"], values, np.array([5, 3, 1]), Subwords(2, 4, table), {"epochs": 3})


def test_the_folder_keeps_everything(vectors: WordVectors, tmp_path: Path) -> None:
    assert save_vectors(vectors, tmp_path / "folder") == []
    back = open_vectors(tmp_path / "folder")
    assert list(back.words) == list(vectors.words)
    assert np.array_equal(back.vectors, vectors.vectors)
    assert back.counts is not None
    assert back.counts.tolist() == [5, 3, 1]
    assert back.facts == {"epochs": 3}
    assert np.array_equal(back.vector("unseen"), vectors.vector("unseen"))


def test_files_by_their_suffix_say_what_they_leave_out(vectors: WordVectors, tmp_path: Path) -> None:
    for name in ("v.txt", "v.vec.gz", "v.bin"):
        notes = save_vectors(vectors, tmp_path / name)
        assert "1 words hold white space" in notes[0]
        assert "n-grams are not in this format" in notes[1]
        assert np.array_equal(open_vectors(tmp_path / name).vectors, vectors.vectors)


def test_a_model_of_facebooks_fasttext(tmp_path: Path) -> None:
    gensim = pytest.importorskip("gensim.models")
    from gensim.models.fasttext import save_facebook_model

    sentences = [["the", "cat", "sees", "the", "dog"], ["知", "行", "合", "一"]] * 5
    model = gensim.FastText(sentences, vector_size=4, min_count=1, bucket=100, epochs=1, workers=1, seed=1)
    save_facebook_model(model, str(tmp_path / "model.bin"))
    read = open_vectors(tmp_path / "model.bin")
    assert read.words[0] == "the"
    for word in ("cat", "catty", "知行"):
        assert read.vector(word) == pytest.approx(model.wv[word], abs=1e-6)
        assert from_gensim(model.wv, {}).vector(word) == pytest.approx(model.wv[word], abs=1e-6)
    (tmp_path / "cut.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:200])
    with pytest.raises(BadInput, match="fastText"):
        open_vectors(tmp_path / "cut.bin")


def test_what_is_refused(vectors: WordVectors, tmp_path: Path) -> None:
    (tmp_path / "old.kv").write_bytes(b"\x80\x04")
    with pytest.raises(BadInput, match="pickled"):
        open_vectors(tmp_path / "old.kv")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MissingResource):
            open_vectors(path)
    folder = tmp_path / "folder"
    save_vectors(vectors, folder)
    values = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"model_type": "gpt2"}, "model of type 'gpt2'"),
        ({"size": 5}, "do not go together"),
        ({"word_count": 2}, "do not go together"),
        ({"subwords": {"shortest": 2, "longest": 4, "buckets": 51}}, "do not go together"),
        ({"subwords": {"shortest": 2}}, "'longest'"),
        ({"pooling": 1}, "unknown configuration field"),
    ):
        (folder / "config.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(BadInput, match=message):
            open_vectors(folder)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "words.json").write_text("[1, 2, 3]")
    with pytest.raises(BadInput, match="not a list of words"):
        open_vectors(folder)

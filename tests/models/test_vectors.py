"""Word vectors against gensim, which is the reference: neighbours, analogies, fastText's unseen words, both formats."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.vectors import Subwords, WordVectors, fnv1a
from zhixing.models.vectors_files import read_vectors, write_vectors

WORDS = ["the", "king", "queen", "man", "woman", "知行", "合", "ab'c", "月"]


@pytest.fixture
def vectors() -> WordVectors:
    values = np.random.default_rng(0).normal(size=(len(WORDS), 7)).astype(np.float32)
    return WordVectors(WORDS, values)


def test_neighbours_and_analogies_are_gensims(vectors: WordVectors) -> None:
    keyed = pytest.importorskip("gensim.models").KeyedVectors(7)
    keyed.add_vectors(WORDS, vectors.vectors)
    for word in WORDS:
        expected = keyed.most_similar(word, topn=4)
        found = vectors.nearest(word, 4)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-5)
    expected = keyed.most_similar(positive=["king", "woman"], negative=["man"], topn=5)
    found = vectors.analogy(["king", "woman"], ["man"], 5)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-5)


def test_more_neighbours_than_words(vectors: WordVectors) -> None:
    assert len(vectors.nearest("king", 100)) == len(WORDS) - 1


@pytest.mark.parametrize("word", ["a", "cat", "知行合一", "naïve", "ab'c", ""])
@pytest.mark.parametrize("shortest", [1, 3])
def test_subwords_are_gensims(word: str, shortest: int) -> None:
    inner = pytest.importorskip("gensim.models.fasttext_inner")
    found = Subwords(shortest, 6, np.zeros((1000, 2), np.float32)).rows(word)
    expected = [inner.ft_hash_bytes(gram) % 1000 for gram in inner.compute_ngrams_bytes(word, shortest, 6)]
    assert found == expected
    assert fnv1a("知行".encode()) == inner.ft_hash_bytes("知行".encode())


def test_unknown_words_are_named(vectors: WordVectors) -> None:
    with pytest.raises(BadInput, match="'kimg' has no vector") as fault:
        vectors.nearest("kimg")
    assert "'king'" in str(fault.value.remedy)
    with pytest.raises(BadInput) as fault:
        vectors.vector("KING")
    assert "'king'" in str(fault.value.remedy)
    with pytest.raises(BadInput, match="at least one word"):
        vectors.analogy([])
    with pytest.raises(BadInput, match="'a' has two vectors"):
        WordVectors(["b", "a", "a"], np.zeros((3, 2), np.float32))


@pytest.mark.parametrize(("name", "binary"), [("v.txt", False), ("v.vec.gz", False), ("v.bin", True)])
def test_both_formats_round_trip_and_gensim_reads_them(
    name: str, binary: bool, vectors: WordVectors, tmp_path: Path
) -> None:
    assert write_vectors(vectors, tmp_path / name, binary=binary) == 0
    back = read_vectors(tmp_path / name)
    assert list(back.words) == WORDS
    assert np.array_equal(back.vectors, vectors.vectors)
    keyed = pytest.importorskip("gensim.models").KeyedVectors.load_word2vec_format(str(tmp_path / name), binary=binary)
    assert keyed.index_to_key == WORDS
    assert np.array_equal(keyed.vectors, vectors.vectors)


@pytest.mark.parametrize("binary", [True, False])
def test_gensims_files_are_read(binary: bool, vectors: WordVectors, tmp_path: Path) -> None:
    keyed = pytest.importorskip("gensim.models").KeyedVectors(7)
    keyed.add_vectors(WORDS, vectors.vectors)
    keyed.save_word2vec_format(str(tmp_path / "v"), binary=binary)
    back = read_vectors(tmp_path / "v")
    assert list(back.words) == WORDS
    assert back.vectors == pytest.approx(vectors.vectors, abs=1e-6)


def test_white_space_in_words_is_escaped_and_counted(tmp_path: Path) -> None:
    vectors = WordVectors([" ", "a b", "\n", "c\\"], np.eye(4, dtype=np.float32))
    assert write_vectors(vectors, tmp_path / "v.txt", binary=False) == 4
    assert list(read_vectors(tmp_path / "v.txt").words) == ["\\u0020", "a\\u0020b", "\\u000a", "c\\u005c"]


def test_a_file_of_glove_has_no_first_line(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("the 0.5 -1 2\n. . . 1 2 3\nking 1e-3 0 4\n")
    back = read_vectors(tmp_path / "glove.txt")
    assert list(back.words) == ["the", ". . .", "king"]
    assert back.vectors[2].tolist() == pytest.approx([1e-3, 0, 4])


@pytest.mark.parametrize(
    ("content", "message", "line"),
    [
        (b"2 3\na 1 2 3\nb 1 2\n", "2 numbers, expected 3", 3),
        (b"2 3\na 1 2 3\nb 1 2 x\n", "not 3 numbers", 3),
        (b"2 3\na 1 2 3\n", "ends too early", 3),
        (b"1 3\na 1 2 3\nb 1 2 3\n", "but there are more", 3),
        (b"9999999999 999\na 1 2\n", "too small", 1),
        (b"0 3\n", "0 words", None),
        (b"Once upon\n", "no word vectors", 1),
        (b"a 1 2\nb 1 2\na 3 4\n", "'a' has two vectors", None),
        (b"a 1 2\nb nan 2\n", "no number", None),
        (b"2 2\na \x00\x00\x80\x3f\x00\x00\x80\x3fb \x00\x00\x00\x00", "at word 2 of 2", None),
        (b"a " + b"1" * (1 << 20), "a line of more than", 1),
    ],
)
def test_broken_files_are_named(content: bytes, message: str, line: int | None, tmp_path: Path) -> None:
    file = tmp_path / "vectors"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=message) as fault:
        read_vectors(file)
    assert str(fault.value.where).startswith(str(file))
    assert line is None or str(fault.value.where) == f"{file}:{line}"


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingResource):
        read_vectors(tmp_path / "none")
    (tmp_path / "half.gz").write_bytes(gzip.compress(b"1 1\na 1\n")[:-9])
    with pytest.raises(BadInput, match="gzip"):
        read_vectors(tmp_path / "half.gz")

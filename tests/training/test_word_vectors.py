"""Cutting text into words, training with gensim, and starting an embedding table."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from zhixing.core.errors import BadInput
from zhixing.models.vectors import WordVectors
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.embeddings import start_embeddings
from zhixing.training.word_vectors import (
    SENTENCE_WORDS,
    Sentences,
    TokenWords,
    VectorOptions,
    Words,
    token_word,
    train_vectors,
)

CAPITALS = {"paris": "france", "rome": "italy", "madrid": "spain", "berlin": "germany"}


def texts() -> list[str]:
    generator = random.Random(0)
    lines = []
    for _ in range(600):
        city, country = generator.choice(list(CAPITALS.items()))
        verb = generator.choice(["is the capital of", "lies in", "belongs to"])
        lines.append(f"the city {city} {verb} the country {country}")
        lines.append(generator.choice(["天上有明月", "地上有清泉", "天上有星星"]))
    return ["\n\n".join(lines)]


def test_words_of_both_languages() -> None:
    text = "Don't panic, naïve_reader: 42 知行合一。カタカナ e-mail"
    assert Words()(text) == "Don't|panic|naïve|reader|42|知|行|合|一|カ|タ|カ|ナ|e|mail".split("|")
    assert Words(lowercase=True)("The END") == ["the", "end"]


def test_tokens_as_words() -> None:
    tokenizer = train_tokenizer(["the cat the cat the dog 知行合一 知行合一"], "byte-bpe", 290).tokenizer
    segment = TokenWords(tokenizer)
    assert "the" in segment("the cat")
    assert all(word == word.strip() and word for word in segment("the  cat\n 知 é"))
    assert token_word(tokenizer, tokenizer.end_of_text_id or 0) is None
    assert "byte-bpe" in segment.description


def test_sentences_lose_no_word(tmp_path: Path) -> None:
    long = " ".join(f"w{number % 77}" for number in range(2 * SENTENCE_WORDS + 5))
    sentences = Sentences.of([f"a b\n\nc\n \n{long}", "", "d"], Words(), tmp_path)
    found = list(sentences)
    assert found == list(sentences)
    assert [len(sentence) for sentence in found] == [2, 1, SENTENCE_WORDS, SENTENCE_WORDS, 5, 1]
    assert [word for sentence in found for word in sentence] == Words()(f"a b c {long} d")
    assert sentences.count == 6
    assert sentences.words == 2 * SENTENCE_WORDS + 9
    assert sentences.counts["w0"] == sum(word == "w0" for word in long.split())


@pytest.mark.parametrize("kind", ["word2vec", "fasttext"])
def test_what_is_used_alike_lies_close_and_every_run_is_the_same(kind: str) -> None:
    pytest.importorskip("gensim")
    options = VectorOptions(kind=kind, size=16, epochs=30, min_count=2, window=3, buckets=500, sample=1.0, seed=3)  # type: ignore[arg-type]
    vectors = train_vectors(texts(), Words(), options)
    again = train_vectors(texts(), Words(), options)
    assert vectors.words == again.words
    assert np.array_equal(vectors.vectors, again.vectors)
    assert {word for word, _ in vectors.nearest("月", 5)} <= set("天上有明月地清泉星")
    assert not {word for word, _ in vectors.nearest("paris", 5)} & set("天上有明月地清泉星")
    assert vectors.counts is not None
    assert vectors.words[0] == "the"
    assert (vectors.subwords is not None) == (kind == "fasttext")
    assert vectors.facts["segmentation"] == Words().description


def test_options_that_cannot_be() -> None:
    with pytest.raises(BadInput, match="size must be at least 1"):
        VectorOptions(size=0)
    with pytest.raises(BadInput, match="shorter than the shortest"):
        VectorOptions(shortest=4, longest=3)
    pytest.importorskip("gensim")
    with pytest.raises(BadInput, match="0 occur at least 5 times") as fault:
        train_vectors(["a b c"], Words(), VectorOptions())
    assert "--min-count" in str(fault.value.remedy)


def test_an_embedding_table_starts_from_vectors() -> None:
    tokenizer = train_tokenizer(["the cat The dog " * 20], "byte-bpe", 300).tokenizer
    values = np.random.default_rng(0).normal(3, 5, size=(4, 8)).astype(np.float32)
    vectors = WordVectors(["the", "c", "t", "none"], values)
    embedding = torch.nn.Embedding(tokenizer.vocab_size, 8)
    before = embedding.weight.detach().clone()
    counts = np.ones(tokenizer.vocab_size, dtype=np.int64)
    coverage = start_embeddings(embedding, tokenizer, vectors, counts)
    changed = (embedding.weight != before).any(1).nonzero().flatten().tolist()
    spelled = {token_word(tokenizer, token) for token in changed}
    assert {"the", "c", "t"} <= spelled <= {"the", "The", "c", "t", "C", "T"}
    assert coverage.matched == len(changed)
    assert coverage.share_of_text == pytest.approx(len(changed) / tokenizer.vocab_size)
    assert "tokens start from word vectors" in coverage.describe()
    rows = embedding.weight[changed].detach()
    assert float(rows.std()) == pytest.approx(float(before[changed].std()), rel=1e-4)
    one, other = (next(token for token in changed if token_word(tokenizer, token) == word) for word in ("c", "t"))
    difference = (embedding.weight[one] - embedding.weight[other]).detach().numpy()
    expected = values[1] - values[2]
    assert difference / np.linalg.norm(difference) == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_tables_that_do_not_fit() -> None:
    tokenizer = train_tokenizer(["abc"], "character").tokenizer
    vectors = WordVectors(["x", "y"], np.zeros((2, 8), np.float32))
    with pytest.raises(BadInput, match="have 8 numbers, the embedding table 4"):
        start_embeddings(torch.nn.Embedding(tokenizer.vocab_size, 4), tokenizer, vectors)
    with pytest.raises(BadInput, match="no token of the tokenizer"):
        start_embeddings(torch.nn.Embedding(tokenizer.vocab_size, 8), tokenizer, vectors)

"""Bits per byte by stretches of text: the sums are those of the whole, and every token is in one stretch."""

import math

import numpy as np
import pytest
import torch

from zhixing.evaluation.language_modelling import evaluate_tokens
from zhixing.evaluation.stretches import stretch_sums
from zhixing.evaluation.windows import TokenDocument
from zhixing.models.recurrent import RecurrentConfig, RecurrentNetwork
from zhixing.tokenization.train import train_tokenizer


@pytest.fixture(scope="module")
def parts():
    text = "To know and to do are one. 知行合一。 The cat sat on the mat; the dog ran.\n" * 40
    tokenizer = train_tokenizer([text], "byte-bpe", 300).tokenizer
    config = RecurrentConfig(vocab_size=tokenizer.vocab_size, cell="gru", width=8, hidden=8, layers=1)
    model = RecurrentNetwork(config)
    model.initialise(torch.Generator().manual_seed(0))
    return text, tokenizer, model


@pytest.mark.parametrize("start", [None, 0])
@pytest.mark.parametrize(("window", "stride", "stretch"), [(16, 8, 100), (64, 64, 333), (512, 100, 10**9)])
def test_the_sums_are_those_of_the_whole_text(parts, start, window: int, stride: int, stretch: int) -> None:
    text, tokenizer, model = parts
    documents = []
    for part in (text, text[:500], "x"):
        ids = np.asarray(tokenizer.encode(part))
        documents.append(TokenDocument(ids, len(part.encode()), first_bytes=len(tokenizer.token_bytes(int(ids[0])))))
    rows = stretch_sums(model, tokenizer, documents, start=start, window=window, stride=stride, stretch=stretch)
    whole, _ = evaluate_tokens(model, documents, start=start, window=window, stride=stride)
    nats, tokens, size = rows.sum(axis=0)
    assert tokens == whole.tokens
    assert nats == pytest.approx(whole.loss * whole.tokens, rel=1e-6)
    assert size == pytest.approx(whole.bytes, rel=1e-9)
    assert nats / math.log(2) / size == pytest.approx(whole.bits_per_byte, rel=1e-6)
    if stretch < 1000:
        assert len(rows) > 5
        assert rows[:-3, 2] == pytest.approx(stretch, abs=40)


def test_tokenizers_of_other_kinds_have_the_same_stretches(parts) -> None:
    text, _, _ = parts
    counts = []
    for kind, size in (("byte-bpe", 300), ("byte-bpe", 280), ("character", None), ("byte", None)):
        tokenizer = train_tokenizer([text], kind, size).tokenizer
        model = RecurrentNetwork(
            RecurrentConfig(vocab_size=tokenizer.vocab_size, cell="rnn", width=4, hidden=4, layers=1)
        )
        model.initialise(torch.Generator().manual_seed(0))
        document = TokenDocument(np.asarray(tokenizer.encode(text)), len(text.encode()))
        counts.append(len(stretch_sums(model, tokenizer, [document], start=0, stretch=128)))
    assert len(set(counts)) == 1

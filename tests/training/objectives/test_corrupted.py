"""Span corruption and denoising: what is read and what is written, put together, is the text."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.core.recipe import build_recipe
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Text
from zhixing.data.shapes.records import Misfit
from zhixing.tokenization.framing import framed_with_end
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.objectives.corrupted import lengths_of_parts, sentence_ends
from zhixing.training.objectives.denoising import Denoising
from zhixing.training.objectives.span_corruption import SENTINELS, SpanCorruption

TEXT = "One dog runs. Two cats sleep! 三只鸟飞。 Is it late? Yes."


def build(kind, longest=64, special=None, **task):
    names = ["</s>", "<pad>", *(kind.special_tokens if special is None else special)]
    tokenizer = framed_with_end(train_tokenizer([TEXT], "byte", special_tokens=names).tokenizer, "</s>", "<pad>")
    objective = kind(build_recipe({"task": task, "train": {"objective": kind.name}}))
    objective.attach(tokenizer, longest)
    return objective


SPANS, NOISE = build(SpanCorruption), build(Denoising, permute_sentences=False)
PLAIN = st.lists(st.integers(0, 200), min_size=3, max_size=40)


def example(tokens, ends=()):
    return {"tokens": np.array(tokens, np.int32), "ends": np.array(ends, np.int32)}


@given(PLAIN, st.integers(0, 1 << 32))
def test_spans_put_back_give_the_text(tokens, seed):
    source, target = SPANS.spoiled(example(tokens), np.random.default_rng(seed))
    end = SPANS.framing.end
    assert source[-1] == target[-1] == end
    sentinels = [SPANS.tokenizer.vocabulary[name] for name in SENTINELS]
    spans, last = {}, None
    for token in target[:-1].tolist():
        if token in sentinels:
            last = token
            spans[last] = []
        else:
            spans[last].append(token)
    whole = []
    for token in source[:-1].tolist():
        whole += spans[token] if token in sentinels else [token]
    assert whole == tokens
    taken, count = SPANS.spans(len(tokens))
    assert sum(map(len, spans.values())) == taken
    assert list(spans) == sentinels[: count + 1]  # in order, and one that ends what is written
    assert source[0] == tokens[0]


def test_shares_are_t5s():
    """Values of T5's own random_spans_helper and noise mask: 15 % in spans of three on average."""
    assert SPANS.spans(100) == (15, 5)
    assert SPANS.spans(512) == (77, 26)
    assert SPANS.spans(3) == (1, 1)


@given(PLAIN, st.integers(0, 1 << 32))
def test_masks_stand_for_what_is_hidden(tokens, seed):
    source, target = NOISE.spoiled(example(tokens), np.random.default_rng(seed))
    assert target[:-1].tolist() == tokens
    kept = [token for token in source[:-1].tolist() if token != NOISE.mask]
    assert len(tokens) - len(kept) <= max(1, round(0.3 * len(tokens)))
    place = 0
    for token in kept:  # what stays is in its order
        place = tokens.index(token, place) + 1
    assert NOISE.mask in source
    assert len(source) <= len(tokens) + len(tokens) // 2 + 1


def test_masks_hide_about_three_tenths_in_spans_of_three():
    draw, tokens = np.random.default_rng(0), list(range(200)) * 2
    sources = [NOISE._hidden(tokens, draw) for _ in range(50)]
    hidden = np.mean([len(tokens) - sum(token != NOISE.mask for token in source) for source in sources])
    masks = np.mean([source.count(NOISE.mask) for source in sources])
    assert hidden == pytest.approx(0.3 * len(tokens), rel=0.02)
    assert hidden / masks == pytest.approx(3.0, rel=0.1)


def test_sentences_are_shuffled_whole():
    objective = build(Denoising, longest=128)
    (encoded,) = objective.encode(Text(TEXT)).examples
    tokens, ends = encoded["tokens"].tolist(), encoded["ends"].tolist()
    assert len(ends) == 5
    shuffled = objective._shuffled(tokens, ends, np.random.default_rng(1))
    parts = [tokens[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert Counter(shuffled) == Counter(tokens)
    assert shuffled != tokens
    assert all(bytes(part) in bytes(shuffled) for part in parts)
    assert sentence_ends("a. b", [1, 2, 4]) == [2]


@given(st.integers(1, 30), st.integers(0, 1000))
def test_parts_add_up(total, seed):
    draw = np.random.default_rng(seed)
    parts = int(draw.integers(1, total + 1))
    lengths = lengths_of_parts(total, parts, draw)
    assert len(lengths) == parts
    assert lengths.sum() == total
    assert lengths.min() >= 1


def test_a_batch_is_spoiled_alike_by_its_key_and_otherwise_by_another():
    raw = [example(range(30)), example(range(5))]
    one, same, other = (NOISE.to_device(RawBatch(raw, key), torch.device("cpu")) for key in (5, 5, 6))
    assert torch.equal(one.sources.tokens, same.sources.tokens)
    assert not torch.equal(one.sources.tokens, other.sources.tokens)
    assert list(one.sources.lengths) == sorted(one.sources.lengths)


def test_long_texts_become_windows_that_fit_both_sides():
    objective = build(SpanCorruption, longest=20)
    encoded = objective.encode(Text("x" * 100))
    assert encoded.cut == 0
    assert sum(len(one["tokens"]) for one in encoded.examples) >= 100 - 2
    for one in encoded.examples:
        for side in objective.spoiled(one, np.random.default_rng(0)):
            assert len(side) <= 20


def test_what_cannot_be_used_is_said():
    with pytest.raises(Misfit, match="the text is empty"):
        SPANS.observe(Text(" "), False)
    with pytest.raises(BadInput, match="no sentinels"):
        build(SpanCorruption, special=[])
    with pytest.raises(BadInput, match="no mask"):
        build(Denoising, special=[])
    with pytest.raises(BadInput, match="leave no room"):
        build(Denoising, longest=1)

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput
from zhixing.data.documents import Document
from zhixing.evaluation.language_modelling import (
    LanguageModelScore,
    TokenDocument,
    evaluate_by_source,
    evaluate_text,
    evaluate_tokens,
)
from zhixing.evaluation.metrics.language import from_sums
from zhixing.evaluation.metrics.resampling import with_interval
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import train_tokenizer

TEXTS = [
    "To know and to do: 知行合一。\n",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？\n",
    "a",
    "",
    "The quick brown fox jumps over the lazy dog. 😀 ",
]


def make_model(vocab_size: int, context: int = 16) -> Transformer:
    config = TransformerConfig(
        vocab_size=vocab_size,
        width=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        mlp_width=48,
        context=context,
        **FIXED,
    )
    model = Transformer(config)
    # Large weights: a model whose predictions depend strongly on the context shows every misplaced token.
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5, generator=generator)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([], "byte").tokenizer


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return make_model(tokenizer.vocab_size)


def brute_force(model: Transformer, documents: list[list[int]], start: int | None, window: int, stride: int) -> float:
    """Predicts one token at a time from exactly the tokens that it may see."""
    total = 0.0
    for document in documents:
        sequence = document if start is None else [start, *document]
        targets = len(sequence) - 1
        for index in range(targets):
            if index < window:
                begin = 0
            else:
                turn = (index - window) // stride + 1
                begin = max(0, min(targets, window + turn * stride) - window)
            seen = torch.tensor([sequence[begin : index + 1]])
            with torch.no_grad():
                logits = model(seen)[0, -1].double()
            total -= torch.log_softmax(logits, -1)[sequence[index + 1]].item()
    return total


@pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 5), (8, 1), (7, 3), (1, 1)])
def test_agrees_with_a_loop_over_single_tokens(
    model: Transformer, tokenizer: Tokenizer, window: int, stride: int
) -> None:
    score = evaluate_text(model, tokenizer, TEXTS, window=window, stride=stride, batch_tokens=50)
    documents = [tokenizer.encode(text) for text in TEXTS]
    nats = brute_force(model, documents, tokenizer.end_of_text_id, window, stride)
    size = sum(len(text.encode()) for text in TEXTS)
    assert score.tokens == sum(map(len, documents))
    assert score.bytes == size
    assert score.documents == 4
    assert score.loss * score.tokens == pytest.approx(nats, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    assert score.perplexity == pytest.approx(math.exp(nats / score.tokens), rel=1e-5)
    assert (score.window, score.stride, score.tokenizer) == (window, stride, tokenizer.fingerprint)
    assert score.notes == ()


def test_more_context_than_promised_is_never_less(model: Transformer) -> None:
    """The window of every scored token reaches back at least window - stride tokens, or to the beginning."""
    seen: dict[int, int] = {}
    tokens = np.arange(100) % 200
    original = model.hidden_states

    def spy(inputs: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        for row in inputs.tolist():
            for place, token in enumerate(row):
                seen[token] = max(seen.get(token, 0), place)
        return original(inputs)

    model.hidden_states = spy  # type: ignore[method-assign]
    try:
        score, _ = evaluate_tokens(model, [TokenDocument(tokens, 100)], start=None, window=16, stride=6)
    finally:
        del model.hidden_states
    assert score.tokens == 99
    assert all(place >= min(token, 16 - 6) for token, place in seen.items())


def test_first_token_without_a_start_token_is_left_out_and_said(model: Transformer) -> None:
    tokenizer = train_tokenizer([], "byte", special_tokens=[]).tokenizer
    score = evaluate_text(model, tokenizer, ["知行", "abc", "x"], window=4, stride=2)
    nats = brute_force(model, [tokenizer.encode("知行"), tokenizer.encode("abc")], None, 4, 2)
    # One byte of 知, one of abc, and all of x are not predicted.
    assert (score.tokens, score.bytes, score.unscored_tokens, score.unscored_bytes) == (5 + 2, 5 + 2, 3, 3)
    assert score.loss * score.tokens == pytest.approx(nats, rel=1e-6)
    assert "first token of 3 document(s)" in score.notes[0]


def test_first_character_has_its_own_bytes(tokenizer: Tokenizer) -> None:
    characters = train_tokenizer(["知行合一abc"], "character", special_tokens=[]).tokenizer
    score = evaluate_text(make_model(characters.vocab_size), characters, ["知a行"])
    assert (score.tokens, score.bytes, score.unscored_bytes) == (2, 4, 3)


def test_unknown_tokens_are_counted_and_said() -> None:
    characters = train_tokenizer(["abc"], "character").tokenizer
    score = evaluate_text(make_model(characters.vocab_size), characters, ["a知b行"])
    assert score.unknown_tokens == 2
    assert any("cannot spell" in note for note in score.notes)


def test_sources_add_up(model: Transformer, tokenizer: Tokenizer) -> None:
    documents = [
        Document("one two", "a.txt"),
        Document("三四", "b.txt"),
        Document("five", "a.txt"),
        Document("", "c.txt"),
    ]
    whole, parts = evaluate_by_source(model, tokenizer, documents)
    assert list(parts) == ["a.txt", "b.txt"]
    assert parts["a.txt"].tokens + parts["b.txt"].tokens == whole.tokens == 17
    assert parts["b.txt"].loss == pytest.approx(evaluate_text(model, tokenizer, ["三四"]).loss, rel=1e-6)
    bits = sum(part.bits_per_byte * part.bytes for part in parts.values())
    assert bits == pytest.approx(whole.bits_per_byte * whole.bytes)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any),
    window=st.integers(1, 16),
    data=st.data(),
    batch_tokens=st.integers(1, 200),
)
def test_batching_changes_nothing(
    model: Transformer, lengths: list[int], window: int, data: st.DataObject, batch_tokens: int
) -> None:
    stride = data.draw(st.integers(1, window))
    random = np.random.default_rng(sum(lengths))
    documents = [TokenDocument(random.integers(0, 256, length), length) for length in lengths]
    one, _ = evaluate_tokens(model, documents, start=256, window=window, stride=stride, batch_tokens=1)
    many, _ = evaluate_tokens(model, documents, start=256, window=window, stride=stride, batch_tokens=batch_tokens)
    assert one.tokens == many.tokens == one.bytes == sum(lengths)
    assert one.loss == pytest.approx(many.loss, rel=1e-5)


def test_a_long_text_is_encoded_in_parts_without_loss(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "知行合一，做中学。\n\n" * 200
    whole = evaluate_text(model, tokenizer, [text], window=16, stride=16)
    monkeypatch.setattr("zhixing.evaluation.language_modelling.ENCODE_CHARACTERS", 1000)
    monkeypatch.setattr("zhixing.data.cutting.LONGEST", 400)
    monkeypatch.setattr("zhixing.data.cutting.SHORTEST", 100)
    parts = evaluate_text(model, tokenizer, [text], window=16, stride=16)
    assert parts == whole


def test_agrees_with_transformers(tmp_path: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    save_folder(tmp_path / "model", model, tokenizer, "llama")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    text = TEXTS[1][:5]  # 15 bytes: with the end-of-text token before it, one window
    ids = torch.tensor([[tokenizer.end_of_text_id, *their_tokenizer(text)["input_ids"]]])
    with torch.no_grad():
        loss = theirs(ids, labels=ids).loss.item()
    score = evaluate_text(model, tokenizer, [text])
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(loss / math.log(2) * 15 / 15, rel=1e-5)


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    score = evaluate_text(model, tokenizer, ["知行 and more"])
    assert score.bits_per_byte == pytest.approx(math.log2(257), rel=1e-6)
    assert score.perplexity == pytest.approx(257, rel=1e-5)


def test_the_model_keeps_its_mode(model: Transformer, tokenizer: Tokenizer) -> None:
    model.train()
    evaluate_text(model, tokenizer, ["abc"])
    assert model.training
    model.eval()
    evaluate_text(model, tokenizer, ["abc"])
    assert not model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 17}, "from 1 to the model's context of 16"),
        ({"window": 0}, "window is 0"),
        ({"window": 8, "stride": 9}, "stride is 9"),
        ({"stride": 0}, "stride is 0"),
    ],
)
def test_settings_that_cannot_be(
    model: Transformer, tokenizer: Tokenizer, options: dict[str, int], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        evaluate_text(model, tokenizer, ["abc"], **options)  # type: ignore[arg-type]


def test_nothing_to_score(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(BadInput, match="no token to score"):
        evaluate_text(model, tokenizer, [""])


def test_a_tokenizer_of_another_model(tokenizer: Tokenizer) -> None:
    with pytest.raises(BadInput, match="257 tokens, the model only 100"):
        evaluate_text(make_model(100), tokenizer, ["abc"])


def test_broken_weights_are_named(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    with torch.no_grad():
        model.embedding.weight[97] = math.nan
    with pytest.raises(BadInput, match="not numbers"):
        evaluate_text(model, tokenizer, ["abc"])


def test_json_of_a_hopeless_model_is_still_json() -> None:
    score = LanguageModelScore(9.0, math.inf, 800.0, 1, 1, 1, 1, 1, "")
    assert score.to_json()["perplexity"] is None


def test_intervals_are_over_documents(model: Transformer) -> None:
    """Equal documents have no spread; unlike ones have the interval of their own sums."""
    generator = np.random.default_rng(0)
    documents = [TokenDocument(generator.integers(0, 256, 20 + k), 20 + k) for k in range(8)]
    score, _ = evaluate_tokens(model, documents, start=None, window=16, stride=6)
    each = [evaluate_tokens(model, [document], start=None, window=16, stride=6)[0] for document in documents]
    assert all(one.bits_per_byte_interval is None for one in each)
    sums = [(one.loss * one.tokens, one.tokens, one.bytes) for one in each]
    expected = with_interval(from_sums(sums, ["bits_per_byte"])[0])
    assert score.bits_per_byte == pytest.approx(expected.value, rel=1e-6)
    assert score.bits_per_byte_interval == pytest.approx((expected.interval.low, expected.interval.high), rel=1e-5)
    assert score.bits_per_byte_interval[0] < score.bits_per_byte < score.bits_per_byte_interval[1]
    same, _ = evaluate_tokens(model, [documents[0]] * 5, start=None, window=16, stride=6)
    assert same.perplexity_interval == pytest.approx((same.perplexity, same.perplexity), rel=1e-5)
    assert json.loads(json.dumps(score.to_json()))["perplexity_interval"] == list(score.perplexity_interval)

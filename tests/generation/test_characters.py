"""Whole characters: the automaton is that of Python's own decoder, and drawn texts hold no broken character."""

from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.characters import BORDER, BROKEN, WholeCharacters, state_behind, walk, whole_characters
from zhixing.generation.sampling import Context
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

FEW = [
    0x00,
    0x41,
    0x7F,
    0x80,
    0x8F,
    0x90,
    0x9F,
    0xA0,
    0xBF,
    0xC0,
    0xC1,
    0xC2,
    0xDF,
    0xE0,
    0xE4,
    0xED,
    0xEF,
    0xF0,
    0xF1,
    0xF4,
    0xF5,
]


def decodes(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def verdict(content: bytes) -> str:
    """What Python's decoder says: whole, begun (something can follow that makes it whole) or broken.

    Its incremental decoder alone would not do: it waits for a third byte behind ED A0, where none can follow.
    """
    if decodes(content):
        return "whole"
    tails = (bytes(tail) for count in (1, 2, 3) for tail in product((0x80, 0x90, 0xA0, 0xBF), repeat=count))
    return "begun" if any(decodes(content + tail) for tail in tails) else "broken"


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FEW) | st.integers(0, 255), max_size=6).map(bytes))
@example(b"\xed\xa0")
@example(b"\xed\x9f")
@example(b"\xf4\x90")
@example(b"a\xe0\x80")
def test_the_automaton_is_python_s_decoder(content):
    state = walk(BORDER, content)
    expected = verdict(content)
    assert (state == BROKEN) == (expected == "broken")
    if state != BROKEN:
        assert (state == BORDER) == (expected == "whole")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=4), st.integers(0, 3))
def test_the_past_is_read_from_its_last_bytes(text, cut):
    content = text.encode()
    content = content[: max(0, len(content) - cut)]
    assert state_behind(content[-4:]) == walk(BORDER, content)


def test_exactly_the_tokens_that_keep_the_text_whole_are_left():
    contents = [
        b"a",
        b"\xe4",
        b"\xb8",
        b"\xad",
        b"\xb8\xad",
        b"\xb8\xadx",
        b"\xad\xe4",
        b"",
        "\u4e2d".encode(),
        b"\xff",
    ]
    process = WholeCharacters(contents)

    def left(*past: int) -> list[int]:
        tokens = torch.tensor([[0, 0, 0, 0, 0, *past]])
        out = process(torch.zeros(1, len(contents)), Context(tokens, torch.tensor([0]), 5))
        return torch.isfinite(out[0]).nonzero().flatten().tolist()

    assert left() == [0, 1, 7, 8]
    assert left(1) == [2, 3, 4, 5]
    assert left(1, 2) == [2, 3, 6]
    assert left(1, 4) == left(8) == left(7) == left()


def test_padding_is_not_read():
    process = WholeCharacters([b"a", b"\xe4", b"\xb8", b"\xad"])
    tokens = torch.tensor([[1, 1, 0], [1, 1, 1]])
    out = process(torch.zeros(2, 4), Context(tokens, torch.tensor([2, 0]), 3))
    assert torch.isfinite(out).tolist() == [[True, True, False, False], [False, False, True, True]]
    short = process(torch.zeros(1, 4), Context(torch.tensor([[1, 0]]), torch.tensor([1]), 2))
    assert torch.isfinite(short[0]).tolist() == [True, True, False, False]


def test_where_no_byte_goes_on_anything_is_let_through():
    process = WholeCharacters([b"a", b"\xe4"])
    out = process(torch.zeros(1, 2), Context(torch.tensor([[1]]), torch.tensor([0]), 1))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("kind", ["byte-bpe", "byte"])
def test_an_untrained_model_draws_readable_text(kind):
    text = "\u77e5\u884c\u5408\u4e00\uff0c\u77e5\u800c\u4e0d\u884c\uff0c\u53ea\u662f\u672a\u77e5\u3002" * 4
    tokenizer = train_tokenizer([text], kind, 300 if kind == "byte-bpe" else None).tokenizer
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp_width=16, context=128
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    generator = Generator(model, tokenizer)
    options = SamplingOptions(max_tokens=60, seed=1, end_tokens=(), n=4)
    loose = generator.generate(["\u77e5"], options)
    whole = generator.generate(["\u77e5"], options.replace(whole_characters=True))
    assert any("\ufffd" in answer.text for answer in loose)
    # Only the last character may be cut, by the number of tokens.
    assert not any("\ufffd" in answer.text.rstrip("\ufffd") for answer in whole)


def test_whole_vocabularies_need_no_processor():
    assert whole_characters(train_tokenizer(["\u77e5\u884c abc"], "character", None).tokenizer) is None

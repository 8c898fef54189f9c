from __future__ import annotations

import pytest

from zhixing.core.errors import BadInput
from zhixing.tokenization import Tokenizer
from zhixing.tokenization.readable import readable_bytes, readable_text
from zhixing.tokenization.train import train_tokenizer
from zhixing.tokenization.view import SPELT_ON, compare, describe, running_pieces, script_of_token, split_text


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"plain", "plain"),
        ("世界".encode(), "世界"),
        ("世".encode()[:2], "<E4><B8>"),
        (b"a" + "世".encode()[1:] + b"b", "a<B8><96>b"),
        (b" a\n", "␣a⏎"),
        ("\u0301x".encode(), "◌\u0301x"),
        ("e\u0301".encode(), "e\u0301"),
        ("\u200b\ufeff\u3000\xa0".encode(), "<U+200B><U+FEFF><U+3000><U+00A0>"),
        ("\ufffd".encode(), "<U+FFFD>"),
        (b"\x1b[31m", "<1B>[31m"),
        (b"", ""),
    ],
)
def test_readable_bytes(content: bytes, shown: str) -> None:
    assert readable_bytes(content) == shown


def test_a_chinese_middle_dot_is_not_a_space() -> None:
    assert readable_text("维克多·雨果 著") == "维克多·雨果␣著"


def test_scripts(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["character"]

    def script(character: str) -> str:
        return script_of_token(tokenizer, tokenizer.vocabulary[character])

    assert [script(character) for character in "a知7，\n"] == ["Latin", "Chinese", "digits", "signs", "blank"]
    assert script("<|unk|>") == "special"
    by_bytes = tokenizers["byte"]
    assert script_of_token(by_bytes, 0xE4) == "parts of characters"
    assert script_of_token(by_bytes, 0x41) == "Latin"


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece", "character", "byte"])
def test_describe(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    facts = describe(tokenizer, 5)
    assert facts.kind == kind
    assert sum(facts.scripts.values()) == tokenizer.vocab_size
    assert len(facts.longest) == len(facts.sample) == 5
    lengths = [len(token.piece) for token in facts.longest]
    assert lengths[0] >= lengths[-1]
    assert not any(token.special for token in (*facts.longest, *facts.sample))
    assert describe(tokenizer, 0).sample == []


def test_split_text_covers_the_text(tokenizers: dict[str, Tokenizer]) -> None:
    views = split_text(tokenizers["byte-bpe"], "the 知行合一\n")
    assert "".join(view.piece for view in views) == "the␣知行合一⏎"
    views = split_text(tokenizers["byte-bpe"], "a<|endoftext|>", parse_special=True)
    assert views[-1].special
    assert views[-1].piece == "<|endoftext|>"


def test_compare(tokenizers: dict[str, Tokenizer]) -> None:
    rows = compare(tokenizers, ["the world 世界", "龘"])
    by_name = {row.name: row for row in rows}
    assert list(by_name) == list(tokenizers)
    assert by_name["byte"].tokens == len("the world 世界龘".encode())
    assert by_name["character"].characters_per_token == 1.0
    assert by_name["character"].unknown == 1
    assert [by_name[kind].round_trip for kind in ("byte", "unigram", "wordpiece", "character")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(BadInput, match="no text"):
        compare(tokenizers, [""])


def test_characters_in_several_tokens_can_be_read() -> None:
    tokenizer = train_tokenizer([], "byte").tokenizer
    text = "知a🙂<E6>"
    pieces = running_pieces(tokenizer, tokenizer.encode(text))
    assert len(pieces) == len(text.encode())
    assert "".join(piece for piece in pieces if piece != SPELT_ON) == text
    assert pieces[:4] == ["知", SPELT_ON, SPELT_ON, "a"]
    cut = tokenizer.encode("知")[:2]
    end = tokenizer.end_of_text_id
    assert end is not None
    assert running_pieces(tokenizer, [*cut, end, *cut]) == ["<E7>", "<9F>", tokenizer.piece(end), "<E7>", "<9F>"]
    assert running_pieces(tokenizer, []) == []

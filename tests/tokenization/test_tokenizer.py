from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.tokenization import Tokenizer, train_tokenizer

from .conftest import SAMPLES, make_corpus

LOSSLESS = ("byte-bpe", "unigram", "byte")
TEXTS = st.text() | st.text(alphabet=st.sampled_from(list(" \n\tab'<|>▁0x1中国，。é\u0301😀\u200d")))

LEARNED = {kind: train_tokenizer(make_corpus(), kind, None if kind == "byte" else 700).tokenizer for kind in LOSSLESS}


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=TEXTS)
def test_every_text_comes_back(kind: str, text: str) -> None:
    tokenizer = LEARNED[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, text]) == [ids, ids]
    assert not tokenizer.special_ids.intersection(ids)


@given(text=TEXTS, data=st.data())
def test_known_characters_come_back(text: str, data: st.DataObject) -> None:
    tokenizer = train_tokenizer([text or "a"], "character", special_tokens=[]).tokenizer
    known = data.draw(st.text(alphabet=sorted(set(text)))) if text else ""
    assert tokenizer.decode(tokenizer.encode(known)) == known
    assert len(tokenizer.encode(known)) == len(known)


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece", "character", "byte"])
@given(data=st.data())
def test_stream_gives_the_text_of_all_tokens(kind: str, tokenizers: dict[str, Tokenizer], data: st.DataObject) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    for skip in (False, True):
        stream = tokenizer.stream_decoder(skip_special=skip)
        pushed = [stream.push(token) for token in ids]
        assert "".join(pushed) + stream.finish() == tokenizer.decode(ids, skip_special=skip)


@pytest.mark.parametrize("kind", ["byte-bpe", "byte"])
@given(data=st.data())
def test_bytes_decode_as_the_engine_decodes_them(
    kind: str, tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    assert tokenizer.decode(ids) == tokenizer._backend.decode(ids, skip_special_tokens=False)


def test_stream_never_cuts_a_character(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte"]
    stream = tokenizer.stream_decoder()
    assert [stream.push(token) for token in tokenizer.encode("a世😀")] == ["a", "", "", "世", "", "", "", "😀"]
    assert stream.finish() == ""
    assert stream.push(0xE4) == ""
    assert stream.finish() == "\ufffd"
    assert stream.push(ord("b")) == "b"


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece", "character", "byte"])
def test_save_and_load_change_nothing(kind: str, tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizer = tokenizers[kind]
    tokenizer.save(tmp_path / "model", {"model_max_length": 512})
    opened = Tokenizer.load(tmp_path / "model")
    assert opened.fingerprint == tokenizer.fingerprint
    assert opened.kind == kind
    assert opened.roles == tokenizer.roles
    assert opened.special_tokens == tokenizer.special_tokens
    assert opened.config["model_max_length"] == 512
    assert opened.end_of_text_id == tokenizer.vocabulary["<|endoftext|>"] == tokenizer.vocab_size - 1
    for text in SAMPLES:
        assert opened.encode(text) == tokenizer.encode(text)
    opened.save(tmp_path / "again")
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("model", "again"))
    assert first == second


def test_fingerprint_is_of_the_content_and_not_of_its_layout(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizer = tokenizers["byte-bpe"]
    definition = copy.deepcopy(tokenizer.definition)
    definition["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    opened = Tokenizer.load(tmp_path / "tokenizer.json")
    assert opened.fingerprint == tokenizer.fingerprint
    assert len(opened.encode("many words that are more than three tokens")) > 3
    definition["model"]["merges"].pop()
    assert Tokenizer(definition).fingerprint != tokenizer.fingerprint


def test_text_that_looks_special_is_text_unless_asked(tokenizers: dict[str, Tokenizer]) -> None:
    for kind, tokenizer in tokenizers.items():
        end = tokenizer.end_of_text_id
        assert end not in tokenizer.encode("a<|endoftext|>"), kind
        assert end not in tokenizer.encode_batch(["a<|endoftext|>"])[0], kind
        assert tokenizer.encode("a<|endoftext|>", parse_special=True)[-1] == end, kind
        assert end not in tokenizer.encode("a<|endoftext|>"), kind


def test_skip_special(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte-bpe"]
    ids = [*tokenizer.encode("one"), tokenizer.end_of_text_id or 0, *tokenizer.encode(" two")]
    assert tokenizer.decode(ids) == "one<|endoftext|> two"
    assert tokenizer.decode(ids, skip_special=True) == "one two"


def test_a_character_without_a_token_is_refused_not_dropped() -> None:
    tokenizer = train_tokenizer(["abc"], "character", special_tokens=[]).tokenizer
    for encode in (lambda: tokenizer.encode("a中b"), lambda: tokenizer.encode_batch(["abc", "a中b"])):
        with pytest.raises(BadInput, match="'中'"):
            encode()


def test_unknown_characters_become_the_unknown_token(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["character"]
    ids = tokenizer.encode("a龘龘b")
    assert ids[1] == ids[2] == tokenizer.unknown_id
    assert tokenizer.decode(ids, skip_special=True) == "ab"


def test_half_a_character_is_said(tokenizers: dict[str, Tokenizer]) -> None:
    for encode in (tokenizers["byte"].encode, lambda text: tokenizers["byte"].encode_batch([text])):
        with pytest.raises(BadInput, match=r"surrogate U\+D83D at 1"):
            encode("a\ud83d")


@pytest.mark.parametrize("token", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(tokenizers: dict[str, Tokenizer], token: int) -> None:
    for ask in (tokenizers["byte"].piece, lambda t: tokenizers["byte"].decode([t]), tokenizers["byte"].token_bytes):
        with pytest.raises(BadInput, match="outside the vocabulary of 257"):
            ask(token)


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("byte", " é\n", ["␣", "<C3>", "<A9>", "⏎"]),
        ("byte", "\t\r\x00", ["⇥", "␍", "<00>"]),
        ("unigram", "龘", ["<E9>", "<BE>", "<98>"]),
        ("character", "知 .", ["知", "␣", "."]),
        ("byte-bpe", "In the 中国", ["In", "␣the", "␣", "中国"]),
    ],
)
def test_pieces_are_readable(tokenizers: dict[str, Tokenizer], kind: str, text: str, pieces: list[str]) -> None:
    tokenizer = tokenizers[kind]
    assert [tokenizer.piece(token) for token in tokenizer.encode(text)] == pieces


def test_no_piece_is_mojibake(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        for token in range(tokenizer.vocab_size):
            piece = tokenizer.piece(token)
            assert piece
            assert not set(piece) & set("ĠĊäåæçèéï\ufffd▁ "), (tokenizer.kind, token, piece)


def test_saving_where_nothing_can_be_saved(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Exception, match="file") as caught:
        tokenizers["byte"].save(tmp_path / "file" / "model")
    assert getattr(caught.value, "exit_code", None) == 3

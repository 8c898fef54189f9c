"""SentencePiece files, with the sentencepiece library as the oracle."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.tokenization import Tokenizer
from zhixing.tokenization.protobuf import read_fields
from zhixing.tokenization.sentencepiece import read_model, to_definition

from .conftest import SAMPLES, make_corpus

sentencepiece = pytest.importorskip("sentencepiece")

VARIANTS: dict[str, dict[str, Any]] = {
    "unigram as T5": {"model_type": "unigram"},
    "unigram, bytes": {
        "model_type": "unigram",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "bpe as Llama": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "bpe, normalised": {"model_type": "bpe"},
    "unigram, symbols, no prefix": {
        "model_type": "unigram",
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<sep>", "<mask>"],
    },
    "bpe, symbols, over spaces": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<sep>"],
        "split_by_whitespace": False,
    },
    "characters": {"model_type": "char"},
}
TEXTS = [
    *SAMPLES,
    "<sep>hi <sep> <sep>you <mask>",
    "ＡＢＣ１２３ ﬁ ½ ①",
    "<s>quoted</s>",
    *make_corpus()[:20],
]


def train(options: dict[str, Any]) -> bytes:
    target = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in make_corpus() for line in text.splitlines()),
        model_writer=target,
        vocab_size=500,
        hard_vocab_limit=False,
        character_coverage=0.995,
        minloglevel=2,
        **options,
    )
    return target.getvalue()


MODELS = {name: train(options) for name, options in VARIANTS.items()}


@pytest.fixture(params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Tokenizer]:
    path = tmp_path / "m.model"
    path.write_bytes(MODELS[request.param])
    return sentencepiece.SentencePieceProcessor(model_proto=MODELS[request.param]), Tokenizer.load(path)


def test_ids_and_text_are_those_of_sentencepiece(pair: tuple[Any, Tokenizer]) -> None:
    theirs, ours = pair
    assert ours.vocab_size == theirs.get_piece_size()
    assert ours.end_of_text_id == theirs.eos_id()
    assert ours.begin_id == theirs.bos_id()
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        if theirs.unk_id() not in ids:
            assert ours.decode(ids) == theirs.decode(ids)
        stream = ours.stream_decoder()
        assert "".join(map(stream.push, ids)) + stream.finish() == ours.decode(ids)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([name for name, options in VARIANTS.items() if options["model_type"] == "unigram"]),
    st.text(alphabet=st.sampled_from(list("the dog 知行合一，。 <>s/x0A1\n😀é"))),
)
def test_unigram_agrees_on_any_text(name: str, text: str) -> None:
    ids = sentencepiece.SentencePieceProcessor(model_proto=MODELS[name]).encode(text)
    assert Tokenizer(to_definition(read_model(MODELS[name]))).encode(text) == ids


def test_saved_folder_agrees_with_transformers(pair: tuple[Any, Tokenizer], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = pair[1]
    ours.save(tmp_path / "folder")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "folder"))
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False).input_ids
        assert ids == ours.encode(text, parse_special=True)
        assert theirs.decode(ids) == ours.decode(ids)
    assert Tokenizer.load(tmp_path / "folder").fingerprint == ours.fingerprint


def test_broken_bytes_of_a_model_keep_the_whole_characters() -> None:
    tokenizer = Tokenizer(to_definition(read_model(MODELS["bpe as Llama"])))
    bytes_of = [tokenizer.vocabulary[f"<0x{byte:02X}>"] for byte in "龘".encode()]
    assert tokenizer.decode([*bytes_of, *bytes_of[:2]]) == "龘\ufffd"


def test_configuration_beside_it_decides_about_begin_and_end(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(MODELS["bpe as Llama"])
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true, "add_eos_token": false}')
    tokenizer = Tokenizer.load(tmp_path)
    plain = tokenizer.encode("the dog")
    assert tokenizer.encode("the dog", special=True) == [tokenizer.begin_id, *plain]


def refuse(content: bytes, tmp_path: Path) -> str:
    path = tmp_path / "bad.model"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_wrong_files_are_refused_in_one_message(tmp_path: Path) -> None:
    good = MODELS["unigram, bytes"]
    assert "cut short" in refuse(good[:-7], tmp_path)
    assert "cut short" in refuse(good[: len(good) // 2], tmp_path)
    assert "empty" in refuse(b"", tmp_path)
    refuse(b"PK\x03\x04" + b"zip content" * 20, tmp_path)
    refuse(b"\xff" * 400, tmp_path)
    assert "tiktoken" in refuse(b"IQ== 0\nIg== 1\nIw== 2\n", tmp_path)
    assert "claims" in refuse(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", tmp_path)
    assert "'<0x41>' is missing" in refuse(good.replace(b"<0x41>", b"<0x4g>"), tmp_path)
    assert "not a number" in refuse(good.replace(struct.pack("<f", 0.0), struct.pack("<f", float("nan")), 1), tmp_path)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        list(read_fields(memoryview(content)))
        to_definition(read_model(content))
    except BadInput:
        pass


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(MODELS["unigram as T5"]) - 1), st.integers(0, 255))
def test_one_wrong_byte_never_ends_in_a_traceback(at: int, byte: int) -> None:
    content = bytearray(MODELS["unigram as T5"])
    content[at] = byte
    try:
        definition = to_definition(read_model(bytes(content)))
    except BadInput:
        return
    try:
        Tokenizer(definition).encode("the dog 知行 ＡＢ ﬁ é ½")
    except BadInput:
        return


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_broken_character_map_cannot_stop_the_process(data: st.DataObject) -> None:
    content = bytearray(MODELS["unigram as T5"])
    charsmap = read_model(bytes(content)).charsmap
    start = bytes(content).index(charsmap) + 4
    size = int.from_bytes(charsmap[:4], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[start + data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    try:
        tokenizer = Tokenizer(to_definition(read_model(bytes(content))))
    except BadInput:
        return
    tokenizer.encode("".join(map(chr, range(0x20, 0x3000))) + "ＡＢﬁ知😀")

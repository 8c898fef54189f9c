"""Tokenizers in and out: every kind gives the same tokens after a journey through a GGUF file."""

import json

import numpy as np
import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from tests.checkpoints.gguf.support import byte_spelling, llama_metadata, llama_tensors, write
from zhixing.checkpoints.gguf.cache import cached_array
from zhixing.checkpoints.gguf.header import open_gguf
from zhixing.checkpoints.gguf.pretokenizers import PRE_TOKENIZERS, steps_of
from zhixing.checkpoints.gguf.vocabulary import read_tokenizer
from zhixing.checkpoints.gguf.vocabulary_out import tokenizer_metadata
from zhixing.core.errors import BadInput
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import train_tokenizer

CORPUS = [
    "hello hello world 123", "def f(x):\n\treturn x ** 2", "知行合一 知行 合一", "it's  we'll\n\n\nnaïve café",
] * 4  # fmt: skip
TEXTS = [
    *CORPUS[:4], "", "  spaces   everywhere  ", "\r\n\r\n", "1234567 ²", "👩‍👧 e\u0301", "<|im_end|> and <|end|>",
    "a\u00a0b",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))


def through_a_file(tokenizer, tmp_path, rows=None, ends=()):
    """Writes a tokenizer into a file with the `gguf` package and reads it again."""
    metadata = tokenizer_metadata(tokenizer, rows or tokenizer.vocab_size, ends)
    without = {key: value for key, value in llama_metadata().items() if not key.startswith("tokenizer.")}
    path = write(tmp_path / "m.gguf", without | metadata, {})
    return read_tokenizer(open_gguf(path))


def byte_level(pre="gpt-2", special=("<|end|>",), defined=()):
    """A byte-level BPE trained here that cuts words in a named way."""
    way = PRE_TOKENIZERS[pre]
    backend = Backend(models.BPE(ignore_merges=way.whole_words))
    spelling = byte_spelling()
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in way.patterns]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    if way.composed:
        backend.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=list(spelling.values()), show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(list(special))
    backend.add_tokens(list(defined))
    return Tokenizer(json.loads(backend.to_str()), {"eos_token": special[0]})


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_named_way_to_cut_survives(pre, tmp_path):
    tokenizer = byte_level(pre)
    again = through_a_file(tokenizer, tmp_path).tokenizer
    way, found = PRE_TOKENIZERS[pre], open_gguf(tmp_path / "m.gguf").metadata["tokenizer.ggml.pre"]
    assert PRE_TOKENIZERS[found].patterns == way.patterns
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_special_and_defined_tokens_keep_their_nature(tmp_path):
    tokenizer = byte_level(special=("<|end|>", "<|im_end|>"), defined=("<think>",))
    found = through_a_file(tokenizer, tmp_path, rows=340)
    again = found.tokenizer
    assert again.special_tokens == tokenizer.special_tokens
    assert again.end_of_text_id == tokenizer.end_of_text_id
    for text in ("a<|im_end|>b", "<think>x", "<|end|>"):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.encode(text, parse_special=True) == tokenizer.encode(text, parse_special=True)
    assert again.vocab_size == 340
    assert found.end_tokens == sorted(tokenizer.special_tokens.values())


def test_begin_and_end_tokens_are_found_by_trying(tmp_path):
    tokenizer = byte_level("llama-bpe", special=("<|begin|>", "<|end|>"))
    definition = json.loads(json.dumps(tokenizer.definition))
    ids = tokenizer.special_tokens
    begin = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
    definition["post_processor"] = {
        "type": "TemplateProcessing", "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ids},
    }  # fmt: skip
    roles = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    again = through_a_file(Tokenizer(definition, roles), tmp_path).tokenizer
    assert again.encode("hi", special=True) == [ids["<|begin|>"], *tokenizer.encode("hi")]
    plain = through_a_file(Tokenizer(tokenizer.definition, roles), tmp_path).tokenizer
    assert plain.encode("hi", special=True) == tokenizer.encode("hi")  # the file says no, though the name would say yes
    with pytest.raises(BadInput, match="around a text"):
        tokenizer_metadata(Tokenizer(definition, {"eos_token": "<|end|>"}), tokenizer.vocab_size)


def sentencepiece_like(prefix=True, fallback=True):
    """A tokenizer as SentencePiece's BPE makes it, with byte pieces and scores in the order of the pieces."""
    pieces = ["<unk>", "<s>", "</s>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    pieces += ["▁", "h", "e", "l", "o", "w", "▁h", "el", "lo", "▁hel", "▁hello", "知", "行", "知行", "▁▁", "he"]
    spec = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ids = {piece: index for index, piece in enumerate(pieces)}
    from zhixing.tokenization.sentencepiece import merge_pairs

    types = [2, 3, 3] + [6] * (256 if fallback else 0) + [1] * (len(pieces) - (259 if fallback else 3))
    scores = [-float(index) for index in range(len(pieces))]
    pairs = merge_pairs(pieces, scores, types)
    steps = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    decoder = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]
    decoder += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    definition = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": ids[name], "content": name, **spec} for name in pieces[:3]],
        "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": fallback, "vocab": ids,
                  "merges": [[pieces[left], pieces[right]] for left, right in pairs.tolist()]},
    }  # fmt: skip
    return Tokenizer(definition, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("fallback", [True, False])
def test_sentencepiece_s_bpe_survives_as_scores(prefix, fallback, tmp_path):
    tokenizer = sentencepiece_like(prefix, fallback)
    again = through_a_file(tokenizer, tmp_path).tokenizer
    for text in ("hello", " hello", "hello  hello\n", "知行 hehe", "é👧", "</s> hello", ""):
        assert again.encode(text) == tokenizer.encode(text), text
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert again.roles == tokenizer.roles


def test_it_is_the_tokenizer_that_transformers_makes(tmp_path):
    tokenizer = byte_level("qwen2", special=("<|end|>",))
    metadata = llama_metadata()
    metadata = {key: value for key, value in metadata.items() if not key.startswith("tokenizer.")}
    tensors = llama_tensors(vocabulary=tokenizer.vocab_size)
    path = write(tmp_path / "m.gguf", metadata | tokenizer_metadata(tokenizer, tokenizer.vocab_size), tensors)
    ours, theirs = (
        read_tokenizer(open_gguf(path)).tokenizer,
        AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name),
    )
    for text in TEXTS:
        if "\u0301" not in text:  # it forgets that Qwen composes characters
            assert ours.encode(text, parse_special=True) == theirs.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize(
    ("kind", "message"),
    [("unigram", "kind 'unigram'"), ("wordpiece", "kind 'wordpiece'"), ("character", "kind 'character'"),
     ("byte-bpe", "cuts words")],
)  # fmt: skip
def test_tokenizers_that_gguf_cannot_express_are_refused(kind, message):
    tokenizer = train_tokenizer(CORPUS, kind, vocab_size=400).tokenizer
    with pytest.raises(BadInput, match=message):
        tokenizer_metadata(tokenizer, tokenizer.vocab_size)


def test_merges_without_an_order_of_the_tokens_are_refused():
    tokenizer = sentencepiece_like()
    definition = json.loads(json.dumps(tokenizer.definition))
    definition["model"]["merges"] = [pair for pair in definition["model"]["merges"] if pair != ["▁", "h"]]
    with pytest.raises(BadInput, match="do not follow from an order"):
        tokenizer_metadata(Tokenizer(definition, tokenizer.roles), tokenizer.vocab_size)


def test_more_tokens_than_rows_are_refused():
    with pytest.raises(BadInput, match="but the model only 100"):
        tokenizer_metadata(byte_level(), 100)


def test_a_damaged_cache_is_computed_again(tmp_path, monkeypatch):
    tokenizer = sentencepiece_like()
    through_a_file(tokenizer, tmp_path)
    (kept,) = (tmp_path / "cache" / "merges").iterdir()
    for content in (b"", b"garbage", kept.read_bytes()[:-9]):
        kept.write_bytes(content)
        assert read_tokenizer(open_gguf(tmp_path / "m.gguf")).tokenizer.encode("hello") == tokenizer.encode("hello")
    np.save(kept, np.array([[5, 1 << 30]], np.int32))
    assert read_tokenizer(open_gguf(tmp_path / "m.gguf")).tokenizer.encode("hello") == tokenizer.encode("hello")


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "file"))
    assert cached_array("a/b.npy", lambda: np.arange(3), lambda _: True).tolist() == [0, 1, 2]


def test_steps_are_those_of_a_tokenizer_json():
    steps = steps_of(PRE_TOKENIZERS["smollm"])
    assert [step["type"] for step in steps["pretokenizers"]] == ["Split", "Split", "ByteLevel"]

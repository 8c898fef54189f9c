from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.tokenization import Tokenizer
from zhixing.tokenization import load as loading
from zhixing.tokenization.definition import check_definition

from .conftest import SAMPLES

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "##s", "世", "界", "\u2028", "a", "b", ",", "##b"]


@pytest.fixture
def gpt2_folder(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> Path:
    model = tokenizers["byte-bpe"].definition["model"]
    vocabulary = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    folder = tmp_path / "gpt2"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return folder


def test_gpt2_files_agree_with_transformers(gpt2_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Tokenizer(str(gpt2_folder / "vocab.json"), str(gpt2_folder / "merges.txt"))
    for path in (gpt2_folder, gpt2_folder / "vocab.json", gpt2_folder / "merges.txt"):
        ours = Tokenizer.load(path)
        assert ours.kind == "byte-bpe"
        assert ours.end_of_text_id == theirs.eos_token_id == ours.vocab_size - 1
        for text in SAMPLES:
            assert ours.encode(text, parse_special=True) == theirs(text).input_ids
            assert ours.decode(ours.encode(text)) == text


def test_gpt2_files_under_their_first_names_and_packed(gpt2_folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for old, new in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (packed / f"{new}.gz").write_bytes(gzip.compress((gpt2_folder / old).read_bytes()))
    assert Tokenizer.load(packed).fingerprint == Tokenizer.load(gpt2_folder).fingerprint


def test_qwen_files_are_cut_by_qwens_rules(gpt2_folder: Path) -> None:
    (gpt2_folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "eos_token": "<|endoftext|>",
                "added_tokens_decoder": {
                    "700": {"content": "<|im_start|>", "special": True},
                    "900": {"content": "<|far|>", "special": True},
                },
            }
        )
    )
    tokenizer = Tokenizer.load(gpt2_folder)
    assert tokenizer.special_tokens["<|im_start|>"] == 700
    assert "<|far|>" not in tokenizer.special_tokens
    assert any("<|far|>" in note for note in tokenizer.notes)
    assert len(tokenizer.encode("12")) == 2
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "é"


def test_gpt2_faults_name_their_place(gpt2_folder: Path) -> None:
    merges = gpt2_folder / "merges.txt"
    good = merges.read_text()
    merges.write_text(good.replace("\n", "\nq zzz9\n", 1))
    with pytest.raises(BadInput, match=r"merges\.txt:2.*zzz9"):
        Tokenizer.load(gpt2_folder)
    merges.write_text("#version: 0.2\na b c\n")
    with pytest.raises(BadInput, match=r"merges\.txt:2"):
        Tokenizer.load(gpt2_folder)
    merges.write_text("")
    with pytest.raises(BadInput, match="empty"):
        Tokenizer.load(gpt2_folder)
    merges.unlink()
    with pytest.raises(MissingResource, match="needs"):
        Tokenizer.load(gpt2_folder / "vocab.json")
    merges.write_text(good)
    for content, message in (
        ("[1]", "not a vocabulary"),
        ('{"a": 0}', "255 of the 256 bytes"),
        ('{"a": "x"}', "whole number"),
        ('{"a": 1, "b": 1}', "same id"),
        ("{", "not valid JSON"),
    ):
        (gpt2_folder / "vocab.json").write_text(content)
        with pytest.raises(BadInput, match=message):
            Tokenizer.load(gpt2_folder)


def test_bert_vocabulary_agrees_with_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n", encoding="utf-8")
    ours = Tokenizer.load(tmp_path)
    theirs = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=True)
    assert ours.kind == "wordpiece"
    assert ours.vocab_size == len(BERT)
    assert (ours.begin_id, ours.end_of_text_id, ours.pad_id, ours.unknown_id) == (2, 3, 0, 1)
    assert any("do_lower_case" in note for note in ours.notes)
    for text in ("The dogs, 世界 abb zebra", "", "[MASK] dog"):
        ids = theirs(text).input_ids
        assert ours.encode(text, special=True, parse_special=True) == ids
        assert theirs.decode(ids) == ours.decode(ids)
    assert 4 not in ours.encode("[MASK] dog")


def test_bert_faults(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[UNK]\na\nb\na\n")
    with pytest.raises(BadInput, match=r"vocab\.txt:4.*line 2"):
        Tokenizer.load(path)
    path.write_text("just\nsome\nwords\n")
    with pytest.raises(BadInput, match="no line"):
        Tokenizer.load(path)
    path.write_bytes(b"[UNK]\n\xff\xfe\n")
    with pytest.raises(BadInput, match="not UTF-8"):
        Tokenizer.load(path)


def test_special_pieces_of_a_vocabulary_cannot_be_quoted_into_being() -> None:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["</s>", 0.0], *([c, -2.0] for c in "</s> ab")]}
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": index, "content": name, **flags} for index, name in enumerate(("<unk>", "</s>"))]
    tokenizer = Tokenizer({"version": "1.0", "added_tokens": added, "model": model})
    assert tokenizer.encode("a</s>b", parse_special=True).count(1) == 1
    assert tokenizer.encode("a</s>b") == [7, 2, 3, 4, 5, 8]
    assert tokenizer.encode_batch(["a</s>b"]) == [[7, 2, 3, 4, 5, 8]]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="no such file"):
        Tokenizer.load(tmp_path / "missing")
    with pytest.raises(BadInput, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(BadInput, match="not a tokenizer file"):
        Tokenizer.load(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("{", "not valid JSON"),
        ("[]", "no 'model'"),
        ("{}", "no 'model'"),
        ('{"model": {"type": "Magic"}}', "unknown tokenizer model type 'Magic'"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "no tokens at all"),
        ('{"model": {"type": "BPE", "vocab": []}}', "no vocabulary"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}', "broken"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [1]}', "added_tokens"),
        ('{"model": {"type": "Unigram", "vocab": [["a"]]}}', "broken"),
        ('{"model": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 7}}', "broken"),
        ("[" * 100_000, "nested|valid"),
        (
            '{"model": {"type": "BPE", "vocab": {"é": 0}, "merges": [["é", "é"]], "continuing_subword_prefix": "x"}}',
            "go on",
        ),
        (
            '{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, '
            '"model": {"type": "BPE", "vocab": {}}}',
            "map",
        ),
        ('{"decoder": 3, "model": {"type": "BPE", "vocab": {}}}', "needs a type"),
    ],
)
def test_broken_definitions_are_refused_in_one_message(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        Tokenizer.load(path)
    assert "tokenizer.json" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_definition_with_any_part_exchanged_is_opened_or_refused(
    tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    definition = json.loads(json.dumps(tokenizers["character"].definition))
    place = definition
    junk = (
        st.none() | st.booleans() | st.integers(-3, 10**12) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
    )
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(junk)
            break
        place = place[key]
    try:
        tokenizer = Tokenizer(check_definition(definition))
        tokenizer.encode("the dog")
    except ZhixingError:
        return


def test_absurd_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MAX_BYTES", 1_000_000)
    (tmp_path / "vocab.txt").write_bytes(b"x" * 1_000_001)
    with pytest.raises(BadInput, match="no tokenizer file is so large"):
        Tokenizer.load(tmp_path / "vocab.txt")
    bomb = tmp_path / "tokenizer.json.gz"
    bomb.write_bytes(gzip.compress(b" " * 50_000_000))
    with pytest.raises(BadInput, match="no tokenizer file is so large"):
        Tokenizer.load(bomb)
    bomb.write_bytes(gzip.compress(b"{}" * 1000)[:-20])
    with pytest.raises(BadInput, match="broken gzip"):
        Tokenizer.load(bomb)


def test_roles_that_name_missing_tokens_are_noted(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizers["byte"].save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps({**config, "pad_token": {"content": "[PAD]"}, "eos_token": {"content": "<|endoftext|>"}})
    )
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.pad_id is None
    assert tokenizer.end_of_text_id == 256
    assert "[PAD]" in tokenizer.notes[0]


def test_nothing_in_a_folder_chooses_code(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizers["byte"].save(tmp_path / "a")
    path = tmp_path / "a" / "tokenizer_config.json"
    path.write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}))
    Tokenizer.load(tmp_path / "a").save(tmp_path / "b")
    saved = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert "auto_map" not in saved
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_template_in_its_own_file_is_found(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizers["byte"].save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert Tokenizer.load(tmp_path).chat_template == "{{ messages }}"
    shutil.rmtree(tmp_path)


def test_a_unigram_model_without_an_unknown_piece_says_so() -> None:
    tokenizer = Tokenizer({"version": "1.0", "model": {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]]}})
    assert tokenizer.encode("aa") == [0, 0]
    with pytest.raises(BadInput, match="cannot encode"):
        tokenizer.encode("ab")
    with pytest.raises(BadInput, match="cannot encode"):
        tokenizer.encode_batch(["a", "b"])

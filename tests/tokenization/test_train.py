from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.tokenization import train_tokenizer
from zhixing.tokenization.sample import Sample, cut


def pieces(text: str, **options: int) -> list[str]:
    """How the pattern cuts, seen through a tokenizer that merged every piece whole."""
    from tokenizers import Regex, pre_tokenizers

    from zhixing.tokenization.patterns import multilingual_pattern

    split = pre_tokenizers.Split(Regex(multilingual_pattern(**options)), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


def test_pattern_keeps_chinese_apart() -> None:
    assert pieces("我们用PyTorch训练，hello") == ["我们用", "PyTorch", "训练", "，", "hello"]
    assert pieces("中文。\n下一句") == ["中文", "。\n", "下一句"]
    assert pieces("𠀀中a") == ["𠀀中", "a"]


def test_pattern_cuts_english_and_code() -> None:
    assert pieces("Don't say 'sun' 12345") == ["Don", "'t", " say", " '", "sun", "'", " ", "123", "45"]
    assert pieces("  x = a_b(1)\n\n  y") == [" ", " x", " =", " a", "_b", "(", "1", ")\n\n", " ", " y"]
    assert pieces("e\u0301te\u0301") == ["e\u0301te\u0301"]
    assert pieces("123", max_digits=1) == ["1", "2", "3"]


@given(st.text(), st.sampled_from([1, 2, 3]))
def test_pattern_loses_nothing(text: str, max_digits: int) -> None:
    assert "".join(pieces(text, max_digits=max_digits)) == text


def test_no_token_crosses_from_chinese_to_latin(corpus: list[str]) -> None:
    tokenizer = train_tokenizer([text.replace("\n", "") for text in corpus], "byte-bpe", 900).tokenizer
    for token in range(tokenizer.vocab_size - 1):
        text = tokenizer.token_bytes(token).decode("utf-8", "ignore")
        assert not (any("a" <= c <= "z" for c in text) and any("\u4e00" <= c <= "\u9fff" for c in text)), text


def test_characters_are_the_sorted_alphabet_and_nothing_else() -> None:
    text = "To be, or not to be\n中文"
    tokenizer, facts = train_tokenizer([text[:7], text[7:]], "character", special_tokens=[])
    alphabet = sorted(set(text))
    assert tokenizer.vocab_size == len(alphabet)
    assert [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)] == alphabet
    assert tokenizer.encode(text) == [alphabet.index(character) for character in text]
    assert tokenizer.special_tokens == {}
    assert tokenizer.end_of_text_id is tokenizer.pad_id is None
    assert facts.documents_seen == 2


def test_rare_characters_are_counted_when_they_do_not_fit() -> None:
    tokenizer, facts = train_tokenizer(["aaabbbccd"], "character", 5)
    assert [tokenizer.piece(token) for token in range(5)] == ["a", "b", "c", "<|unk|>", "<|endoftext|>"]
    assert list(facts.left_out.values()) == [1, 1]
    assert tokenizer.encode("d") == [tokenizer.unknown_id]
    with pytest.raises(BadInput, match="do not fit"):
        train_tokenizer(["abcd"], "character", 3, special_tokens=[])


def test_bytes_are_their_own_ids() -> None:
    tokenizer = train_tokenizer([], "byte").tokenizer
    assert tokenizer.encode("é\n") == list("é\n".encode())
    assert tokenizer.special_tokens == {"<|endoftext|>": 256}


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece"])
def test_vocabulary_has_the_size_asked_for(corpus: list[str], kind: str) -> None:
    tokenizer, facts = train_tokenizer(corpus, kind, 390, special_tokens=["<|end|>", "<|user|>"])
    assert tokenizer.vocab_size == 390
    assert tokenizer.end_of_text_id == tokenizer.begin_id == tokenizer.vocabulary["<|end|>"]
    assert tokenizer.vocabulary["<|user|>"] == tokenizer.vocab_size - 1
    assert facts.vocab_size == tokenizer.vocab_size
    assert tokenizer.kind == kind


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece", "character"])
def test_training_is_deterministic(corpus: list[str], kind: str) -> None:
    first, second = (train_tokenizer(iter(corpus), kind, 400).tokenizer.fingerprint for _ in range(2))
    assert first == second


def test_a_text_too_small_for_the_vocabulary_is_said() -> None:
    tokenizer, facts = train_tokenizer(["hello hello"], "byte-bpe", 5000)
    assert tokenizer.vocab_size < 270
    assert any("5000 tokens were asked for" in line for line in facts.summary())


def test_names_give_special_tokens_their_roles(corpus: list[str]) -> None:
    tokenizer = train_tokenizer(corpus, "byte-bpe", 300, special_tokens=["<s>", "</s>", "<pad>"]).tokenizer
    assert (tokenizer.begin_id, tokenizer.end_of_text_id, tokenizer.pad_id) == (297, 298, 299)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "byte_bpe"}, "did you mean 'byte-bpe'"),
        ({"vocab_size": 200}, "too small"),
        ({"kind": "unigram", "vocab_size": 258}, "too small"),
        ({"kind": "byte", "vocab_size": 300}, "257 tokens"),
        ({"special_tokens": ["<a>", "<a>"]}, "distinct"),
        ({"special_tokens": ["<a>", ""]}, "not empty"),
        ({"kind": "character", "special_tokens": ["a"]}, "also an ordinary piece"),
        ({"max_digits": 4}, "max_digits is 4"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"min_frequency": 0}, "min_frequency is 0"),
        ({"lowercase": True}, "only wordpiece"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        train_tokenizer(["a text"], **options)  # type: ignore[arg-type]


def test_without_case_and_accents_as_the_uncased_models(tmp_path: Path) -> None:
    texts = ["The Café opens at NINE.", "the cafe opens at nine again", "Ünder the 树"] * 3
    tokenizer = train_tokenizer(texts, "wordpiece", 80, special_tokens=["[PAD]", "[UNK]"], lowercase=True).tokenizer
    pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
    letters = "".join(piece for piece in pieces if piece[0] != "[")
    assert letters == letters.lower()
    assert not set(letters) & set("éü")
    assert tokenizer.encode("THE CAFÉ") == tokenizer.encode("the cafe")
    tokenizer.save(tmp_path)
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path)
    text = "At nine the Café, Ünder 树"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert tokenizer.encode_with_offsets("The CAFÉ")[1][-1][1] == len(
        "The CAFÉ"
    )  # places are those of the text as it is
    assert train_tokenizer(texts, "wordpiece", 80, lowercase=True).tokenizer.definition == (
        train_tokenizer(texts, "wordpiece", 80, lowercase=True).tokenizer.definition
    )


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece", "character"])
@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_refused(kind: str, texts: list[str]) -> None:
    with pytest.raises(BadInput, match="no text"):
        train_tokenizer(texts, kind)


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece", "character"])
@pytest.mark.parametrize("text", ["a", " ", "\n\n", "中", "\ud800 half"])
def test_the_smallest_texts_work_or_are_said(kind: str, text: str) -> None:
    try:
        tokenizer = train_tokenizer([text], kind, 600).tokenizer
    except BadInput:
        return
    tokenizer.encode("anything 中")


def test_sample_is_bounded_even_and_repeatable() -> None:
    texts = [f"{number:05d}" * 20 for number in range(2000)]
    sample = Sample(20_000)
    sample.extend(texts)
    assert sample.bytes_seen == 200_000
    assert 19_000 < sample.bytes_used <= 20_000
    kept = sample.texts()
    assert kept == sorted(kept)
    quarters = [sum(1 for text in kept if int(text[:5]) // 500 == quarter) for quarter in range(4)]
    assert min(quarters) > 25
    again = Sample(20_000)
    again.extend(texts)
    assert again.texts() == kept
    other = Sample(20_000, seed=1)
    other.extend(texts)
    assert other.texts() != kept


def test_chinese_counts_fourfold_towards_the_bound() -> None:
    for character, share in (("a", 1.0), ("中", 0.25)):
        sample = Sample(60_000, wide_weight=4.0)
        sample.extend([character * 300] * 1000)
        assert 0.95 * share < sample.bytes_used / 60_000 <= share
    whole = Sample(10_000, wide_weight=4.0)
    whole.extend(["中" * 10] * 50)
    assert whole.whole


def test_one_huge_document_is_sampled_inside() -> None:
    rng = random.Random(0)
    text = "\n".join("".join(rng.choices("abcdefgh ", k=60)) for _ in range(20_000))
    sample = Sample(200_000)
    sample.add(text)
    assert not sample.whole
    assert 100_000 < sample.bytes_used <= 200_000
    assert all(piece in text for piece in sample.texts())


@given(st.text(alphabet="ab \n中"), st.integers(1, 12))
def test_cutting_loses_nothing(text: str, size: int) -> None:
    found = list(cut(text, size))
    assert "".join(found) == text
    assert all(0 < len(piece) <= size for piece in found)


def test_sampling_is_said_in_the_facts(corpus: list[str]) -> None:
    facts = train_tokenizer(corpus, "byte-bpe", 300, max_bytes=10_000).facts
    assert facts.sampled
    assert facts.bytes_used <= 10_000 < facts.bytes_seen == sum(len(text.encode()) for text in corpus)
    assert "sampled evenly" in facts.summary()[0]
    assert facts.to_json()["sampled"] is True
    whole = train_tokenizer(corpus, "byte-bpe", 300).facts
    assert not whole.sampled
    assert "all" in whole.summary()[0]


def test_unigram_copes_with_more_characters_than_tokens() -> None:
    rng = random.Random(0)
    text = "，".join("".join(rng.choices([chr(0x4E00 + index) for index in range(3000)], k=8)) for _ in range(3000))
    tokenizer, facts = train_tokenizer([text], "unigram", 1000)
    assert 700 < tokenizer.vocab_size <= 1000
    assert sum(facts.left_out.values()) > 2000
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unigram_has_the_common_words(corpus: list[str]) -> None:
    tokenizer = train_tokenizer(corpus, "unigram", 700).tokenizer
    for word in (" the", " language", " lazy", " done", "。\n"):
        assert tokenizer.token_id(word) is not None, word
    assert not any("\1" in piece for piece in tokenizer.vocabulary)
    assert tokenizer.decode(tokenizer.encode("\1 the\1")) == "\1 the\1"


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "wordpiece", "character"])
def test_a_second_unknown_token_changes_no_meaning(corpus: list[str], kind: str) -> None:
    tokenizer = train_tokenizer(corpus, kind, 700, special_tokens=["<s>", "<unk>"]).tokenizer
    model = tokenizer.definition["model"]
    if model["type"] == "Unigram":
        assert tokenizer.unknown_id == model["unk_id"] == 0
    elif model.get("unk_token"):
        assert tokenizer.unknown_id == tokenizer.vocabulary[model["unk_token"]]
    assert tokenizer.begin_id == tokenizer.vocabulary["<s>"]
    assert sorted(tokenizer.vocabulary.values()) == list(range(tokenizer.vocab_size))

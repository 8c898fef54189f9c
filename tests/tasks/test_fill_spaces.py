"""`fill` with tokenizers of every kind: what the network reads around a gap, and how a word is joined to the text."""

from pathlib import Path

import pytest
import torch

from tests.tasks.support import LONGEST
from zhixing.checkpoints.encoder_folder import save_encoder
from zhixing.families.encoders import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.tasks.base import run_texts
from zhixing.tasks.fill import Fill, MaskedFiller
from zhixing.tokenization.train import train_tokenizer

TEXT = "a wonderful film that nobody forgets 知行合一 running and walking, unable to do so."
SPECIAL = ["<s>", "</s>", "<pad>", "<mask>"]


@pytest.fixture(scope="module", params=["byte-bpe", "unigram", "wordpiece", "character", "byte"])
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fill:
    size = None if request.param == "byte" else 380
    tokenizer = train_tokenizer([TEXT] * 20, request.param, vocab_size=size, special_tokens=SPECIAL).tokenizer
    config = TransformerConfig(
        **FIXED, vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp_width=48,
        context=LONGEST, activation="gelu", token_types=2, tied=True,
    )  # fmt: skip
    model = EncoderModel(config, HeadConfig(kind="masked"))
    model.initialise(torch.Generator().manual_seed(0))
    folder: Path = tmp_path_factory.mktemp(request.param) / "model"
    save_encoder(folder, model.eval(), tokenizer, "bert")
    return Fill(folder, 3)


def test_the_network_reads_what_it_learnt_from(task: Fill) -> None:
    assert isinstance(task.filler, MaskedFiller)
    filler, tokenizer = task.filler, task.filler.runner.tokenizer
    for text, hidden in (("a ____ film", " wonderful"), ("a wonderful film ____ nobody", " that")):
        tokens, places = filler._encoded(text)
        whole = text.replace(" ____", hidden)
        before, behind = whole.split(hidden)
        if tokenizer.kind in ("character", "byte"):
            before += " "  # a token of its own
        assert tokens == [*tokenizer.encode(before), filler.mask, *tokenizer.encode(f"{hidden}{behind}")[
            len(tokenizer.encode(hidden)):]]  # fmt: skip
        assert places == [tokens.index(filler.mask)]


@pytest.mark.parametrize(
    ("text", "piece", "expected"),
    [
        ("a ____ film", " wonderful", "a wonderful film"),
        ("____ film", " wonderful", "wonderful film"),
        ("知____合一", "行", "知行合一"),
        ("one\n____ film", " wonderful", "one\nwonderful film"),
        ("walk____", "ing", "walking"),
        ("<mask> and ____.", " so", "so and so."),
    ],
)
def test_a_word_is_joined_as_it_is_written(text: str, piece: str, expected: str, task: Fill) -> None:
    assert isinstance(task.filler, MaskedFiller)
    gaps = text.count("____") + text.count("<mask>")
    assert task.filler._joined(text, [piece] * gaps) == expected


def test_what_goes_on_with_a_word_stands_beside_it(task: Fill) -> None:
    assert isinstance(task.filler, MaskedFiller)
    kind = task.filler.runner.tokenizer.kind
    apart = kind in ("character", "byte")  # whose tokens never say where a word begins
    assert task.filler._joined("walk ____ fast", ["ing"]) == ("walk ing fast" if apart else "walking fast")
    if kind in ("byte-bpe", "unigram"):
        assert task.filler._joined("walk____ fast", [" so"]) == "walk so fast"


def test_fillings_are_words(task: Fill) -> None:
    for text in ("a ____ film", "知 ____ and ____ so", "</s> a ____ </s>"):
        if task.filler.runner.tokenizer.kind == "character" and "<" in text:  # type: ignore[attr-defined]
            continue
        (found,) = run_texts(task, [text])
        assert "____" not in found.text
        for gap in found.gaps:
            assert gap
            assert all(word and word == word.strip() and word.isprintable() and "�" not in word for word in gap)

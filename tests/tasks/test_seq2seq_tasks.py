"""Encoder-decoders behind `translate`, `summarize` and `rewrite`: sentence by sentence, beams, what is not for them."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

import zhixing
from zhixing.checkpoints.seq2seq_folder import save_seq2seq
from zhixing.checkpoints.seq2seq_tokenizers import Tokenizers
from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder, TransformerSeq2SeqConfig
from zhixing.native import library
from zhixing.tasks.answer import AnswerTask
from zhixing.tasks.base import run_all, run_texts
from zhixing.tasks.classify import Classify
from zhixing.tasks.complete import Complete
from zhixing.tasks.extract import Extract
from zhixing.tasks.fill import Fill
from zhixing.tasks.rewrite import Rewrite
from zhixing.tasks.summarize import Summarize
from zhixing.tasks.tag import Tag
from zhixing.tasks.translate import Translate
from zhixing.tokenization.train import train_tokenizer

SENTENCES = ["a dog runs over the green field.", "two cats sleep.", "zwei Katzen schlafen."]
SIDE = {
    "vocab_size": 300, "width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp_width": 64,
    "context": 40, "norm": "layer", "norm_eps": 1e-5, "norm_placement": "residual", "position": "sinusoidal",
    "activation": "relu", "gated": False, "attention_bias": True, "attention_output_bias": True, "mlp_bias": True,
    "tied": True, "scale_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one = train_tokenizer(SENTENCES * 5, vocab_size=300).tokenizer
    encoder, decoder = (
        TransformerConfig(**SIDE, causal=False),
        TransformerConfig(**SIDE, cross_width=32, head_bias=True),
    )
    model = TransformerEncoderDecoder(TransformerSeq2SeqConfig(encoder, decoder, start=1))
    model.initialise(torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("seq2seq") / "model"
    save_seq2seq(
        path, model.eval(), Tokenizers(one, one, end=one.end_of_text_id), "marian", generation={"max_new_tokens": 6}
    )
    return path


def test_each_sentence_gets_what_it_gets_alone(folder: Path) -> None:
    model = zhixing.load(folder)
    alone = [model.generate(sentence, temperature=0.0).strip() for sentence in SENTENCES]
    results = run_texts(Translate(folder), [" ".join(SENTENCES), SENTENCES[1], f"{SENTENCES[0]}\n\n{SENTENCES[1]}"])
    assert results[0].parts == 3
    assert results[0].text == " ".join(alone).strip()
    assert results[1].text == alone[1]
    assert results[2].text == f"{alone[0]}\n\n{alone[1]}".strip()
    assert results[0].cut <= 3


def test_what_is_longer_than_the_encoder_reads_is_read_in_parts(folder: Path) -> None:
    for make in (Translate, Summarize, Rewrite):
        (found,) = run_texts(make(folder), ["a dog runs over the green field and " * 20])
        assert found.parts > 3


def test_beams(folder: Path) -> None:
    found = run_texts(Translate(folder, beams=3), SENTENCES)
    model = zhixing.load(folder)
    assert [one.text for one in found] == [text.strip() for text in model.generate(SENTENCES, num_beams=3)]


def test_the_core_quantises_on_request(folder: Path) -> None:
    if not library.is_available():
        pytest.skip("the C++ core is not built")
    quantised = Summarize(folder, quantize="q8")
    assert "native core" in quantised.writer.folder.details[-1]
    assert "Q8_0" in quantised.writer.folder.details[-1]
    assert quantised.identity() == {**Summarize(folder).identity(), "quantize": "q8"}
    assert len(run_texts(Translate(folder, quantize="q8"), SENTENCES)) == len(SENTENCES)
    coarse = Translate(folder, quantize="q8", kv_cache="q8")
    assert "q8 cache" in coarse.writer.folder.details[-1]
    assert coarse.identity() == {**Translate(folder).identity(), "quantize": "q8", "kv_cache": "q8"}
    for option in ("quantize", "kv_cache"):
        with pytest.raises(BadInput, match="q9"):
            Translate(folder, **{option: "q9"})


def test_what_is_not_for_them(folder: Path) -> None:
    with pytest.raises(BadInput, match="one pair of languages"):
        Translate(folder, "en", "de")
    with pytest.raises(BadInput, match="has its own length"):
        Summarize(folder, "title")
    for make in (AnswerTask, Fill):
        with pytest.raises(BadInput, match="leaves no room"):
            make(folder)
    with pytest.raises(BadInput, match=r"leaves no room in the 40 tokens of the model's encoder"):
        Rewrite(folder, "formal")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder with room for an instruction."""
    one = train_tokenizer(SENTENCES * 5, vocab_size=300).tokenizer
    side = {**SIDE, "context": 700}
    model = TransformerEncoderDecoder(
        TransformerSeq2SeqConfig(
            TransformerConfig(**side, causal=False), TransformerConfig(**side, cross_width=32, head_bias=True), start=1
        )
    )
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    path = tmp_path_factory.mktemp("instructed") / "model"
    tokenizers = Tokenizers(one, one, end=one.end_of_text_id)
    save_seq2seq(path, model.eval(), tokenizers, "marian", generation={"max_new_tokens": 6})
    return path


def test_an_instruction_is_a_part_of_the_source(reader: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("system: 'Be kind.'\nuser: 'In short: {{text}}'\nmax_tokens: 7\n")
    model = zhixing.load(reader)
    expected = model.generate(f"Be kind.\n\nIn short: {SENTENCES[0]}", temperature=0.0, max_tokens=7).strip()
    for task in (
        Summarize(reader, prompt=mine),
        Rewrite(reader, prompt=mine),
        Translate(reader, "en", "de", prompt=mine),
    ):
        assert run_texts(task, [SENTENCES[0]])[0].text == expected
    told = Rewrite(reader, instruction="Say it kindly.").writer
    assert "Say it kindly." in model.tokenizer.decode(told.writer.encode(told.messages("a dog")))
    plain, formal = Rewrite(reader), Rewrite(reader, "formal")
    assert plain.identity() != formal.identity()
    assert run_texts(formal, SENTENCES)
    with pytest.raises(BadInput, match="beams are for"):
        Summarize(reader, prompt=mine, beams=3)


def test_questions_and_gaps(reader: Path) -> None:
    (found,) = run_all(AnswerTask(reader), [{"question": "What runs?", "context": " ".join(SENTENCES)}])
    assert (found.read, found.passages) == (1, 1)
    with contextlib.suppress(BadInput):  # a random network may say nothing
        run_texts(Fill(reader), ["a ____ runs over the field."])


@pytest.mark.parametrize(
    "make",
    [
        lambda ref: Classify(ref, ["a", "b"]),
        lambda ref: Tag(ref, ["person"]),
        lambda ref: Extract("name", ref),
        Complete,
    ],
)
def test_what_needs_a_model_that_goes_on(make: Any, reader: Path) -> None:
    with pytest.raises(BadInput, match="this is an encoder-decoder, and the task needs a model that goes on"):
        make(reader)

"""Folders of encoder-decoders: recurrent ones, tokenizers of both sides, and use through the library's front door."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

import zhixing
from zhixing.checkpoints.opening import check_model
from zhixing.checkpoints.seq2seq_folder import is_seq2seq, load_seq2seq, save_seq2seq
from zhixing.checkpoints.seq2seq_tokenizers import Tokenizers
from zhixing.cli import generate
from zhixing.cli.main import main
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.config import TransformerConfig
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent_encoder import RecurrentEncoderConfig
from zhixing.models.recurrent_seq2seq import RecurrentEncoderDecoder, RecurrentSeq2SeqConfig
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder, TransformerSeq2SeqConfig
from zhixing.native import library
from zhixing.tokenization.train import train_tokenizer

SENTENCES = ["a dog runs over the green field", "ein Hund läuft über die grüne Wiese", "two cats sleep", "zwei Katzen"]
SIDE = {"vocab_size": 300, "width": 16, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 4, "mlp_width": 24,
        "context": 40, "norm": "layer", "norm_eps": 1e-5, "norm_placement": "residual", "position": "sinusoidal",
        "activation": "relu", "gated": False, "attention_bias": True, "attention_output_bias": True, "mlp_bias": True,
        "tied": True, "scale_embeddings": True}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers():
    one = train_tokenizer(SENTENCES * 5, vocab_size=300).tokenizer
    return Tokenizers(one, one, end=one.end_of_text_id)


def paper():
    encoder = TransformerConfig(**SIDE, causal=False)
    decoder = TransformerConfig(**SIDE, cross_width=16, head_bias=True)
    model = TransformerEncoderDecoder(TransformerSeq2SeqConfig(encoder, decoder, start=1))
    model.initialise(torch.Generator().manual_seed(0))
    return model.eval()


def recurrent(attention="luong", score="general", **changes):
    encoder = RecurrentEncoderConfig(vocab_size=300, cell="lstm", embedding=8, hidden=6, layers=2)
    config = RecurrentSeq2SeqConfig(encoder, 300, 8, 10, 0, attention, score, **changes)
    model = RecurrentEncoderDecoder(config)
    model.initialise(torch.Generator().manual_seed(0))
    return model.eval()


@pytest.mark.parametrize(
    "model",
    [recurrent(), recurrent("bahdanau", "additive"), recurrent(input_feeding=True, shared=True, tied=True)],
    ids=["luong", "bahdanau", "fed and tied"],
)
def test_recurrent_folders_come_back_the_same(model, tmp_path, tokenizers):
    save_seq2seq(tmp_path / "m", model, tokenizers, "")
    assert is_seq2seq(tmp_path / "m")
    folder = load_seq2seq(tmp_path / "m")
    assert folder.family is None
    assert folder.model.config == model.config
    sources, inputs = Ragged.of([[4, 5, 6], [7]]), Ragged.of([[0, 9], [0, 3, 8]])
    with torch.no_grad():
        assert torch.equal(folder.model(sources, inputs), model(sources, inputs))
    values = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**values, "mystery": 1}))
    with pytest.raises(BadInput, match="mystery"):
        load_seq2seq(tmp_path / "m")


@pytest.mark.parametrize("build", [paper, recurrent])
def test_sources_in_and_targets_out(build, tmp_path, tokenizers):
    save_seq2seq(tmp_path / "m", build(), tokenizers, "marian", generation={"num_beams": 2, "max_new_tokens": 7})
    model = zhixing.load(tmp_path / "m")
    assert check_model(tmp_path / "m") == []
    assert model.options.num_beams == 2
    answers = model.complete(SENTENCES, n=2)
    assert [answer.prompt for answer in answers] == [0, 0, 1, 1, 2, 2, 3, 3]
    for source, text in zip(SENTENCES, model.generate(SENTENCES), strict=True):
        assert model.generate(source) == text  # what is beside it changes nothing
    sampled = model.complete(SENTENCES[0], num_beams=1, n=3, seed=5, temperature=1.0)
    assert len({tuple(answer.tokens) for answer in sampled}) > 1
    assert answers[0].prompt_tokens == len(tokenizers.encode_source(SENTENCES[0]))
    assert "".join(model.stream("a dog", num_beams=1, seed=1)) == model.generate("a dog", num_beams=1, seed=1)
    assert model.generate("") is not None  # an empty text is read as its end token
    with pytest.raises(BadInput, match="does not go on from a text"):
        model.chat("hello")
    with pytest.raises(BadInput, match="does not go on from a text"):
        model.evaluate(["text"])
    if build is recurrent:
        with pytest.raises(BadInput, match="native engine"):
            zhixing.load(tmp_path / "m", engine="native")
    elif library.is_available():
        native, plain = (zhixing.load(tmp_path / "m", engine=engine) for engine in ("native", "torch"))
        assert native.generate(SENTENCES) == plain.generate(SENTENCES)


def test_transformers_writes_the_same_texts_with_the_folders_own_tokenizer(tmp_path, tokenizers):
    transformers = pytest.importorskip("transformers")
    save_seq2seq(tmp_path / "m", paper(), tokenizers, "marian", generation={"num_beams": 3, "max_new_tokens": 9})
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path / "m")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    model = zhixing.load(tmp_path / "m")
    for sentence in SENTENCES:
        ids = tokenizer(sentence, return_tensors="pt", add_special_tokens=False).input_ids
        ids = torch.cat((ids, torch.tensor([[tokenizers.end]])), dim=1)
        assert ids[0].tolist() == tokenizers.encode_source(sentence)
        written = theirs.generate(ids, attention_mask=torch.ones_like(ids), num_beams=3, max_new_tokens=9)[0, 1:]
        assert model.generate(sentence) == tokenizer.decode(written, skip_special_tokens=True)


def test_the_command_writes_behind_a_source(tmp_path, tokenizers):
    save_seq2seq(tmp_path / "m", paper(), tokenizers, "marian", generation={"num_beams": 2, "max_new_tokens": 7})
    app = typer.Typer()
    app.command()(generate.command)
    result = CliRunner().invoke(app, [str(tmp_path / "m"), "a dog", "--json"])
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["text"] == zhixing.load(tmp_path / "m").generate("a dog")
    assert answer["prompt_tokens"] == len(tokenizers.encode_source("a dog"))


@pytest.mark.parametrize("flags", [["--penalty-alpha", "0.6", "--top-k", "4"], ["--guidance-scale", "1.5"]])
def test_what_a_source_has_no_use_for_is_one_message(flags, tmp_path, tokenizers, monkeypatch, capsys):
    save_seq2seq(tmp_path / "m", paper(), tokenizers, "marian", generation={"max_new_tokens": 7})
    monkeypatch.setattr("sys.argv", ["zhixing", "generate", str(tmp_path / "m"), "a dog", *flags])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{flags[0][2:].replace('-', '_')} = {flags[1]} is not for encoder-decoders" in said
    assert "leave it out" in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A folder with two SentencePiece models and one vocabulary, as Opus-MT has it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("marian")
    english = ["the dog that runs over a green field sleeps", "two cats and one dog play with a ball outside"]
    german = ["der Hund läuft über die grüne Wiese und schläft", "zwei Katzen spielen draußen mit einem Ball"]
    pieces = {"source": [*SENTENCES[::2], *english], "target": [*SENTENCES[1::2], *german]}
    vocabulary = {"</s>": 0, "<unk>": 1}
    for side, sentences in pieces.items():
        (folder / f"{side}.txt").write_text("\n".join(sentences * 20), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / f"{side}.txt"),
            model_prefix=str(folder / side),
            vocab_size=60,
            minloglevel=2,
            hard_vocab_limit=False,
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))
        for number in range(3, len(model)):
            vocabulary.setdefault(model.id_to_piece(number), len(vocabulary))
    vocabulary[">>deu<<"] = len(vocabulary)
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
        pad_token_id=vocabulary["<pad>"], eos_token_id=0, decoder_start_token_id=vocabulary["<pad>"], init_std=0.5,
        forced_eos_token_id=None,
    )  # fmt: skip
    transformers.MarianMTModel(config).save_pretrained(folder)
    transformers.MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json")
    ).save_pretrained(folder)
    return folder


def test_marians_tokenizers_give_its_ids_and_texts(marian, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MarianTokenizer.from_pretrained(marian)
    folder = load_seq2seq(marian)
    found = folder.tokenizers
    for text in [*SENTENCES, "the green cats run", "unbekannt 漢字", "", ">>deu<< a dog"]:
        assert found.encode_source(text) == theirs(text).input_ids, text
    for text in [*SENTENCES[1::2], "zwei Hunde spielen über der Wiese", ""]:
        wanted = theirs(text_target=text).input_ids
        assert found.encode_target(text) == wanted
        known = [token for token in wanted if token != 1]
        assert found.target.decode(known, skip_special=True) == theirs.decode(known, skip_special_tokens=True)
    save_seq2seq(tmp_path / "again", folder.model, found, "marian", generation=folder.generation)
    assert (tmp_path / "again" / "source.spm").read_bytes() == (marian / "source.spm").read_bytes()
    assert load_seq2seq(tmp_path / "again").tokenizers.encode_source("two cats") == found.encode_source("two cats")


def test_a_part_of_marians_files_is_not_enough(marian, tmp_path):
    for path in marian.iterdir():
        if path.name != "target.spm":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(MissingResource, match=r"target\.spm is missing"):
        load_seq2seq(tmp_path)


def test_t5s_sentinels_stand_behind_its_pieces(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    transformers = pytest.importorskip("transformers")
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=60, minloglevel=2,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    config = transformers.T5Config(
        vocab_size=168, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    found = load_seq2seq(tmp_path).tokenizers
    assert found.encode_source("two cats")[-1] == 1
    pieces = len(sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model")))
    assert found.source.vocabulary["<extra_id_0>"] == pieces + 99
    assert found.source.vocabulary["<extra_id_99>"] == pieces

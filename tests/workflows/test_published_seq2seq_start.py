"""Runs that go on from published encoder-decoders (T5, BART, Marian), in folders as `transformers` writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zhixing
from zhixing.checkpoints.seq2seq_folder import load_seq2seq
from zhixing.core.errors import BadInput
from zhixing.models.ragged import Ragged
from zhixing.tasks.base import run_texts
from zhixing.tasks.translate import Translate
from zhixing.tokenization.train import train_tokenizer
from zhixing.workflows.pretrain import resume_run

transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")

PAIRS = [
    ("a dog runs over the field", "ein Hund läuft über die Wiese"),
    ("two cats sleep", "zwei Katzen schlafen"),
    ("the dog sleeps outside", "der Hund schläft draußen"),
    ("a cat and a dog play", "eine Katze und ein Hund spielen"),
]
HELD_OUT = ("two dogs play outside", "zwei Hunde spielen draußen")
BOTH = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 48, "dropout": 0.0,
        "init_std": 0.4}  # fmt: skip


def pieces(folder: Path, name: str, texts: list[str], **options: Any) -> Any:
    """Trains a SentencePiece model and returns it opened."""
    (folder / "text.txt").write_text("\n".join(texts * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / name), vocab_size=60, minloglevel=2,
        hard_vocab_limit=False, **options,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.model"))


def marian(folder: Path) -> tuple[Any, Any]:
    """Two SentencePiece models and one vocabulary, as Opus-MT has them."""
    vocabulary = {"</s>": 0, "<unk>": 1}
    for index, side in enumerate(("source", "target")):
        model = pieces(folder, side, [pair[index] for pair in [*PAIRS, HELD_OUT]])
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        for number in range(3, len(model)):
            vocabulary.setdefault(model.id_to_piece(number), len(vocabulary))
    pad = vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    files = (str(folder / name) for name in ("source.spm", "target.spm", "vocab.json"))
    tokenizer = transformers.MarianTokenizer(*files)
    config = transformers.MarianConfig(
        **BOTH, vocab_size=len(vocabulary), pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad,
        forced_eos_token_id=None,
    )  # fmt: skip
    return transformers.MarianMTModel(config), tokenizer


def bart(folder: Path) -> tuple[Any, Any]:
    """One byte-level tokenizer, with a token at both ends of every text."""
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    texts = [text for pair in PAIRS for text in pair]
    trained = train_tokenizer(texts, vocab_size=300, special_tokens=special).tokenizer
    trained.save(folder)
    begin, pad, end = (trained.special_tokens[name] for name in special[:3])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    config = transformers.BartConfig(
        **BOTH, vocab_size=trained.vocab_size, pad_token_id=pad, bos_token_id=begin, eos_token_id=end,
        decoder_start_token_id=end, forced_eos_token_id=None,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config), tokenizer


def t5(folder: Path, **options: Any) -> tuple[Any, Any]:
    """One SentencePiece model, to which the sentinels are added."""
    model = pieces(
        folder, "spiece", [text for pair in PAIRS for text in pair], pad_id=0, eos_id=1, unk_id=2, bos_id=-1
    )  # fmt: skip
    config = transformers.T5Config(
        vocab_size=len(model) + 100, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=2, num_heads=2,
        decoder_start_token_id=0, dropout_rate=0.0, initializer_factor=1.0, **options,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config), model


def gated_t5(folder: Path) -> tuple[Any, Any]:
    return t5(folder, feed_forward_proj="gated-gelu", tie_word_embeddings=False)


def ids_of(tokenizer: Any, text: str, target: bool, name: str) -> list[int]:
    """Returns the ids that the published tokenizer gives."""
    if name == "marian":
        found: list[int] = (tokenizer(text_target=text) if target else tokenizer(text)).input_ids
        return found
    if name == "bart":
        inside = tokenizer(text, add_special_tokens=False).input_ids
        return [tokenizer.bos_token_id, *inside, tokenizer.eos_token_id]
    return [*tokenizer.encode(text), 1]


MAKERS: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "marian": marian, "bart": bart, "t5": t5, "t5, version 1.1": gated_t5,
}  # fmt: skip
Begun = tuple[str, Path, Any, Any, Path]


@pytest.fixture(scope="module", params=MAKERS)
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """A published folder, and a run of one step of all records from it."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(1)
    model, tokenizer = MAKERS[request.param](folder)
    model.eval().save_pretrained(folder)
    if request.param == "marian":
        tokenizer.save_pretrained(folder)
    for name, rows in (("train", PAIRS), ("held", [HELD_OUT])):
        lines = (json.dumps({"source": one, "target": other}) for one, other in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "data": {"paths": [str(folder / "train.jsonl")], "validation_paths": [str(folder / "held.jsonl")]},
        "model": {"start": str(folder)},
        "optimizer": {"learning_rate": 0.001},
        "task": {"beams": 1},
        "train": {"objective": "seq2seq", "steps": 2, "batch_size": len(PAIRS), "matmul": "torch", "save_every": 1},
    }
    outcome = zhixing.train(recipe, folder / "run")
    return request.param, folder, model, tokenizer, outcome.folder


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def test_the_tokens_and_the_first_loss_are_theirs(begun: Begun) -> None:
    name, folder, model, tokenizer, run = begun
    found = load_seq2seq(folder).tokenizers
    assert found is not None
    sources = [ids_of(tokenizer, source, False, name) for source, _ in PAIRS]
    targets = [ids_of(tokenizer, target, True, name) for _, target in PAIRS]
    assert [found.encode_source(source) for source, _ in PAIRS] == sources
    assert [found.encode_target(target) for _, target in PAIRS] == targets
    read = padded(sources, model.config.pad_token_id)
    mask = torch.tensor([[1] * len(row) + [0] * (read.shape[1] - len(row)) for row in sources])
    with torch.no_grad():
        loss = model(input_ids=read, attention_mask=mask, labels=padded(targets, -100)).loss
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["kind"] == "train")
    assert first["loss"] == pytest.approx(float(loss), rel=1e-4)


def test_transformers_opens_what_was_trained_and_computes_the_same(begun: Begun) -> None:
    name, folder, model, tokenizer, run = begun
    ours = load_seq2seq(run / "model")
    theirs = type(model).from_pretrained(run / "model").eval()
    source = ids_of(tokenizer, HELD_OUT[0], False, name)
    fed = [ours.model.config.start, *ids_of(tokenizer, HELD_OUT[1], True, name)]
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([fed])).logits[0]
        before = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([fed])).logits[0]
        torch.testing.assert_close(ours.model(Ragged.of([source]), Ragged.of([fed])), wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, wanted, atol=1e-3)  # it has learned
    assert ours.tokenizers is not None
    for source_text, target in [*PAIRS, HELD_OUT]:  # the published tokenizer's ids, from the new folder
        assert ours.tokenizers.encode_source(source_text) == ids_of(tokenizer, source_text, False, name)
        assert ours.tokenizers.encode_target(target) == ids_of(tokenizer, target, True, name)
    if name == "marian":
        again = transformers.MarianTokenizer.from_pretrained(run / "model")
        assert again(HELD_OUT[0]).input_ids == source
        for file in ("source.spm", "target.spm", "vocab.json"):
            assert (run / "model" / file).read_bytes() == (folder / file).read_bytes()


def test_it_resumes_bit_for_bit(begun: Begun) -> None:
    proof = resume_run(begun[-1], prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0


def test_it_translates(begun: Begun) -> None:
    """The published folder and the one that was trained from it are models of `translate`, with the same texts as by
    `transformers`."""
    name, folder, model, tokenizer, _ = begun
    pad, end = model.config.pad_token_id, model.config.eos_token_id
    source = ids_of(tokenizer, HELD_OUT[0], False, name)
    written = model.generate(
        torch.tensor([source]), max_new_tokens=8, num_beams=1, do_sample=False, pad_token_id=pad, eos_token_id=end,
        use_cache=not name.startswith("t5"),  # theirs is for as many layers on either side
    )  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps({
        "max_new_tokens": 8, "eos_token_id": end, "pad_token_id": pad,
        "decoder_start_token_id": model.config.decoder_start_token_id,
    }))  # fmt: skip
    tokens = [token for token in written[0, 1:].tolist() if token not in (pad, end)]
    (found,) = run_texts(Translate(folder, beams=1), [HELD_OUT[0]])
    tokenizers = load_seq2seq(folder).tokenizers
    assert tokenizers is not None
    assert found.text == tokenizers.target.decode(tokens, skip_special=True).strip()


def test_a_tokenizer_for_each_side_restores_no_texts(tmp_path: Path) -> None:
    model, tokenizer = marian(tmp_path)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "a dog runs"}\n{"text": "two cats sleep"}\n')
    recipe = {
        "data": {"paths": [str(tmp_path / "texts.jsonl")]}, "model": {"start": str(tmp_path)},
        "train": {"objective": "denoising", "steps": 1, "matmul": "torch"},
    }  # fmt: skip
    with pytest.raises(BadInput, match="a tokenizer for each side"):
        zhixing.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()

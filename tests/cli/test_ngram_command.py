"""`zhixing ngram`: out to ARPA and back, a foreign file in, a look inside; faults in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.command_line import app
from typer.testing import CliRunner

import zhixing
from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput
from zhixing.data.shards import TokenStore
from zhixing.models.ngram.counting import CountPlan, count_ngrams
from zhixing.models.ngram.network import NgramNetwork
from zhixing.models.ngram.smoothing import smooth
from zhixing.tokenization.train import train_tokenizer

TEXTS = ["the cat sees\nthe dog.", "the dog runs.", "知行合一 \\ <s>"]
SMALL = Path(__file__).parents[1] / "models" / "ngram" / "data" / "small.arpa"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ngram")
    tokenizer = train_tokenizer(TEXTS, "byte-bpe", 290).tokenizer
    end = tokenizer.end_of_text_id
    assert end is not None
    store = TokenStore.from_documents([[*tokenizer.encode(text), end] for text in TEXTS])
    plan = CountPlan(3, tokenizer.vocab_size, end, len(store), 1 << 16)
    tables, _ = smooth(count_ngrams(store, plan, path / "counts"), path)
    save_folder(path / "model", NgramNetwork(tables), tokenizer, "ngram")
    return path / "model"


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["ngram", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_out_and_in_again(folder: Path, tmp_path: Path) -> None:
    run("export", folder, tmp_path / "model.arpa.gz")
    run("import", tmp_path / "model.arpa.gz", tmp_path / "back", "--tokenizer", folder)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()


def test_a_foreign_file_with_its_own_words(tmp_path: Path) -> None:
    run("import", SMALL, tmp_path / "words")
    model = zhixing.load(tmp_path / "words")
    assert model.tokenizer is not None
    assert model.tokenizer.kind == "word"
    assert model.tokenizer.decode(model.tokenizer.encode("the cat sees\n the unheard")) == "the cat sees the <unk>"
    score = model.evaluate(["the cat", "dog unheard of"])
    assert (score.tokens, score.unknown_tokens) == (5, 1)
    assert any("spacing" in note for note in score.notes)
    kenlm = pytest.importorskip("kenlm")
    theirs = kenlm.Model(str(SMALL))
    nats = -sum(theirs.score(text, eos=False) for text in ("the cat", "dog unheard of")) * np.log(10)
    assert score.loss * score.tokens == pytest.approx(nats, rel=1e-5)
    assert model.generate("the", max_tokens=5, seed=0) == model.generate("the", max_tokens=5, seed=0)


def test_a_look_inside(folder: Path) -> None:
    assert "3-grams" in run("show", folder)
    values = json.loads(run("show", folder, "--json"))
    assert values["order"] == 3
    values = json.loads(run("show", folder, "--after", "the dog", "--top", 4, "--json"))
    assert len(values["next"]) == 4
    assert {token["piece"] for token in values["next"][:2]} <= {".", "␣runs", "␣r", "␣"}
    assert values["next"][0]["order"] == 3
    text = run("show", folder, "--after", "")
    assert "3-gram" not in text
    assert "2-gram" in text


def test_faults(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not an empty folder"):
        run("import", SMALL, folder)
    with pytest.raises(BadInput, match="no token of the tokenizer"):
        run("import", SMALL, tmp_path / "model", "--tokenizer", folder)
    assert not (tmp_path / "model").exists()

"""An n-gram model as a model folder: opened, written with and measured by the same functions as every other."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import zhixing
from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.core.errors import BadInput
from zhixing.data.shards import TokenStore
from zhixing.models.ngram.counting import CountPlan, count_ngrams
from zhixing.models.ngram.network import NgramNetwork
from zhixing.models.ngram.smoothing import smooth
from zhixing.tokenization.train import train_tokenizer

TEXTS = ["the cat sees the dog.\n", "the dog runs.\n", "the cat runs and the dog sees the cat.\n", "知行合一。\n"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ngram")
    tokenizer = train_tokenizer(TEXTS, "character").tokenizer
    end = tokenizer.end_of_text_id
    assert end is not None
    store = TokenStore.from_documents([[*tokenizer.encode(text), end] for text in TEXTS])
    plan = CountPlan(4, tokenizer.vocab_size, end, len(store), 1 << 16)
    tables, _ = smooth(count_ngrams(store, plan, path / "counts"), path)
    save_folder(path / "model", NgramNetwork(tables), tokenizer, "ngram", card="# 知行\n")
    return path / "model"


def test_it_opens_writes_and_is_measured(folder: Path) -> None:
    model = zhixing.load(folder)
    assert "order 4" in model.config.describe()
    text = model.generate("the ", temperature=0.0)
    assert text == model.generate("the ", temperature=0.0)
    assert ("the " + text).startswith(("the cat", "the dog"))
    answers = model.complete("the ", n=3, seed=1, max_tokens=20, top_k=3)
    assert [answer.text for answer in answers] == [
        answer.text for answer in model.complete("the ", n=3, seed=1, max_tokens=20, top_k=3)
    ]
    score = model.evaluate(["the cat runs.\n", "the dog sees"])
    assert score.tokens == len("the cat runs.\nthe dog sees")
    assert model.tokenizer is not None
    network = model.model
    assert isinstance(network, NgramNetwork)
    nats = 0.0
    for document in ("the cat runs.\n", "the dog sees"):
        ids = [network.tables.begin, *model.tokenizer.encode(document)]
        for end in range(1, len(ids)):
            contexts = network.tables.read(np.array([ids[:end]]), network.tables.fresh(1))
            log10 = network.tables.score([rows[:, -1] for rows in contexts], np.array([ids[end]]))
            nats -= math.log(10) * float(log10[0])
    assert score.loss * score.tokens == pytest.approx(nats, rel=1e-5)


def test_windows_change_nothing_as_long_as_the_context_fits(folder: Path) -> None:
    model = zhixing.load(folder)
    text = "".join(TEXTS) * 5
    whole = model.evaluate([text])
    assert model.evaluate([text], window=30, stride=27).loss == pytest.approx(whole.loss, rel=1e-6)
    assert model.evaluate([text], window=30, stride=30).loss > whole.loss


def test_several_prompts_beside_each_other_are_answered_as_alone(folder: Path) -> None:
    model = zhixing.load(folder)
    prompts = ["the cat ", "知", "the dog runs"]
    together = model.generate(prompts, temperature=0.0, max_tokens=10)
    assert together == [model.generate(prompt, temperature=0.0, max_tokens=10) for prompt in prompts]


def test_what_needs_a_transformer_says_so(folder: Path) -> None:
    with pytest.raises(BadInput, match="needs a Transformer"):
        _ = load_folder(folder).transformer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 5}, "order 5"),
        ({"order": 0}, "'order'"),
        ({"begin": True}, "'begin'"),
        ({"begin_token": -3}, "'begin_token'"),
        ({"vocab_size": 5}, "'begin'"),
        ({"discount": 3}, "unknown configuration field 'discount'"),
    ],
)
def test_a_wrong_config_is_refused(change: dict[str, object], message: str, folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    assert values["model_type"] == "zhixing-ngram"
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(BadInput, match=message):
        load_folder(tmp_path)

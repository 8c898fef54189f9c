"""`tag`, `answer`, `fill`: places in the original text, windows over long ones, against plain computations."""

import json
from pathlib import Path

import pytest
import torch

from tests.tasks.support import LONGEST, run
from zhixing.checkpoints.encoder_folder import load_encoder
from zhixing.core.errors import BadInput
from zhixing.data.shapes.schemes import chunks
from zhixing.models.ragged import Ragged
from zhixing.tasks.answer import AnswerTask, _cited
from zhixing.tasks.base import run_all, run_texts
from zhixing.tasks.fill import Fill
from zhixing.tasks.tag import Tag, located, words_of
from zhixing.tokenization.framing import frame_of

TEXTS = ["Anna lives in Paris", "苏轼 was born in Meishan!", "😀 a-b U.S. 知行合一"]


def test_words() -> None:
    text = "Anna's ex-wife, 1,000 知行 x."
    assert [text[begin:end] for begin, end in words_of(text)] == [
        "Anna's",
        "ex-wife",
        ",",
        "1,000",
        "知",
        "行",
        "x",
        ".",
    ]


@pytest.mark.parametrize("name", ["tagger", "crf"])
def test_tags_are_those_of_the_network(name: str, models: Path) -> None:
    task = Tag(models / name)
    folder = load_encoder(models / name)
    for text, found in zip(TEXTS, run_texts(task, TEXTS), strict=True):
        spans = words_of(text)
        pieces = [folder.tokenizer.encode(text[begin:end]) for begin, end in spans]
        tokens = [token for piece in pieces for token in piece]
        places = [1 + sum(map(len, pieces[:index])) for index in range(len(pieces))]
        with torch.inference_mode():
            frame = frame_of(folder.tokenizer)
            rows = folder.model(Ragged.of([frame.single(tokens)]))[torch.tensor(places)]
            head = folder.model.head
            best = rows.argmax(1).tolist() if head.crf is None else head.crf.best(rows[None], [len(rows)])[0]
        labels = folder.model.head_config.labels
        expected = [(one.type, spans[one.begin][0], spans[one.end - 1][1]) for one in chunks([labels[n] for n in best])]
        assert [(one.type, one.begin, one.end) for one in found.entities] == expected
        assert all(text[one.begin : one.end] == one.text for one in found.entities)


def test_long_texts_are_tagged_to_their_end(models: Path) -> None:
    text = " ".join(["Anna lives in Paris ."] * 30)
    tags = Tag(models / "tagger").tagger.tags([text.split()])[0][0]
    assert len(tags) == 150
    assert all(tags)


def test_named_entities_are_found_in_their_text() -> None:
    text = "Paris met Paris in Rome"
    named = [{"text": name, "type": "x"} for name in ("Paris", "Paris", "Rome", "Oslo", "Par", " ")]
    found = located(text, named)
    assert [(one.text, one.begin) for one in found.entities] == [("Paris", 0), ("Paris", 10), ("Rome", 19)]
    assert found.lost == 3


def test_a_chat_model_tags_only_what_is_there(models: Path) -> None:
    task = Tag(models / "chat", ["person", "city"])
    task.tagger._extract.max_tokens = 40
    for text, found in zip(TEXTS, run_texts(task, TEXTS), strict=True):
        assert all(text[one.begin : one.end] == one.text for one in found.entities)


def test_the_best_span_of_all_windows(models: Path) -> None:
    folder = load_encoder(models / "span")
    frame, tokenizer = frame_of(folder.tokenizer), folder.tokenizer
    for context in ("Anna lives in Paris", "  a film nobody forgets ", "Anna lives in Paris . " * 20):
        (found,) = run_all(AnswerTask(models / "span"), [{"question": "a film", "context": context}])
        assert context[found.begin : found.end] == found.text
        if found.passages > 1:
            assert found.passages > 4
            continue
        tokens, offsets = tokenizer.encode_with_offsets(context)
        framed, types = frame.pair(tokenizer.encode("a film"), tokens)
        with torch.inference_mode():
            scores = folder.model(Ragged.of([framed], [types]))
        place = len(framed) - len(tokens) - len(frame.pair_back)
        value, begin, end = max(
            (float(scores[place + i, 0] + scores[place + j, 1]), offsets[i][0], offsets[j][1])
            for i in range(len(tokens))
            for j in range(i, len(tokens))
        )
        assert (found.begin, found.end) == (begin, end)
        nothing = float(scores[0].sum())
        (other,) = run_all(AnswerTask(models / "span", nothing=True), [{"question": "a film", "context": context}])
        assert (other.text == "") == (nothing >= value)


def test_a_chat_model_reads_what_shares_words_with_the_question(models: Path) -> None:
    task = AnswerTask(models / "chat-long")
    task.answerer.prompts = {key: one.__class__(one.user, max_tokens=4) for key, one in task.answerer.prompts.items()}
    context = "Nothing is here at all, of course. " * 60 + "Anna lives in Paris. " + "Other words follow then. " * 60
    (found,) = run_all(task, [{"question": "Where does Anna live?", "context": context}])
    assert found.read < found.passages
    passages = task.answerer._passages(context)
    kept = task.answerer._kept("Where does Anna live?", passages, 200)
    assert any("Anna" in passages[index][1] for index in kept)


def test_answers_name_their_passage() -> None:
    row = {"question": "Where?", "context": "Bob is in Rome. Anna lives in Paris."}
    passages = [(0, "Bob is in Rome. "), (16, "Anna lives in Paris.")]
    found = _cited(row, "Paris.", passages, [0, 1])
    assert (found.evidence_begin, found.begin, found.end) == (16, 30, 35)
    assert _cited(row, "the town of Anna", passages, [0, 1]).begin is None


def test_masked_words(models: Path) -> None:
    folder = load_encoder(models / "masked")
    (found,) = run_texts(Fill(models / "masked", 3), ["a [MASK] film"])
    ids = folder.tokenizer.vocabulary
    tokens = [
        ids["[CLS]"],
        *folder.tokenizer.encode("a"),
        ids["[MASK]"],
        *folder.tokenizer.encode("film"),
        ids["[SEP]"],
    ]
    with torch.inference_mode():
        scores = folder.model(Ragged.of([tokens]))[2].clone()
        scores[torch.tensor(sorted(folder.tokenizer.special_ids))] = -torch.inf
    values, best = scores.softmax(0).topk(3)
    expected = [folder.tokenizer.decode([token]).strip() for token in best.tolist()]
    assert list(found.gaps[0]) == expected
    assert list(found.gaps[0].values()) == pytest.approx(values.tolist(), abs=2e-6)
    assert found.text == f"a {expected[0]} film"
    (long,) = run_texts(Fill(models / "masked"), ["a film " * 40 + "____ and ____ " + "a film " * 40])
    assert long.left_out > LONGEST
    assert len(long.gaps) == 2
    with pytest.raises(BadInput, match="tokens apart"):
        run_texts(Fill(models / "masked"), ["____" + " a film" * 40 + " ____"])


@pytest.mark.parametrize("name", ["classifier", "pool", "chat"])
def test_other_models_are_refused_or_prompted(name: str, models: Path) -> None:
    if name == "chat":
        with pytest.raises(BadInput, match="prompt"):
            AnswerTask(models / name, nothing=True)
        return
    for make in (Tag, AnswerTask, Fill):
        with pytest.raises(BadInput, match="its head is"):
            make(models / name)


def test_the_commands(models: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    ended = run(monkeypatch, capsys, "tag", "-m", models / "tagger", "Anna lives in Paris", "--json")
    assert all({"text", "type", "begin", "end", "score"} == set(one) for one in json.loads(ended.out)["prediction"])
    ended = run(monkeypatch, capsys, "answer", "-m", models / "span", "a film", "Anna lives in Paris")
    assert ended.code == 0
    ended = run(monkeypatch, capsys, "answer", "-m", models / "span", "a film", stdin=b"Anna lives in Paris")
    assert ended.code == 0
    path = tmp_path / "in.jsonl"
    path.write_text('{"question": "a film", "passage": "Anna lives"}\n{"question": "", "passage": "x"}\n')
    words = ["answer", "-m", models / "span", "--file", path, "--out", tmp_path / "out.csv", "--skip-bad"]
    assert run(monkeypatch, capsys, *words).code == 0
    assert "the question is empty" in (tmp_path / "out.csv").read_text()

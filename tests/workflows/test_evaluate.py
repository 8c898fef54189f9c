"""`zhixing eval --task`: tiny models on files of records, two models compared, and what users get wrong."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from tests.tasks.support import save_chat, save_encoder_model
from typer.testing import CliRunner, Result

from zhixing.checkpoints.folder import save_folder
from zhixing.cli import evaluate as cli
from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.heads import HeadConfig
from zhixing.models.transformer import Transformer
from zhixing.tasks.base import run_texts
from zhixing.tasks.classify import Classify
from zhixing.tasks.embed import open_embedder
from zhixing.tasks.tag import HeadTagger, Tag
from zhixing.tokenization.train import train_tokenizer
from zhixing.workflows.compare_texts import compare_language_models
from zhixing.workflows.evaluate import Options, default_folder, evaluate_task

WORDS = ["a", "wonderful", "film", "boring", "awful", "and", "Anna", "lives", "in", "Paris"]


def run_command(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(cli.command)
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, ZhixingError):
        raise result.exception
    return result


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not time the products of matrices, which takes a moment each time."""
    monkeypatch.setattr("zhixing.models.ops.select_matmul", lambda **_: "torch")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_encoder_model(folder / "first", HeadConfig(kind="classify", labels=("bad", "good")))
    save_encoder_model(folder / "second", HeadConfig(kind="classify", labels=("bad", "good")), seed=7)
    save_encoder_model(folder / "tagger", HeadConfig(kind="tag", labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC")))
    save_encoder_model(folder / "span", HeadConfig(kind="span"))
    save_chat(folder / "chat", context=900)
    save_encoder_model(folder / "pool", HeadConfig(kind="pool", normalise=True))
    for name, seed, kind in (("bytes", 0, "byte"), ("letters", 1, "character")):
        tokenizer = train_tokenizer(["To know and to do. 知行合一。\n"], kind).tokenizer
        sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp_width": 16, "context": 16}
        model = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, **sizes, **FIXED))
        model.initialise(torch.Generator().manual_seed(seed))
        save_folder(folder / name, model.eval(), tokenizer, "llama")
    return folder


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = random.Random(0)
    file = tmp_path_factory.mktemp("data") / "reviews.csv"
    rows = [
        f"{' '.join(generator.choices(WORDS, k=generator.randint(2, 9)))},{generator.choice(['bad', 'good'])}"
        for _ in range(40)
    ]
    file.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return file


def test_it_measures_what_the_task_says(models: Path, reviews: Path) -> None:
    found = evaluate_task("classify", [str(models / "first")], [str(reviews)])
    lines = [line.rsplit(",", 1) for line in reviews.read_text(encoding="utf-8").splitlines()[1:]]
    said = [result.label for result in run_texts(Classify(models / "first"), [text for text, _ in lines])]
    right = [label == true for label, (_, true) in zip(said, lines, strict=True)]
    assert found.systems[0].measured.scores[0].value == pytest.approx(np.mean(right))
    assert found.examples[0].place.endswith("reviews.csv:2")


def test_the_command_writes_report_and_results(models: Path, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = run_command(str(models / "first"), str(reviews), "--task", "classify", "--output", str(out))
    assert "accuracy" in printed.output
    assert (out / "report.html").is_file()
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["examples"] == 40
    assert len((out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 40


def test_two_models_on_the_same_records(models: Path, reviews: Path, tmp_path: Path) -> None:
    first, second = str(models / "first"), str(models / "second")
    out = tmp_path / "out"
    printed = run_command(first, second, str(reviews), "--task", "classify", "--output", str(out), "--json")
    values = json.loads(printed.output)
    assert [one["model"] for one in values["systems"]] == [first, second]
    pair = next(one for one in values["comparisons"] if one["name"] == "accuracy")
    assert pair["difference"] == pytest.approx(pair["second"] - pair["first"])
    assert pair["wins"] + pair["losses"] + pair["ties"] == 40
    assert (out / "predictions-2.jsonl").is_file()


def test_labels_by_other_names_and_zero_shot(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers.tsv"
    file.write_text("a wonderful film\t1\nboring and awful\t0\na film\t1\nawful\t0\n", encoding="utf-8")
    found = evaluate_task("classify", [str(models / "first")], [str(file)], Options(labels=["0=bad", "1=good"]))
    assert {*found.systems[0].measured.references} == {"bad", "good"}
    nearest = evaluate_task("classify", [str(models / "pool")], [str(file)], Options(labels=["0=bad", "1=good"]))
    assert {*nearest.systems[0].measured.predictions} <= {"bad", "good"}
    with pytest.raises(BadInput, match="'1' of the data is not among"):
        evaluate_task("classify", [str(models / "pool")], [str(file)], Options(labels=["0=bad", "good"]))


def test_labels_that_the_model_does_not_know(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers.tsv"
    file.write_text("a wonderful film\t1\nboring and awful\t0\na film\t1\n", encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"none of the data's labels \(0, 1\): its own are bad, good[\s\S]*0=NAME,1=NAME"
    ):
        evaluate_task("classify", [str(models / "first")], [str(file)])
    file.write_text("text\tlabel\na wonderful film\tgood\nboring and awful\tbad\na film\tdull\n", encoding="utf-8")
    found = evaluate_task("classify", [str(models / "first")], [str(file)])
    assert [note for note in found.notes if "'dull', which 1 time(s) is right" in note]
    file = tmp_path / "names.conll"
    file.write_text("Anna B-HUMAN\nlives O\n\nParis B-LOC\nis O\n\n", encoding="utf-8")
    found = evaluate_task("tag", [str(models / "tagger")], [str(file)])
    assert [note for note in found.notes if "'HUMAN', which 1 time(s) is right" in note]
    file.write_text("Anna B-HUMAN\nlives O\n\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"labels \(HUMAN\): its own are LOC, PER"):
        evaluate_task("tag", [str(models / "tagger")], [str(file)])


def test_labels_and_options_as_people_write_them(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers.tsv"
    file.write_text("a wonderful film\t1\nboring and awful\t0\na film\t1\n", encoding="utf-8")
    printed = run_command(
        str(models / "first"), str(file), "--task", "classify", "--labels", "0=bad, 1 = good", "--output",
        str(tmp_path / "out"),
    )  # fmt: skip
    assert "accuracy" in printed.output
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"source": "a film", "target": "a good film"}\n', encoding="utf-8")
    for value in ("[", "2024-13-45", "{a"):
        with pytest.raises(BadInput, match=r"--option: the value of instruction cannot be read"):
            run_command(str(models / "chat"), str(pairs), "--task", "rewrite", "--option", f"instruction={value}")
    with pytest.raises(BadInput, match="style"):  # a sentence with a colon stays a text
        run_command(
            str(models / "chat"), str(pairs), "--task", "rewrite", "--option", "instruction=Be kind: shorten",
            "--option", "style=formal",
        )  # fmt: skip


def test_runs_have_folders_of_their_own(reviews: Path) -> None:
    for name in ("runs/mine/model", "runs/mine", "mine/"):
        assert default_folder("classify", [name], [str(reviews)]) == Path("evaluations/classify-mine-reviews")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("work began before the fault was said")

    monkeypatch.setattr("zhixing.workflows.evaluate.run_rows", refuse)
    monkeypatch.setattr("zhixing.tasks.embed.Embedder.__call__", refuse)


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (
            "first",
            "--task classify --measures accuracy,acuracy",
            r"--measures: unknown measure 'acuracy'[\s\S]*'accuracy'",
        ),
        ("first", "--task classify --measures bleu", "bleu measures texts, which --task classify does not give"),
        ("first", "--task classify --measures entity_f1", "entity_f1 measures tags, which"),
        ("pool", "--task search --measures accuracy", "accuracy measures labels, which --task search does not give"),
        ("first", "--task classify --measures ,", "--measures: no measure is named"),
        ("first", "--task classify --output {reviews}", "a folder is expected, this is a file"),
        ("first", "--task classify --output {reviews}/x", "a file is in the place of a folder"),
        ("first", "--task classify --output /proc/nowhere/x", "while writing the evaluation"),
        ("first", "--task classify --index {reviews}", "--index: this is for --task search"),
        ("pool", "--task search --labels a,b", "--labels: this is for --task classify and tag"),
        ("pool", "--task search --option top=3", "the task 'search' has no options"),
        (
            "first",
            "--task classify --option calibrat=no",
            "unknown option of the task classify 'calibrat'[\\s\\S]*'calibrate'",
        ),
        ("chat", "--task search", "this model \\(family 'llama'\\) writes text; an encoder is needed"),
        ("first {models}/tagger", "--task classify", "tagger: this encoder cannot classify"),
        ("pool {models}/first", "--task search", "does not say how its vectors become one per text"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(
    model: str, words: str, message: str, models: Path, reviews: Path, no_work: None, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"models": models, "reviews": reviews}
    first, *second = (Path(word.format(**places)) for word in model.split())
    given = [str(models / first), *map(str, second), str(reviews), *words.format(**places).split()]
    with pytest.raises(ZhixingError, match=message) as fault:
        run_command(*given)
    assert fault.value.exit_code in (2, 3)
    assert not list(tmp_path.iterdir())


def test_calibration_by_name(models: Path, reviews: Path) -> None:
    usual = evaluate_task("classify", [str(models / "first")], [str(reviews)]).systems[0].measured.scores
    for names in (("ece",), ("ece", "accuracy")):
        found = evaluate_task("classify", [str(models / "first")] * 2, [str(reviews)], Options(names=names))
        named = {score.name: score for score in found.systems[0].measured.scores}
        assert set(named) == set(names)
        assert named["ece"].value == usual[-1].value
        assert [pair.name for pair in found.comparisons] == [name for name in names if name != "ece"]


def test_columns_that_are_not_named_have_usual_names(models: Path, tmp_path: Path) -> None:
    data = tmp_path / "stars.csv"
    data.write_text("text,stars\na film,good\nboring,bad\n")
    found = evaluate_task("classify", [str(models / "first")], [str(data)], Options(columns={"label": "stars"}))
    assert found.systems[0].measured.references == ("good", "bad")
    data.write_text("text\na film\nboring\n")
    with pytest.raises(BadInput, match=r"name the columns: --column text=NAME --column label=NAME; columns: text"):
        evaluate_task("classify", [str(models / "first")], [str(data)])


def test_a_limit_is_said(models: Path, reviews: Path) -> None:
    found = evaluate_task("classify", [str(models / "first")], [str(reviews)], Options(limit=7))
    assert len(found.examples) == 7
    assert "The first 7 of 40" in found.notes[0]


def test_search_is_a_plain_loop(models: Path, reviews: Path) -> None:
    found = evaluate_task("search", [str(models / "pool")], [str(reviews)], Options(names=["hit@1"]))
    lines = [line.rsplit(",", 1) for line in reviews.read_text(encoding="utf-8").splitlines()[1:]]
    vectors = open_embedder(models / "pool")([text for text, _ in lines]).vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = []
    for k, (_, label) in enumerate(lines):
        near = vectors @ vectors[k]
        near[k] = -9
        hits.append(lines[int(near.argmax())][1] == label)
    assert found.systems[0].measured.scores[0].value == pytest.approx(
        np.mean(hits), abs=0.06
    )  # ties may fall either way


def test_search_in_another_file_and_in_pairs(models: Path, reviews: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.csv"
    queries.write_text("\n".join(reviews.read_text(encoding="utf-8").splitlines()[:6]), encoding="utf-8")
    options = Options(index=(str(reviews),), names=["hit@1"])
    found = evaluate_task("search", [str(models / "pool")], [str(queries)], options)
    assert found.systems[0].measured.scores[0].value == 1.0  # every query is in the index itself
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("source\ttarget\na film\ta film\nAnna lives\tAnna lives\nboring\tboring\n", encoding="utf-8")
    same = evaluate_task("search", [str(models / "pool")], [str(pairs)], Options(names=["hit@1", "mrr@10"]))
    assert [score.value for score in same.systems[0].measured.scores] == [1.0, 1.0]


def test_tags_of_the_datas_own_tokens_and_of_a_chat_model(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "people.conll"
    file.write_text("Anna B-PER\nlives O\nin O\nParis B-LOC\n\na O\nfilm O\n", encoding="utf-8")
    found = evaluate_task("tag", [str(models / "tagger")], [str(file)]).systems[0].measured
    tagger = Tag(models / "tagger").tagger
    assert isinstance(tagger, HeadTagger)
    assert list(found.predictions) == [tags for tags, _ in tagger.tags([one.tokens for one in found.examples])]
    assert [score.name for score in found.scores] == ["entity_f1", "tag_accuracy"]
    asked = evaluate_task("tag", [str(models / "chat")], [str(file)], Options(labels=["PER=person", "LOC=place"]))
    assert asked.systems[0].measured.scores[0].name == "entity_f1"


def test_answers_and_texts_of_a_chat_model(models: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    rows = [{"context": "Anna lives in Paris.", "question": "Who?", "answers": {"text": ["Anna"], "answer_start": [0]}}]
    questions.write_text("\n".join(json.dumps(row) for row in rows * 3), encoding="utf-8")
    for name in ("span", "chat"):
        found = evaluate_task("answer", [str(models / name)], [str(questions)])
        assert [score.name for score in found.systems[0].measured.scores] == ["squad_f1", "squad_em"]
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("source\ttarget\na film\tein Film\nAnna lives\tAnna lebt\n", encoding="utf-8")
    chat = str(models / "chat")
    options = Options(task={"target": "de"})
    translated = evaluate_task("translate", [chat], [str(pairs)], options)
    assert [score.name for score in translated.systems[0].measured.scores] == ["bleu", "chrf", "ter"]
    for task in ("summarize", "rewrite"):
        assert evaluate_task(task, [chat], [str(pairs)]).systems[0].measured.scores[0].n == 2
    with pytest.raises(BadInput, match="unknown option of the task rewrite 'colour'"):
        evaluate_task("rewrite", [chat], [str(pairs)], Options(task={"colour": 1}))


def test_extraction_by_a_chat_model(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    rows = [
        {"text": "Anna lives in Paris.", "json": {"name": "Anna", "age": 3}},
        {"text": "Bo.", "json": {"name": "Bo"}},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    columns = {"source": "text", "target": "json"}
    options = Options(columns=columns, task={"max_tokens": 30})
    found = evaluate_task("extract", [str(models / "chat")], [str(file)], options).systems[0].measured
    scores = {one.name: one.value for one in found.scores}
    assert scores["json_valid"] == 1.0  # the schema was found from the data, and nothing else can be written
    assert all(set(value) <= {"name", "age"} and "name" in value for value in found.predictions)
    given = Options(columns=columns, task={"schema": "city", "max_tokens": 30})
    other = evaluate_task("extract", [str(models / "chat")], [str(file)], given).systems[0].measured
    assert [set(value) for value in other.predictions] == [{"city"}, {"city"}]


def test_gaps_by_a_masked_model_and_a_chat_model(models: Path, tmp_path: Path) -> None:
    save_encoder_model(models / "masked", HeadConfig(kind="masked"))
    file = tmp_path / "gaps.tsv"
    file.write_text("source\ttarget\nAnna lives in [MASK].\tParis\na [MASK] film\twonderful\n", encoding="utf-8")
    options = Options(task={"top": 1000})
    found = evaluate_task("fill", [str(models / "masked")], [str(file)], options).systems[0].measured
    ranks = [list(guesses).index(right[0]) for guesses, right in zip(found.predictions, found.references, strict=True)]
    assert {one.name: one.value for one in found.scores} == {
        "top@1": np.mean([rank < 1 for rank in ranks]), "top@5": np.mean([rank < 5 for rank in ranks]),
    }  # fmt: skip
    text = tmp_path / "text.txt"
    text.write_text("Anna lives in Paris.\n\n12\n\na wonderful film\n", encoding="utf-8")
    hidden = evaluate_task("fill", [str(models / "masked")], [str(text)])
    assert len(hidden.examples) == 2
    assert "1 record(s)" in hidden.notes[0]
    assert evaluate_task("fill", [str(models / "chat")], [str(file)]).systems[0].measured.scores[0].n == 2


def test_wrong_data_and_models(models: Path, reviews: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Only a text.\n\nAnother one.\n", encoding="utf-8")
    with pytest.raises(BadInput, match="shape labelled"):
        evaluate_task("classify", [str(models / "first")], [str(text)])
    with pytest.raises(MissingResource):
        evaluate_task("classify", ["no-such-model"], [str(reviews)])
    with pytest.raises(MissingResource):
        evaluate_task("classify", [str(models / "first")], [str(tmp_path / "none.csv")])
    with pytest.raises(BadInput, match="unknown task"):
        run_command(str(models / "first"), str(reviews), "--task", "clasify")
    with pytest.raises(BadInput, match="--limit is for a task"):
        run_command(str(models / "bytes"), str(text), "--limit", "3")
    with pytest.raises(BadInput, match="--window is for bits per byte"):
        run_command(str(models / "first"), str(reviews), "--task", "classify", "--window", "3")
    with pytest.raises(BadInput, match="is not ROLE=NAME"):
        run_command(str(models / "first"), str(reviews), "--task", "classify", "--column", "label")


def test_two_language_models_with_tokenizers_of_their_own(models: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("To know and to do. 知行合一。\n" * 60, encoding="utf-8")
    first, second = str(models / "bytes"), str(models / "letters")
    pair = compare_language_models([first, second], [str(text)])
    assert pair.n >= 20
    assert pair.difference == pytest.approx(pair.second - pair.first)
    printed = json.loads(run_command(first, second, str(text), "--json").output)
    assert printed["first"] == pair.first
    alone = json.loads(run_command(first, str(text), "--json").output)
    assert pair.first == pytest.approx(alone["bits_per_byte"], rel=1e-5)
    assert "better" in run_command(first, second, str(text)).output


def test_what_the_second_language_model_cannot_do_is_said_first(models: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the first was measured")

    monkeypatch.setattr("zhixing.workflows.compare_texts.stretch_sums", refuse)
    (tmp_path / "text.txt").write_text("To know and to do. " * 9)
    given = [str(models / "bytes"), str(models / "first"), str(tmp_path / "text.txt")]
    with pytest.raises(BadInput, match="is an encoder"):
        run_command(*given)
    given[1] = str(models / "letters")
    with pytest.raises(BadInput, match="--by-file is for one model"):
        run_command(*given, "--by-file")

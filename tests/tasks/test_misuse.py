"""Options, prompts and arguments that cannot be: said before any work, and not as the fault of a row."""

import json
from pathlib import Path
from typing import Any

import pytest

import zhixing
from tests.tasks.support import run
from zhixing.core.errors import BadInput
from zhixing.generation.grammar import compile_schema
from zhixing.tasks.answer import AnswerTask, _cited
from zhixing.tasks.base import run_all
from zhixing.tasks.classify import Classify
from zhixing.tasks.extract import Extract, _merged, read_schema
from zhixing.tasks.files.reading import InputRow
from zhixing.tasks.files.writing import Writer
from zhixing.tasks.fill import Fill
from zhixing.tasks.find import Find
from zhixing.tasks.parts import parts_of, sentences_of
from zhixing.tasks.search import Index, Item
from zhixing.tasks.summarize import Summarize
from zhixing.tasks.tag import Tag
from zhixing.tasks.texts import Written
from zhixing.tokenization.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["find", "{notes}", "-m", "{models}/pool", "--mode", "fuzzy"], "--mode: unknown way of searching 'fuzzy'"),
        (["find", "{notes}", "-m", "{models}/pool", "--top", "0"], "--top: at least one passage must be wanted, got 0"),
        (
            ["complete", "-m", "{models}/chat", "--max-tokens", "0"],
            "max_tokens must be a whole number, at least 1, got 0",
        ),
        (["complete", "-m", "{models}/chat", "--temperature", "-1"], "temperature must be 0 (greedy) to 100, got -1.0"),
        (["extract", "-m", "{models}/chat", "--schema", "a", "--max-tokens", "0"], "at least one token"),
    ],
)
def test_an_option_that_cannot_be_is_no_fault_of_a_row(
    words: list[str], message: str, models: Path, monkeypatch, capsys, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a wonderful film\n")
    (tmp_path / "in.jsonl").write_text('{"text": "a film"}\n')
    given = [word.format(models=models, notes=tmp_path / "notes") for word in words]
    given += ["--file", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--skip-bad"]
    ended = run(monkeypatch, capsys, *given)
    assert ended.code == 2
    assert message in ended.err
    assert "mend the row" not in ended.err
    assert not (tmp_path / "out.jsonl").exists()
    assert not (tmp_path / "cache" / "indexes").exists()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda ref, prompt: Classify(ref, ["a", "b"], prompt=prompt), "text"),
        (lambda ref, prompt: Fill(ref, prompt=prompt), "text"),
        (lambda ref, prompt: Summarize(ref, prompt=prompt), "text"),
        (lambda ref, prompt: Tag(ref, prompt=prompt), "text"),
        (lambda ref, prompt: Extract("a", ref, prompt=prompt), "text"),
        (lambda ref, prompt: AnswerTask(ref, prompt=prompt), "passages"),
    ],
)
def test_a_prompt_that_would_not_show_the_text_is_refused(make: Any, name: str, models: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("user: 'Say what you think of {text}'\n")  # single braces stand for themselves
    with pytest.raises(BadInput, match=r"\{\{" + name + r"\}\} is not in the prompt[\s\S]*write \{\{" + name):
        make(models / "chat-long", mine)
    mine.write_text("system: 'Passages: {{passages}}'\nuser: '{{question}}'\n")
    if name == "passages":
        make(models / "chat-long", mine)


def test_a_folder_in_the_way_of_the_results_is_seen_before_the_work(
    models: Path, monkeypatch, capsys, tmp_path: Path
) -> None:
    (tmp_path / "out.jsonl").mkdir()
    (tmp_path / "in.txt").write_text("a film\n")
    words = ["classify", "-m", models / "classifier", "--file", tmp_path / "in.txt", "--out", tmp_path / "out.jsonl"]
    for more in ([], ["--overwrite"]):
        ended = run(monkeypatch, capsys, *words, *more)
        assert ended.code == 2
        assert "out.jsonl: a file is expected, this is a folder" in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def test_a_bad_row_of_a_file_that_is_printed_has_its_line(models: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('id,text\n1,"a\nwonderful\nfilm"\n2,\n')
    ended = run(monkeypatch, capsys, "classify", "-m", models / "classifier", "--file", path)
    assert ended.code == 2
    assert "in.csv:5: the text is empty" in ended.err
    assert len(ended.out.splitlines()) == 1


def test_a_question_that_leaves_little_room_is_answered_from_short_passages(models: Path) -> None:
    task = AnswerTask(models / "chat-long")
    prompt = task.answerer.prompts["en"]
    question, more = "Where does Anna live?", " Say where"
    while task.answerer.writer.room(prompt.messages({"passages": "", "question": question + more}), 64) >= 60:
        question += more
    (found,) = run_all(task, [{"question": question, "context": "Anna lives in Paris. Nobody forgets it. " * 40}])
    assert 0 < found.read < found.passages


def test_an_answer_of_a_full_stop_names_no_place() -> None:
    row = {"question": "Where does Anna live?", "context": "Bob is in Rome. Anna lives in Paris."}
    found = _cited(row, ".", [(0, "Bob is in Rome. "), (16, "Anna lives in Paris.")], [0, 1])
    assert (found.begin, found.end, found.evidence_begin) == (None, None, 16)


def test_labels_in_one_text_are_not_its_letters(models: Path) -> None:
    for make in (Classify, Tag):
        with pytest.raises(BadInput, match=r"labels are a list[\s\S]*labels=\['good', 'ba'\]"):
            make(models / "chat", "good, ba")


@pytest.mark.parametrize("texts", [None, 3, b"a film", [1, 2], ["a film", None]])
def test_what_is_no_text_is_said_in_python_too(texts: Any, models: Path) -> None:
    for call in (zhixing.classify, zhixing.embed):
        with pytest.raises(BadInput, match=r"text.* is expected, got"):
            call(texts, models / ("pool" if call is zhixing.embed else "classifier"))


def test_a_row_without_what_the_task_reads(models: Path) -> None:
    with pytest.raises(BadInput, match="there is no context, which answer reads"):
        run_all(AnswerTask(models / "span"), [{"question": "a film"}])


def test_schemas_in_words_in_json_and_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inline = '{"$ref": "#/$defs/x", "$defs": {"x": {"type": "string"}}}'
    assert read_schema(inline) == json.loads(inline)
    (tmp_path / "person").write_text(inline)
    monkeypatch.chdir(tmp_path)
    assert read_schema("person") == json.loads(inline)
    assert list(read_schema("name")["properties"]) == ["name"]
    long = ", ".join(f"field_{n}" for n in range(100))
    assert len(read_schema(long)["properties"]) == 100


SCHEMA = {
    "anyOf": [
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {
            "type": "object",
            "properties": {
                "b": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
                "c": {"type": ["string", "null"], "maxLength": 3},
                "d": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["b"],
        },
    ]
}


def test_what_parts_gave_fits_the_schema_when_put_together() -> None:
    schema = compile_schema(SCHEMA)
    several = [{"b": [1]}, {"a": "x"}, {"b": [1, 2], "d": ["y"]}, {"b": [3, 4], "c": "zz"}, {"b": [], "c": None}]
    assert all(schema.fits(value) for value in several)
    found = _merged(several, schema)
    assert found == {"b": [1, 2], "c": "zz", "d": ["y"]}
    assert list(found) == ["b", "c", "d"]
    assert schema.fits(found)
    unbounded = compile_schema(SCHEMA["anyOf"][1])
    many = [{"b": [], "d": [str(n) for n in range(start, start + 90)]} for start in (0, 90)]
    assert len(_merged(many, unbounded)["d"]) == 180  # the schema itself has no bound


@pytest.mark.parametrize(
    "value", [3, None, {}, {"a": 1}, {"b": [1, 2, 3]}, {"b": [True]}, {"b": [], "c": "long"}, {"b": [], "e": 1}, []]
)
def test_what_does_not_fit(value: Any) -> None:
    assert compile_schema(SCHEMA).fits(value) is (value == {})


def test_a_result_is_one_line_for_every_reader(tmp_path: Path) -> None:
    row = InputRow(1, {"text": "x"}, {"text": "x"})
    data = Writer(tmp_path / "out.txt", ["prediction"]).chunk([row], [Written("one\r\ntwo\rthree\\")], True)
    (tmp_path / "out.txt").write_bytes(data)
    assert (tmp_path / "out.txt").read_text() == "one\\r\\ntwo\\rthree\\\\\n"


@pytest.mark.parametrize("run_of", [".", "?!", " ", " \t"])
def test_long_runs_take_no_time(run_of: str, models: Path) -> None:
    text = "a" + run_of * 400_000 + "b"
    assert sentences_of(text) == [text]
    tokenizer = Tokenizer.load(models / "chat")
    assert "".join(parts_of("a" + run_of * 3000 + "b", 2000, tokenizer)) == "a" + run_of * 3000 + "b"


def test_a_search_that_goes_on_knows_what_was_removed(models: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", models / "pool")
    index.add([Item("a", "a wonderful film"), Item("b", "Anna lives in Paris")])
    before = Find(tmp_path / "index").identity()
    assert Find(tmp_path / "index").identity() == before
    index.remove(["a"])
    assert Find(tmp_path / "index").identity() != before


def test_the_field_of_an_index(models: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    Index.create(tmp_path / "index", models / "pool").close()
    ended = run(monkeypatch, capsys, "find", tmp_path / "index", "x", "--text-field", "body")
    assert ended.code == 2
    assert "--text-field: an index is searched as it is" in ended.err

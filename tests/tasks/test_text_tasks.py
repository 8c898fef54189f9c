"""Tasks that write: parts put together are the whole, what is cut is said, JSON fits, the prompt is the user's."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generation.chat_model import chat_network, chat_tokenizer
from tests.tasks.support import run
from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput, MissingResource
from zhixing.tasks.base import run_all, run_texts
from zhixing.tasks.complete import Complete
from zhixing.tasks.extract import Extract, _merged, read_schema
from zhixing.tasks.fill import _without_surroundings
from zhixing.tasks.parts import parts_of, sentences_of
from zhixing.tasks.prompting import LANGUAGES, language_of, load_prompt, parse_prompt, prompt_names
from zhixing.tasks.rewrite import Rewrite
from zhixing.tasks.summarize import Summarize
from zhixing.tasks.texts import write_parts
from zhixing.tasks.translate import Translate, code_of

TOKENIZER = chat_tokenizer()


class Echo:
    """Writes each part in capitals, as a text writer."""

    def __init__(self, most: int) -> None:
        self.most = most

    def cut(self, text: str, small: bool) -> list[str]:
        return parts_of(text, self.most, TOKENIZER)

    def write(self, parts: list[str]) -> list[tuple[str, bool]]:
        return [(part.upper(), "long" in part) for part in parts]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab .。\n知行é!?，x", max_size=300), st.integers(8, 40))
def test_parts_are_the_text_and_short_enough(text: str, most: int) -> None:
    parts = parts_of(text, most, TOKENIZER)
    assert "".join(parts) == text
    assert all(len(TOKENIZER.encode(part)) <= most or len(part) == 1 for part in parts)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab .。\n知行!?'\" ", max_size=80))
def test_sentences_are_the_text(text: str) -> None:
    assert "".join(sentences_of(text)) == text


def test_sentences_end_where_they_do() -> None:
    assert sentences_of("Hi there. It is 3.5 m! 真的？是。\nNew line") == [
        "Hi there. ", "It is 3.5 m! ", "真的？", "是。\n", "New line",
    ]  # fmt: skip


def test_parts_are_cut_at_paragraphs_then_sentences() -> None:
    text = "one two three. four five six.\n\nseven eight nine. ten eleven twelve. " * 3
    parts = parts_of(text, 24, TOKENIZER)
    assert all(part.rstrip().endswith(".") for part in parts)


@pytest.mark.parametrize("most", [12, 40, 1000])
def test_what_stands_between_parts_stays(most: int) -> None:
    text = "first line here\n\n  second one. third long one\n"
    (found,) = write_parts(Echo(most), [text], False)
    assert found.text == text.strip().upper()
    assert found.cut == 1
    assert (found.parts > 1) == (most < 1000)


def test_summaries_of_parts_are_summarised() -> None:
    class Half(Echo):
        def write(self, parts: list[str]) -> list[tuple[str, bool]]:
            return [(part[: len(part) // 2], False) for part in parts]

    task = Summarize.__new__(Summarize)
    task.writer = Half(40)
    (found,) = task.run([{"text": "word and other. " * 40}])
    assert found.parts > 3
    assert len(TOKENIZER.encode(found.text)) <= 20


@pytest.mark.parametrize("make", [Rewrite, Summarize, lambda ref: Translate(ref, "en", "zh")])
def test_long_texts_are_read_in_parts_by_a_chat_model(make, models: Path) -> None:
    task = make(models / "chat-long")
    task.writer.max_tokens = 8
    (found,) = run_texts(task, ["a wonderful film. " * 160])
    assert found.parts > 2
    assert found.cut >= 0


def test_extracted_json_fits_whatever_the_model_says(models: Path) -> None:
    task = Extract("name, age:integer, tags:[string]", models / "chat", max_tokens=60)
    found = run_texts(task, ["Anna is 31.", "知行合一", "😀"])
    for one in found:
        jsonschema.validate(one.value, task.schema)
        assert json.loads(str(one)) == one.value


def test_parts_of_json_are_put_together() -> None:
    assert _merged([{"a": "", "b": [1]}, {"a": "x", "b": [1, 2]}, {"a": "y", "b": []}]) == {"a": "x", "b": [1, 2]}
    assert _merged([None, 3, 4]) == 3


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("a,,b", "empty or there twice"),
        ("a,a", "empty or there twice"),
        ("a:date", "unknown type 'date'"),
        ("{bad", "not JSON"),
        ('{"enum": []}', "nothing fits"),
    ],
)
def test_schemas_that_are_none(schema: str, message: str, models: Path) -> None:
    with pytest.raises(BadInput, match=message):
        Extract(schema, models / "chat")
    with pytest.raises(MissingResource):
        read_schema(Path("nowhere.json"))


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (" Paris.", "Paris"),
        ("The capital of France is Paris.", "Paris"),
        ('"The capital of France is Paris, of course."', "Paris"),
        ("the capital", "the capital"),
    ],
)
def test_an_answer_that_repeats_the_sentence_is_only_its_word(answer: str, word: str) -> None:
    assert _without_surroundings(answer, "We know. The capital of France is ", ", of course.") == word


@pytest.mark.parametrize(
    ("name", "code"),
    [("French", "fr"), ("german", "de"), ("法语", "fr"), ("中文", "zh"), ("zh-CN", "zh"), ("EN", "en")],
)
def test_languages_have_codes_and_names(name: str, code: str) -> None:
    assert code_of(name) == code


def test_completions_and_filling_in(models: Path, tmp_path: Path) -> None:
    (found,) = run_texts(Complete(models / "chat", 5), ["a wonderful"])
    assert found.finish in ("stop", "length")
    with pytest.raises(BadInput, match="no tokens for filling in"):
        run_all(Complete(models / "chat"), [{"text": "a", "suffix": "b"}])
    with pytest.raises(BadInput, match="above the model's context"):
        run_texts(Complete(models / "chat"), ["word " * 600])
    definition = json.loads(json.dumps(TOKENIZER.definition))
    first = max(token["id"] for token in definition["added_tokens"]) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for index, name in enumerate(("<fim_prefix>", "<fim_suffix>", "<fim_middle>")):
        definition["added_tokens"].append({"id": first + index, "content": name, **flags})
    tokenizer = type(TOKENIZER)(definition, {**TOKENIZER.roles, "chat_template": TOKENIZER.chat_template})
    save_folder(tmp_path / "coder", chat_network(tokenizer), tokenizer, "llama")
    task = Complete(tmp_path / "coder", 4)
    assert task._prompt({"text": "x", "suffix": "y"}) == [
        first, *tokenizer.encode("x"), first + 1, *tokenizer.encode("y"), first + 2,
    ]  # fmt: skip
    assert len(run_all(task, [{"text": "x", "suffix": "y"}])) == 1


@pytest.mark.parametrize("name", prompt_names())
def test_every_prompt_can_be_read_and_has_a_twin(name: str) -> None:
    task, language = name.split(".")
    assert load_prompt(task, language).names()
    assert {f"{task}.{other}" for other in LANGUAGES} <= set(prompt_names())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: [", "not YAML"),
        ("- a", "mapping"),
        ("sytem: x\nuser: y", "did you mean 'system'"),
        ("system: x", "no message"),
        ("user: 3", "not a text"),
        ("user: x\nmax_tokens: -1", "whole number above 0"),
        ("user: x\nexamples: [{text: a}]", "'answer'"),
    ],
)
def test_a_prompt_that_is_none(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_prompt(text, "mine.yaml")


def test_a_prompt_of_ones_own(models: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        'system: Be brief.\nuser: "{{instruction}} >> {{text}} {braces} {{ text }}"\n'
        "examples:\n- {text: a, answer: b}\n"
    )
    task = Rewrite(models / "chat-long", instruction="Do it.", prompt=mine)
    assert task.writer.messages("知") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Do it. >> a {braces} a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "Do it. >> 知 {braces} 知"},
    ]
    mine.write_text("user: '{{txet}}'")
    with pytest.raises(BadInput, match=r"unknown name in a prompt 'txet'[\s\S]*did you mean 'text'"):
        Rewrite(models / "chat-long", prompt=mine)


def test_languages_are_told_apart() -> None:
    assert [language_of(text) for text in ("hello", "知行合一", "GPT 是一个模型 yes", "", "😀")] == [
        "en",
        "zh",
        "zh",
        "en",
        "en",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["translate", "x", "--to", "xx"], "unknown language 'xx'"),
        (["translate", "x"], "into which language"),
        (["translate", "x", "--from", "en", "--to", "en"], "nothing to translate"),
        (["summarize", "x", "--length", "huge"], "unknown length"),
        (["rewrite", "x", "--style", "correct", "--instruction", "y"], "choose one"),
        (["rewrite", "x", "--style", "funny"], "unknown style 'funny'"),
        (["extract", "x"], "what is to be extracted"),
        (["summarize", "x", "--beams", "3"], "beams are for encoder-decoders"),
        (["complete", "--suffix", "x"], "goes with a text"),
        (["fill", "no gap here"], "has no gap"),
        (["answer"], "no question"),
        (["tag", "x", "--prompt", "none.yaml"], "zhixing prompts copy tag"),
    ],
)
def test_what_commands_refuse(words: list[str], message: str, models: Path, monkeypatch, capsys) -> None:
    ended = run(monkeypatch, capsys, *words, "-m", models / "chat-long")
    assert ended.code in (2, 3)
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_the_commands_work(models: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    chat = models / "chat-long"
    ended = run(monkeypatch, capsys, "complete", "-m", chat, "--max-tokens", "3", "--json", stdin=b"one\ntwo\n")
    assert len(ended.out.splitlines()) == 1  # the whole of standard input is one text
    ended = run(monkeypatch, capsys, "fill", "-m", chat, "a ____ b", "--json")
    assert ended.code in (0, 2)
    ended = run(monkeypatch, capsys, "prompts", "copy", "rewrite.zh", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").exists()
    assert "instruction" in run(monkeypatch, capsys, "prompts", "show", "rewrite.zh").out
    assert run(monkeypatch, capsys, "prompts", "show", "rewrit.zh").code == 2

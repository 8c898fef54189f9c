"""`zhixing chat`: scripts, the terminal, and every command that begins with a slash."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.generation.chat_model import Scripted, chat_network, chat_tokenizer
from tests.tokenization.chat_samples import WEATHER
from typer.testing import CliRunner

import zhixing
from zhixing import native
from zhixing.checkpoints.folder import save_folder
from zhixing.cli import chat
from zhixing.cli.chat_commands import Session, parse_value
from zhixing.cli.chat_terminal import converse, piped_lines, read_more
from zhixing.core.errors import BadInput, Interrupted, MissingResource
from zhixing.generation import Generator
from zhixing.generation.chat import Conversation
from zhixing.generation.engine import Request
from zhixing.generation.engine.workers import NativeWorker
from zhixing.native.runtime import PAGE

GREEDY = ("--greedy", "--max-tokens", "6")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, template in (("talker", "qwen2.5-tools"), ("mute", None)):
        tokenizer = chat_tokenizer(template or "x")
        if template is None:
            tokenizer.config.pop("chat_template")
        found[name] = tmp_path_factory.mktemp(name) / "model"
        save_folder(found[name], chat_network(tokenizer, 700), tokenizer, "llama")
    return found


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhixing.models.ops.select_matmul", lambda: None)  # it takes longer than all the rest


def call(*arguments: Any, stdin: str | bytes | None = None) -> Any:
    app = typer.Typer()
    app.command()(chat.command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_messages_are_answered_in_one_conversation(folders: dict[str, Path]) -> None:
    model = zhixing.load(folders["talker"]).conversation(temperature=0, max_tokens=6)
    expected = ["".join(model.say(text)) for text in ("Hello", "And?")]
    said = call(folders["talker"], *GREEDY, "-m", "Hello", "-m", "And?")
    piped = call(folders["talker"], *GREEDY, stdin="Hello\n\nAnd?\n")
    assert said.stdout == piped.stdout == "".join(f"{text}\n" for text in expected)
    assert re.search(r"\[\d+ tokens, [\d.]+ tokens/s; read \d+ in [\d.]+ s", said.stderr)


def test_json_has_everything(folders: dict[str, Path]) -> None:
    result = call(folders["talker"], *GREEDY, "--json", "-m", "Hello", "-m", "And?", "--system", "Be brief.")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["message"]["role"] == "assistant" and first["message"]["content"] == first["text"]
    block = PAGE if native.is_available() else 1  # the engine finds whole blocks again
    assert second["reused"] >= first["prompt_tokens"] // block * block


def test_blocks_and_continued_lines(folders: dict[str, Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    stdin = 'one\\\ntwo\n"""\nthree\n\nfour\n"""\n//etc?\n'
    call(folders["talker"], *GREEDY, "--save", kept, stdin=stdin)
    messages = json.loads(kept.read_text())["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["one\ntwo", "three\n\nfour", "/etc?"]
    again = tmp_path / "again.json"
    call(folders["talker"], *GREEDY, "--load", kept, "--save", again, "-m", "more")
    assert json.loads(again.read_text())["messages"][: len(messages)] == messages


@pytest.mark.parametrize(
    ("line", "more", "expected"),
    [
        ("plain", [], "plain"),
        ("a\\", ["b\\", "c"], "a\nb\nc"),
        ('"""', ["a", "b", '"""'], "a\nb"),
        ('"""a', ["b", 'c"""'], "a\nb\nc"),
        ('"""a"""', [], "a"),
        ('""""""', [], ""),
    ],
)
def test_reading_on(line: str, more: list[str], expected: str) -> None:
    following = iter(more)
    assert read_more(line, lambda: next(following)) == expected
    assert list(following) == []


def test_broken_standard_input(folders: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match=r"line 2: not UTF-8 text \(byte 1\)"):
        call(folders["talker"], *GREEDY, stdin=b"good\na\xff\n")
    with pytest.raises(BadInput, match="ends inside a message"):
        call(folders["talker"], *GREEDY, stdin='"""\nnever closed\n')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variable", "x"), "must be NAME=VALUE"),
        (("--min-p", "-1"), "min_p must be"),
        (("--load", "nowhere.json"), "no such file"),
        (("--tools", "nowhere.json"), "no such file"),
        (("--save", "/nowhere/x.json"), "folder of --save is not there"),
        (("-m", "/frobnicate"), "unknown command '/frobnicate'"),
        (("-m", "/edit new"), "nothing was said yet"),
        (("-m", "/set temperature"), "needs NAME=VALUE"),
        (("-m", "/set temprature=1"), "did you mean 'temperature'"),
        (("-m", "/set top_p=3"), "top_p must be"),
        (("-m", "/template"), "nothing was said yet"),
        (("-m", "/result x"), "no call of a tool waits"),
        (("-m", "/undo"), "nothing was said yet"),
        (("-m", "/continue"), "no answer to go on with"),
        (("-m", "/save"), "needs a file"),
        (("-m", "/load nowhere.json"), "no such file"),
        (("-m", "/forget maybe"), "on or off"),
        (("-m", "word " * 700), "the model's context is 700"),
    ],
)
def test_mistakes(folders: dict[str, Path], arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises((BadInput, MissingResource), match=message):
        call(folders["talker"], *GREEDY, *(arguments if "-m" in arguments else (*arguments, "-m", "Hi")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("7", "no list of messages"),
        ('{"messages": [{"content": "x"}]}', r"messages\[0\]: not a message with a role"),
        ('[{"role": "user", "content": "x"}, 7]', r"messages\[1\]"),
        ('{"messages": [], "tools": 7}', "tools are not a list"),
        ('{"messages": [], "tools": [{}]}', r"tools\[0\]: a tool's schema needs a name"),
    ],
)
def test_files_that_are_no_conversation(folders: dict[str, Path], tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(BadInput, match=message):
        call(folders["talker"], *GREEDY, "--load", tmp_path / "c.json", "-m", "Hi")


def test_a_model_without_a_template_offers_plain_mode(folders: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match=r"no chat template.*\n.*--plain"):
        call(folders["mute"], *GREEDY, "-m", "Hi")
    result = call(folders["mute"], *GREEDY, "--plain", "-m", "Hi", "-m", "/template")
    model = zhixing.load(folders["mute"])
    expected = model.generate("Hi", temperature=0, max_tokens=6)
    assert result.stdout == f"{expected}\nHi\n{expected}\n"
    with pytest.raises(BadInput, match="no place for thinking"):
        call(folders["mute"], *GREEDY, "--plain", "--variable", "thinking=true", "-m", "Hi")


class Typist:
    """A person at the terminal: types lines, or presses a key (an exception)."""

    def __init__(self, *keys: str | type[BaseException]) -> None:
        self._keys: Iterator[str | type[BaseException]] = iter(keys)

    def __call__(self, prompt: str = "") -> str:
        key = next(self._keys, EOFError)
        if isinstance(key, str):
            return key
        raise key


@pytest.fixture
def talk(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Conversation, str, str]]:
    def talk(*keys: Any, answers: tuple[str, ...] = (), **options: Any) -> tuple[Conversation, str, str]:
        model = zhixing.load(folders[options.pop("model", "talker")])
        assert model.tokenizer is not None
        extras = {"processors": [Scripted(model.tokenizer, *answers)]} if answers else {}
        conversation = model.conversation(**{"max_tokens": 40, "temperature": 0, **extras, **options})
        monkeypatch.setattr("builtins.input", Typist(*keys))
        capsys.readouterr()
        converse(Session(conversation, name="talker", model=model, save=None))
        out, err = capsys.readouterr()
        return conversation, out, err

    return talk


def contents(conversation: Conversation) -> list[Any]:
    return [message["content"] for message in conversation.messages]


def test_the_terminal_answers_until_the_end(talk: Any) -> None:
    conversation, out, err = talk("Hi", "", "And?", answers=("Hello!", "知行 😀"))
    assert out == "Hello!\n知行 😀\n" and contents(conversation) == ["Hi", "Hello!", "And?", "知行 😀"]
    assert "/help lists the commands" in err and "tokens/s" in err
    for end in ("/quit", "/exit"):
        assert contents(talk(end, "Hi", answers=("x",))[0]) == []


def test_control_c_at_the_prompt_ends_when_pressed_twice(talk: Any) -> None:
    conversation, _, err = talk(KeyboardInterrupt, "Hi", KeyboardInterrupt, KeyboardInterrupt, "never", answers=("a",))
    assert contents(conversation) == ["Hi", "a"] and err.count("Ctrl-C again") == 2


def test_control_c_stops_the_answer_and_not_the_program(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupt:
        times = 0

        def __call__(self, progress: Any) -> None:
            if len(progress.tokens) == 3:
                self.times += 1
                if self.times == 1:
                    raise KeyboardInterrupt

    conversation, out, err = talk("Hi", "And?", answers=("one two three four", "five"), rules=[Interrupt()])
    assert "stopped by the user" in err and contents(conversation)[3] == "five"
    assert out.splitlines()[0] == contents(conversation)[1] and "four" not in contents(conversation)[1]


def test_a_script_that_is_interrupted_says_so(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupt:
        def __call__(self, progress: Any) -> None:
            raise KeyboardInterrupt

    original = Generator.__init__

    def interrupted(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **{**options, "rules": [Interrupt()]})

    monkeypatch.setattr(Generator, "__init__", interrupted)
    with pytest.raises(Interrupted):
        call(folders["talker"], *GREEDY, "--engine", "torch", "-m", "Hi", "-m", "never")


@pytest.mark.skipif(not native.is_available(), reason="the C++ core is not built")
def test_a_script_of_the_engine_that_is_interrupted_says_so(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, run = Request.__next__, NativeWorker.run
    aborted = threading.Event()  # on a busy machine the answer could be whole before it is interrupted

    def interrupted(self: Request) -> str:
        monkeypatch.setattr(Request, "__next__", original)
        self.abort()
        aborted.set()
        raise KeyboardInterrupt

    def waiting(self: NativeWorker, *arguments: Any) -> Any:
        aborted.wait(60)
        return run(self, *arguments)

    monkeypatch.setattr(Request, "__next__", interrupted)
    monkeypatch.setattr(NativeWorker, "run", waiting)
    with pytest.raises(Interrupted):
        call(folders["talker"], *GREEDY, "-m", "Hi", "-m", "never")


def test_regenerate_edit_undo_continue(talk: Any) -> None:
    conversation, out, err = talk(
        *("Hi", "/regenerate", "/edit Ho", "More", "/undo", "/continue"), answers=("a", "b", "c", "d", " and e")
    )
    assert contents(conversation) == ["Ho", "c and e"] and out == "a\nb\nc\nd\n and e\n"
    assert "temperature is 0: the answer will be the same" in err


def test_an_edit_is_taken_back_when_it_cannot_be_answered(talk: Any) -> None:
    conversation, _, err = talk("Hi", "/edit " + "word " * 700, answers=("a", "b"))
    assert contents(conversation) == ["Hi", "a"] and "the model's context is 700" in err


def test_editing_begins_with_what_was_said(talk: Any) -> None:
    conversation, _, _ = talk("Hi", "/edit", "Hello", answers=("a", "b"))
    assert contents(conversation) == ["Hello", "b"]
    conversation, _, err = talk("Hi", "/edit", "", answers=("a",))
    assert contents(conversation) == ["Hi", "a"] and "nothing was changed" in err


def test_options_change_on_the_way(talk: Any) -> None:
    conversation, _, err = talk("/set temperature=0.5 top_k=7 stop='[\"x y\"]'", "/show", "/set seed=3 top_k=none")
    assert conversation.options.temperature == 0.5 and conversation.options.stop == ("x y",)
    assert conversation.options.seed == 3 and conversation.options.top_k is None
    assert "temperature 0.5" in err and "answers end at" in err and "0 messages, 0 of 700 tokens" in err


def test_system_new_history_forget(talk: Any) -> None:
    conversation, out, err = talk(
        *("/system Be brief.", "Hi", "/history", "/forget on", "/new", "/system", "/system none"), answers=("a",)
    )
    assert "system:\nBe brief.\nuser:\nHi\nassistant:\na\n" in out
    assert contents(conversation) == [] and conversation.forget and "system prompt: none" in err
    assert err.count("system prompt: Be brief.") == 2


def test_what_the_model_reads_is_shown(talk: Any) -> None:
    conversation, out, err = talk("Hi", "/template", "/tokens", answers=("a",))
    text = conversation.prompt(answer=False).text
    assert text in out and "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\na<|im_end|>" in text
    tokens = conversation.prompt(answer=False).tokens
    shown = re.findall(r"(\d+):", out[out.index(text) + len(text) :])
    assert [int(token) for token in shown] == tokens and f"{len(tokens)} tokens" in err


def test_tools_and_their_results(talk: Any, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
    calls = '<tool_call>{"name": "weather", "arguments": {"city": "a"}}</tool_call>' * 2
    conversation, _, err = talk(
        *(f"/tools {tmp_path / 'tools.json'}", "Weather?", "/result blue", "/result green", "/tools none"),
        answers=(calls, "Blue and green."),
        max_tokens=200,
    )
    assert err.count('calls weather({"city": "a"}); give its result with /result') == 2
    assert "1 more to give, the next of weather" in err and "no tools" in err
    results = [message for message in conversation.messages if message["role"] == "tool"]
    assert [result["tool_call_id"] for result in results] == ["call00001", "call00002"]
    assert conversation.messages[-1]["content"] == "Blue and green."


def test_saving_and_loading(talk: Any, tmp_path: Path) -> None:
    kept = tmp_path / "my chat.json"
    conversation, _, err = talk("Hi", f"/save {kept}", "/new", f"/load '{kept}'", "And?", answers=("a", "b"))
    assert contents(conversation) == ["Hi", "a", "And?", "b"] and "saved 2 messages" in err
    assert json.loads(kept.read_text())["messages"] == conversation.messages[:2]
    _, _, err = talk(f"/save {tmp_path}/nowhere/x.json", "/quit")
    assert "no such" in err.lower() or "not there" in err


def test_mistakes_do_not_end_the_terminal(talk: Any) -> None:
    conversation, out, err = talk("/nonsense", "/set x=1", "/save", "word " * 700, "Hi", answers=("a", "a"))
    assert err.count("zhixing: ") == 4 and contents(conversation) == ["Hi", "a"] and out == "a\n"


def test_beams_answer_in_one_piece(talk: Any) -> None:
    conversation, out, _ = talk("Hi", "/set num_beams=1", num_beams=2, max_tokens=4)
    assert out == contents(conversation)[1] + "\n"


def test_help_names_every_command(talk: Any) -> None:
    _, _, err = talk("/help")
    for name in ("regenerate", "edit", "undo", "system", "save", "load", "set", "show", "template", "tokens", "tools"):
        assert f"/{name}" in err


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0.5", 0.5), ("true", True), ("False", False), ("none", None), ("[1, 2]", [1, 2]), ("a b", "a b")],
)
def test_values(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_empty_piped_input_says_nothing(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(folders["talker"], *GREEDY, stdin="\n\n").stdout == ""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("知行\n".encode())))
    assert list(piped_lines()) == ["知行"]

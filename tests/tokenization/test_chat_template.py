"""Chat templates render as transformers renders them, and every mistake is one clear message."""

from __future__ import annotations

import datetime
import functools
from typing import Any

import pytest

from zhixing.core.errors import BadInput
from zhixing.tokenization.chat_template import ChatTemplate

from .chat_samples import CALL, CONVERSATIONS, ROLES, TEMPLATES, WEATHER, says

TOOL_TEMPLATES = [name for name, source in TEMPLATES.items() if "tools" in source]


def theirs(source: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    """The rendering of transformers, or None where it fails."""
    module = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        texts, _ = module.render_jinja_template([messages], chat_template=source, **ROLES, **options)
    except Exception:  # noqa: BLE001 (whatever it is, there is no rendering to compare with)
        return None
    return str(texts[0])


@functools.cache
def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, ROLES)


def ours(source: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    try:
        return template(source).render(messages, **options).text
    except BadInput:
        return None


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_transformers_renders_the_same(name: str, conversation: str) -> None:
    for prompt in (False, True):
        arguments = (TEMPLATES[name], CONVERSATIONS[conversation])
        assert ours(*arguments, add_generation_prompt=prompt) == theirs(*arguments, add_generation_prompt=prompt)


def test_most_of_these_renderings_succeed() -> None:
    """The comparison above would also hold if everything failed on both sides."""
    rendered = {
        name: [key for key, messages in CONVERSATIONS.items() if ours(source, messages) is not None]
        for name, source in TEMPLATES.items()
    }
    assert all("turns" in done for done in rendered.values())
    assert sum(map(len, rendered.values())) > 0.6 * len(TEMPLATES) * len(CONVERSATIONS)


@pytest.mark.parametrize("name", TOOL_TEMPLATES)
def test_tools_render_the_same(name: str) -> None:
    for conversation in ("one", "tool call", "two tools"):
        arguments = (TEMPLATES[name], CONVERSATIONS[conversation])
        expected = theirs(*arguments, tools=[WEATHER])
        assert ours(*arguments, tools=[WEATHER]) == expected
        if conversation == "one":
            assert expected is not None and "天气 & <more>" in expected


def test_documents_and_further_variables_render_the_same() -> None:
    documents = [{"title": "On rivers", "text": "They flow."}, {"title": "道", "text": "可道"}]
    arguments = (TEMPLATES["documents"], CONVERSATIONS["turns"])
    expected = theirs(*arguments, documents=documents)
    assert expected is not None and "On rivers" in expected
    assert ours(*arguments, documents=documents) == expected
    for thinking in (True, False):
        options = {"enable_thinking": thinking, "add_generation_prompt": True}
        arguments = (TEMPLATES["qwen3-thinking"], CONVERSATIONS["turns"])
        assert ours(*arguments, **options) == theirs(*arguments, **options)
    text = ours(TEMPLATES["llama3-tools"], CONVERSATIONS["one"])
    assert text is not None and datetime.date.today().strftime("%d %b %Y") in text


@pytest.mark.parametrize("final", ["The answer", "trailing \n", ""])
@pytest.mark.parametrize("name", ["chatml", "gemma", "llama3-tools", "zephyr", "phi3", "mistral"])
def test_going_on_with_the_last_message_is_the_same(name: str, final: str) -> None:
    arguments = (TEMPLATES[name], [says("user", "Hi"), says("assistant", final)])
    expected = theirs(*arguments, continue_final_message=True)
    assert ours(*arguments, continue_final_message=True) == expected
    assert expected is not None and expected.rstrip().endswith(final.rstrip())


def test_what_the_template_marks_as_the_assistants_is_found() -> None:
    rendering = ChatTemplate(TEMPLATES["chatml-generation"]).render(CONVERSATIONS["turns"])
    marked = [rendering.text[begin:end] for begin, end in rendering.generations]
    assert marked == ["2<|im_end|>", " 合一 <|im_end|>"]
    assert ChatTemplate(TEMPLATES["chatml-generation"]).marks_generations
    assert not ChatTemplate(TEMPLATES["chatml"]).marks_generations


def test_the_right_one_of_several_templates_is_taken() -> None:
    named = {"default": "d", "tool_use": "t{{ tools }}", "rag": "r{{ documents }}"}
    messages, documents = [says("user", "a")], [{"title": "t", "text": "x"}]
    for source in (named, [{"name": name, "template": text} for name, text in named.items()]):
        several = ChatTemplate(source)  # type: ignore[arg-type]
        assert several.render(messages).text == "d"
        assert several.render(messages, tools=[WEATHER]).text.startswith("t[")
        assert several.render(messages, documents=documents).text.startswith("r[")
        assert several.render(messages, name="rag").text == "rNone"
    with pytest.raises(BadInput, match="did you mean 'tool_use'"):
        several.render(messages, name="tools_use")
    with pytest.raises(BadInput, match="none is the default"):
        ChatTemplate({"a": "x", "b": "y"}).render(messages)


def test_tools_that_a_template_would_leave_out_are_refused() -> None:
    with pytest.raises(BadInput, match="no place for tools"):
        ChatTemplate(TEMPLATES["chatml"]).render(CONVERSATIONS["one"], tools=[WEATHER])
    with pytest.raises(BadInput, match="no place for documents"):
        ChatTemplate(TEMPLATES["chatml"]).render(CONVERSATIONS["one"], documents=[{"title": "a", "text": "b"}])
    assert ChatTemplate(TEMPLATES["chatml"]).render(CONVERSATIONS["one"], tools=[]).text


class Sneaky(str):
    def upper(self) -> str:
        raise AssertionError("a method of the user's object was called")


def test_a_template_meets_plain_values_only() -> None:
    source = "{{ messages[0].content.upper() }}{{ messages[0].content.write_text('x') }}"
    with pytest.raises(BadInput, match="no attribute 'write_text'"):
        ChatTemplate(source).render([says("user", Sneaky("a"))])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "there are no messages"),
        ("hello", "must be a list"),
        ([{"content": "x"}], "needs a role"),
        ([{"role": 7, "content": "x"}], "needs a role, got 7"),
        (["hello"], r"messages\[0\]: a message is a mapping"),
        ([says("user", object())], r"messages\[0\]\.content: a object cannot be shown"),
        ([says("user", {1: "x"})], "the key 1 is not a text"),
        ([says("user", b"x")], "a bytes cannot be shown"),
    ],
)
def test_messages_of_a_wrong_form(messages: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ChatTemplate(TEMPLATES["chatml"]).render(messages)


def test_messages_nested_without_end_are_refused() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    circle: list[Any] = []
    circle.append(circle)
    for content in (deep, circle):
        with pytest.raises(BadInput, match="nested more than"):
            ChatTemplate(TEMPLATES["chatml"]).render([says("user", content)])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "broken: line 1"),
        ("a\n{{ b", "broken: line 2"),
        ("\n\n{{ 1 / 0 }}", r"fails \(line 3\): ZeroDivisionError"),
        ("{{ raise_exception('no ' ~ messages[0].role) }}", "refuses these messages: no user"),
        ("{{ x.y }}", "'x' is undefined"),
        ("{{ 'a'|nothing }}", "No filter named 'nothing'"),
        ("{% include 'other' %}", "no loader"),
        ("\ud800", "half a character"),
    ],
)
def test_broken_templates(source: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        ChatTemplate(source, where="tokenizer_config.json").render(CONVERSATIONS["one"])
    assert str(caught.value).startswith("tokenizer_config.json: ") and len(str(caught.value)) < 800


@pytest.mark.parametrize("source", [7, {}, [], {"a": 1}, [{"name": "a"}], {str(i): "x" for i in range(99)}])
def test_what_is_no_template(source: Any) -> None:
    with pytest.raises(BadInput, match="chat template"):
        ChatTemplate(source)


def test_renderings_do_not_disturb_each_other() -> None:
    from concurrent.futures import ThreadPoolExecutor

    shared = ChatTemplate(TEMPLATES["qwen3-thinking"])
    conversations = [[says("user", f"{number}" * 50), says("assistant", "x")] * 5 for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda messages: shared.render(messages).text, conversations))
    assert texts == [shared.render(messages).text for messages in conversations]


def test_messages_are_not_changed() -> None:
    messages = [says("user", "a"), says("assistant", "b", tool_calls=[CALL], reasoning="r", name=None)]
    before = repr(messages)
    ChatTemplate(TEMPLATES["qwen3-thinking"]).render(messages, continue_final_message=True)
    assert repr(messages) == before

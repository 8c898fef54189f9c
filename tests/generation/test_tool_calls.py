"""Calls of tools in the formats that models write, read into OpenAI's structure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.generation.tool_calls import for_template, parse_reply


def calls(text: str, *names: str) -> list[tuple[str, Any]]:
    parsed = parse_reply(text, names)
    assert all(call["type"] == "function" and len(call["id"]) == 9 for call in parsed.calls)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in parsed.calls]


WEATHER = '{"name": "weather", "arguments": {"city": "北京"}}'
TWICE = [("weather", {"city": "北京"})] * 2


@pytest.mark.parametrize(
    ("text", "expected", "content"),
    [
        (f"<tool_call>\n{WEATHER}\n</tool_call>", [("weather", {"city": "北京"})], ""),
        (f"Hm.\n<tool_call>{WEATHER}</tool_call>\n<tool_call>{WEATHER}</tool_call>", TWICE, "Hm."),
        (f"<tool_call>\n{WEATHER}", [("weather", {"city": "北京"})], ""),
        (f"[TOOL_CALLS] [{WEATHER}, {WEATHER}]", TWICE, ""),
        ('Hm: [TOOL_CALLS]weather[ARGS]{"a": "b"}[TOOL_CALLS]time{}', [("weather", {"a": "b"}), ("time", {})], "Hm:"),
        ('{"name": "weather", "parameters": {"city": "a"}}', [("weather", {"city": "a"})], ""),
        ('<|python_tag|>{"name": "weather", "parameters": {}}', [("weather", {})], ""),
        ('{"name": "weather", "parameters": {}}; {"name": "time"}', [("weather", {}), ("time", {})], ""),
        ('{"type": "function", "function": {"name": "weather", "arguments": "{\\"a\\": 1}"}}', [], None),
        ('<tool_call>{"name": "weather", "arguments": "{\\"a\\": 1}"}</tool_call>', [("weather", {"a": 1})], ""),
    ],
)  # fmt: skip
def test_each_format_is_read(text: str, expected: list[tuple[str, Any]], content: str | None) -> None:
    assert calls(text, "weather", "time") == expected
    assert parse_reply(text, ["weather", "time"]).content == (text if content is None else content)


def test_json_that_names_no_tool_is_an_answer() -> None:
    for text in (WEATHER, '{"name": "Ada", "age": 36}', "[1, 2]", "{", "", "plain"):
        assert parse_reply(text, ["other"]).content == text and not parse_reply(text, ["other"]).calls
        assert not parse_reply(text).calls


def test_ids_are_kept_and_counted_on() -> None:
    parsed = parse_reply('[TOOL_CALLS] [{"name": "a", "arguments": {}, "id": "abcdefghi"}, {"name": "b"}]', first=7)
    assert [call["id"] for call in parsed.calls] == ["abcdefghi", "call00008"]


@pytest.mark.parametrize(
    "broken", ["{'name': 'weather'}", "", "[1]", '{"name": 7}', '{"name": "a", "arguments": [1]}', "[" * 9000]
)
def test_a_broken_call_stays_in_the_text_and_is_said(broken: str) -> None:
    parsed = parse_reply(f"<tool_call>{broken}</tool_call>")
    assert not parsed.calls and broken in parsed.content
    assert "cannot be read" in parsed.notes[0] and len(parsed.notes[0]) < 200
    both = parse_reply(f"Hm <tool_call>{WEATHER}</tool_call><tool_call>{broken}</tool_call>")
    assert len(both.calls) == 1 and both.content == f"Hm\n{broken}".rstrip() and both.notes


ARGUMENTS = st.dictionaries(
    st.text(max_size=5), st.one_of(st.text(), st.integers(), st.lists(st.booleans())), max_size=3
)


@given(ARGUMENTS, st.sampled_from(["<tool_call>\n%s\n</tool_call>", "[TOOL_CALLS] [%s]", "<|python_tag|>%s"]))
def test_what_is_written_is_read(arguments: dict[str, Any], form: str) -> None:
    text = form % json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    if not any("</tool_call>" in str(value) or "[TOOL_CALLS]" in str(value) for value in arguments.items()):
        assert calls(text, "f") == [("f", arguments)]


@given(st.text("<tool_cal>/{}[]TOLCARGS_;\"': a1", max_size=60))
def test_any_text_is_read_without_a_fault(text: str) -> None:
    assert isinstance(parse_reply(text, ["a"]).content, str)


def test_templates_get_objects_where_openai_has_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call, {"name": "bare"}]}
    assert for_template([message])[0]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert call["function"]["arguments"] == '{"a": 1}'
    odd = {"role": "assistant", "tool_calls": "x"}
    assert for_template([odd, "no"]) == [odd, "no"]

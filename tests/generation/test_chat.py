"""Conversations: turns, regenerating, full contexts, calls of tools, and what was read before."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from tests.generation.chat_model import Scripted, chat_network, chat_tokenizer
from tests.tokenization.chat_samples import WEATHER

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.chat import Conversation, Reply
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.chat_format import ChatFormat

GREEDY = SamplingOptions(temperature=0, max_tokens=8)


def conversation(*answers: str, template: str = "chatml", context: int = 1024, **options: Any) -> Conversation:
    tokenizer = chat_tokenizer(template)
    model = chat_network(tokenizer, context)
    extras = {"processors": [Scripted(tokenizer, *answers)]} if answers else {}
    chosen = {"options": SamplingOptions(temperature=0, max_tokens=200), **options}
    return Conversation(model, ChatFormat(tokenizer), extras=extras, **chosen)


def whole(stream: Any) -> Reply:
    text = "".join(stream)
    assert text == stream.reply.generation.text
    reply: Reply = stream.reply
    return reply


def test_turns_are_remembered_and_only_new_tokens_read() -> None:
    chat = conversation("Hello!", "知行合一 😀", "Bye.")
    replies = [whole(chat.say(text)) for text in ("Hi", "And?", "So long")]
    assert [reply.text for reply in replies] == ["Hello!", "知行合一 😀", "Bye."]
    assert [message["content"] for message in chat.messages] == [
        "Hi",
        "Hello!",
        "And?",
        "知行合一 😀",
        "So long",
        "Bye.",
    ]
    assert replies[0].reused == 0
    for before, after in itertools.pairwise(replies):
        assert after.reused == before.generation.prompt_tokens + len(before.generation.tokens) - 1
    assert replies[0].generation.finish_reason == "stop"
    assert json.loads(json.dumps(replies[2].to_json()))["message"] == {"role": "assistant", "content": "Bye."}


def test_answers_are_those_of_a_fresh_model() -> None:
    chat = conversation(options=GREEDY)
    for text in ("Hi", "And?", "So"):
        reply = whole(chat.say(text))
        prompt = chat.format.encode(chat.messages[:-1], add_generation_prompt=True).tokens
        ends = chat.format.end_tokens()
        expected = Generator(chat.model, chat.format.tokenizer).generate(
            [prompt], SamplingOptions(temperature=0, max_tokens=8, end_tokens=ends)
        )
        assert reply.generation.tokens == expected[0].tokens


def test_the_end_of_a_turn_ends_an_answer() -> None:
    chat = conversation("One.", template="llama3-tools")
    chat.extras = {"processors": [Scripted(chat.format.tokenizer, "One.", end="<|eot_id|>")]}
    reply = whole(chat.say("?"))
    assert reply.text == "One." and reply.generation.finish_reason == "stop"
    endless = conversation(options=SamplingOptions(temperature=0, max_tokens=4, end_tokens=()))
    assert whole(endless.say("?")).generation.finish_reason == "length"


def test_undo_regenerate_and_go_on() -> None:
    chat = conversation("a", "b", "c", " and d")
    whole(chat.say("1"))
    whole(chat.say("2"))
    chat.take_back_answer()
    assert whole(chat.answer()).text == "c"
    reply = whole(chat.go_on())
    assert chat.messages[-1]["content"] == reply.message["content"] == "c and d"
    assert [message["content"] for message in chat.undo()] == ["2", "c and d"]
    assert [message["content"] for message in chat.messages] == ["1", "a"]
    chat.undo()
    for refused in (chat.undo, chat.take_back_answer, chat.answer, chat.go_on):
        with pytest.raises(BadInput):
            refused()
    assert chat.messages == []


def test_the_system_prompt_can_be_changed() -> None:
    chat = conversation("a")
    chat.system = "Be brief."
    whole(chat.say("1"))
    assert chat.system == "Be brief." and chat.messages[0]["role"] == "system"
    chat.system = "Be long."
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    chat.system = None
    assert chat.system is None and len(chat.messages) == 2


def test_stopping_keeps_what_is_there() -> None:
    chat = conversation("one two three four five six seven")
    stream = chat.say("Count")
    pieces = [next(stream) for _ in range(3)]
    text = "".join(pieces) + stream.stop()
    assert stream.reply.text == text and chat.messages[-1]["content"] == text
    assert stream.reply.generation.finish_reason == "interrupted"
    assert stream.stop() == ""


def test_an_answer_that_fails_takes_the_message_back() -> None:
    chat = conversation(template="{{ raise_exception('never') }}")
    with pytest.raises(BadInput, match="refuses these messages: never"):
        chat.say("Hi")
    assert chat.messages == []


def test_a_full_context_is_refused_or_forgotten_aloud() -> None:
    answers = ["An answer of some words."] * 12
    strict = conversation(*answers, context=120, options=SamplingOptions(temperature=0, max_tokens=16))
    with pytest.raises(BadInput, match=r"the conversation has \d+ tokens; the model's context is 120.*\n.*--forget"):
        for turn in range(12):
            whole(strict.say(f"Question number {turn}?"))
    said = len(strict.messages)
    assert strict.messages[-1]["role"] == "assistant"
    strict.forget = True
    strict.system = "Be kind."
    reply = whole(strict.say("And now?"))
    assert "no longer reads the first" in reply.notes[0] and strict.forgotten > 0
    assert len(strict.messages) == said + 3  # all is kept; only the model reads less
    prompt = strict.prompt(answer=False)
    assert "Be kind." in prompt.text and "number 0" not in prompt.text and "And now?" in prompt.text
    assert strict.messages[1 + strict.forgotten]["role"] == "user"
    again = whole(strict.say("More"))
    assert strict.forgotten > 0 and (not again.notes or "no longer" in again.notes[0])


def test_a_message_that_never_fits_is_refused_even_so() -> None:
    chat = conversation(context=64, forget=True)
    with pytest.raises(BadInput, match="the last message alone"):
        chat.say("word " * 200)
    assert chat.messages == [] and chat.forgotten == 0


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'


def test_calls_of_tools_go_out_and_results_come_back() -> None:
    chat = conversation(f"I look.\n{CALL}", "Blue.", template="qwen2.5-tools", tools=[WEATHER])
    reply = whole(chat.say("Weather?"))
    (call,) = reply.tool_calls
    assert call["function"] == {"name": "weather", "arguments": '{"city": "北京"}'} and reply.text == "I look."
    chat.messages.append({"role": "tool", "tool_call_id": call["id"], "content": "blue"})
    final = whole(chat.answer())
    assert final.text == "Blue."
    text = chat.prompt(answer=False).text
    assert f"I look.\n{CALL}" in text and "<tool_response>\nblue\n</tool_response>" in text
    assert final.reused > reply.generation.prompt_tokens  # the call is rendered as it was written


def test_a_special_token_begins_mistrals_calls() -> None:
    chat = conversation(template="mistral-tools", tools=[WEATHER])
    written = '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "a"}}]'
    chat.extras = {"processors": [Scripted(chat.format.tokenizer, written, end="</s>")]}
    reply = whole(chat.say("Weather?"))
    assert reply.tool_calls[0]["id"] == "call00001" and reply.text == ""
    assert written[:-2] in chat.prompt(answer=False).text


def test_thoughts_go_where_the_template_has_a_place_for_them() -> None:
    thought = "<think>\nhm\n</think>\n\nYes."
    message = whole(conversation(thought, template="qwen3-thinking").say("?")).message
    assert message == {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}
    assert whole(conversation(thought).say("?")).message == {"role": "assistant", "content": thought}


def test_variables_reach_the_template() -> None:
    chat = conversation("x", template="qwen3-thinking", variables={"enable_thinking": False})
    chat.messages.append({"role": "user", "content": "?"})
    assert chat.prompt().text.endswith("<think>\n\n</think>\n\n")


def test_two_answers_at_once_do_not_share_a_memory() -> None:
    chat = conversation(options=GREEDY)
    chat.messages = [{"role": "user", "content": "one"}]
    other = Conversation(chat.model, chat.format, GREEDY, [{"role": "user", "content": "two"}], memory=chat.memory)
    alone = [Conversation(chat.model, chat.format, GREEDY, list(c.messages)).reply().text for c in (chat, other)]
    first, second = chat.answer(), other.answer()
    texts = ["", ""]
    for _ in range(9):
        for place, stream in enumerate((first, second)):
            texts[place] += next(stream, "")
    assert texts == alone
    assert chat.memory is not None and not chat.memory.lock.locked()


def test_beams_answer_whole() -> None:
    chat = conversation(options=SamplingOptions(num_beams=3, max_tokens=5))
    chat.messages = [{"role": "user", "content": "?"}]
    assert chat.reply().message == chat.messages[-1]
    chat.options = SamplingOptions(n=2)
    chat.messages.append({"role": "user", "content": "!"})
    with pytest.raises(BadInput, match="one answer"):
        chat.reply()


def test_networks_without_a_key_value_cache_converse_too() -> None:
    chat = conversation(options=GREEDY)
    model = chat.model

    class Other(CausalNetwork):
        config = model.config  # type: ignore[assignment]

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def new_cache(self, batch: int, capacity: int, padding: Any = None) -> Any:
            return Wrapped(model.new_cache(batch, capacity, padding))

        def next_logits(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
            return model.next_logits(tokens, cache.inner)

    class Wrapped:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def keep(self, rows: torch.Tensor) -> None:
            self.inner.keep(rows)

        def repeat(self, times: int) -> None:
            self.inner.repeat(times)

    other = Conversation(Other(), chat.format, GREEDY)
    for text in ("Hi", "And?"):
        assert whole(other.say(text)).text == whole(chat.say(text)).text
        assert other.memory is not None and other.memory.reused == 0

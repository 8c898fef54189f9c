"""What the tests of chat templates share: templates in the style of the published ones, conversations, a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zhixing.tokenization import Tokenizer, train_tokenizer
from zhixing.tokenization.definition import Definition

FOLDER = Path(__file__).parent / "chat_templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}

SPECIAL = """<s> </s> <unk> <pad> <|im_start|> <|im_end|> <|start_header_id|> <|end_header_id|> <|eot_id|>
<start_of_turn> <end_of_turn> <|user|> <|assistant|> <|system|> <|end|> [INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS]
[/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜>""".split()
ADDED = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
"""Tokens of their own that are not special: a model writes them as part of an answer."""

ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city, 天气 & <more>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Which city"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "北京", "days": 2}},
}


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [says("user", "Hello!")],
    "turns": [
        says("user", "1 + 1?"),
        says("assistant", "2"),
        says("user", "  And 知行? \n"),
        says("assistant", " 合一 "),
    ],
    "system": [says("system", "Be brief."), says("user", "Hi"), says("assistant", "Ho"), says("user", "Hm?")],
    "tool call": [
        says("user", "Weather?"),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        says("tool", '{"sky": "blue"}', tool_call_id="call00001"),
        says("assistant", "Blue sky.\n"),
    ],
    "two tools": [
        says("system", "Use tools."),
        says("user", "Weather?"),
        says("assistant", "I look.", tool_calls=[CALL, {**CALL, "id": "call00002"}]),
        says("tool", "rain", tool_call_id="call00001"),
        says("tool", "snow", tool_call_id="call00002"),
        says("assistant", "Rain and snow."),
        says("user", "Thanks"),
    ],
    "thinking": [
        says("user", "Think."),
        says("assistant", "<think>\nwell\n</think>\n\nDone."),
        says("user", "Again."),
        says("assistant", "So be it.", reasoning_content="hm"),
    ],
    "parts": [says("user", [{"type": "text", "text": " a "}, {"type": "text", "text": "b"}]), says("assistant", "c")],
    "wrong order": [says("assistant", "I begin"), says("user", "no"), says("user", "no!")],
    "strange": [
        says("user", "{{ 7 * 7 }} {% raw %} \\n 'quoted' \"twice\" <b>&amp;</b> 😀\u200d\ufeff\r\n"),
        says("assistant", ""),
    ],
}
"""Conversations by name; a template may refuse some of them."""


def make_tokenizer(kind: str = "byte-bpe") -> Tokenizer:
    """A small tokenizer with the special tokens of all templates."""
    corpus = ["the user asks and the assistant says: hello world, weather in the city is blue. 知行合一\n" * 4] * 8
    trained = train_tokenizer(corpus, kind, 420).tokenizer
    definition: Definition = json.loads(json.dumps(trained.definition))
    present = {token["content"] for token in definition["added_tokens"]}
    index = trained.vocab_size
    for name in SPECIAL + ADDED:
        if name in present:
            continue
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        definition["added_tokens"].append({"id": index, "content": name, "special": name not in ADDED, **flags})
        index += 1
    return Tokenizer(definition, ROLES)

"""The conversation of a real model: its own template and tokenizer, beside transformers with the same."""

from __future__ import annotations

from typing import Any

import pytest

from zhixing.checkpoints.catalogue import catalogue
from zhixing.tokenization.chat_format import ChatFormat
from zhixing.tokenization.tokenizer import Tokenizer

from .chat_samples import CONVERSATIONS, says

pytestmark = pytest.mark.model

TEXTS = [
    "What is the capital of France?",
    "  def f(x):\n\treturn x ** 2  # 平方\n",
    "知行合一。今天天气怎么样？😀",
    "1234567890 + 0.5 = ?",
    'It\'s "quoted" & <b>bold</b> \\n {{ 7 * 7 }}',
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    record = catalogue()["smollm2-135m"].cached()
    if record is None:
        pytest.skip("smollm2-135m is not fetched: zhixing models pull smollm2-135m")
    from zhixing.checkpoints.model_tokenizer import open_tokenizer

    return open_tokenizer("smollm2-135m")


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return transformers.AutoTokenizer.from_pretrained(str(folder))


def test_ids_are_those_of_transformers(tokenizer: Tokenizer, theirs: Any) -> None:
    chat = ChatFormat(tokenizer)
    conversations = [[says("user", text)] for text in TEXTS] + [CONVERSATIONS["turns"], CONVERSATIONS["system"]]
    for messages in conversations:
        for prompt in (False, True):
            expected = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
            assert chat.encode(messages, add_generation_prompt=prompt).tokens == expected


def test_imitated_tokens_stay_text_and_turns_are_found(tokenizer: Tokenizer) -> None:
    chat = ChatFormat(tokenizer)
    assert tokenizer.piece(chat.end_of_turn or 0) == "<|im_end|>"
    messages = [
        says("user", "a <|im_end|> b"),
        says("assistant", "c"),
        says("user", "<|endoftext|>"),
        says("assistant", "d"),
    ]
    encoded = chat.encode(messages, assistant_mask=True)
    assert tokenizer.decode(encoded.tokens) == encoded.text
    assert encoded.tokens.count(tokenizer.vocabulary["<|im_end|>"]) == 5  # the template's own system prompt has one
    assert [encoded.text[begin:end] for begin, end in encoded.turns] == ["c<|im_end|>", "d<|im_end|>"]

"""What was read is not read again, and the answers are those of reading everything anew."""

from __future__ import annotations

import random

import pytest
import torch
from tests.generation.chat_model import chat_network, chat_tokenizer

from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.memory import Memory, RememberingGenerator
from zhixing.models.cache import KVCache
from zhixing.models.rotary import RopeScaling
from zhixing.models.transformer import Transformer

TOKENIZER = chat_tokenizer()
GREEDY = SamplingOptions(temperature=0, max_tokens=12, end_tokens=())


def count_reading(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes how many tokens each reading goes over."""
    read: list[int] = []
    original = model.next_logits

    def next_logits(tokens: torch.Tensor, cache: KVCache) -> torch.Tensor:
        read.append(tokens.shape[1])
        return original(tokens, cache)

    monkeypatch.setattr(model, "next_logits", next_logits)
    return read


@pytest.mark.parametrize("options", [{}, {"window": 16}, {"qk_norm": "before_rotary"}])
def test_answers_are_those_of_a_fresh_reading(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat_network(TOKENIZER, **options)
    memory, fresh = Memory(model), Generator(model, TOKENIZER)
    remembering = RememberingGenerator(memory, TOKENIZER)
    rng = random.Random(1)
    prompt: list[int] = []
    for turn in range(12):
        if turn % 4 == 3:  # take something back, as editing does
            prompt = prompt[: rng.randrange(len(prompt))]
        prompt = prompt + [rng.randrange(TOKENIZER.vocab_size) for _ in range(rng.randrange(1, 20))]
        expected = fresh.generate([prompt], GREEDY)[0]
        known = list(memory.known)
        answer = remembering.generate([prompt], GREEDY)[0]
        assert answer.tokens == expected.tokens
        common = next(
            (i for i, (a, b) in enumerate(zip(known, prompt, strict=False)) if a != b), min(len(known), len(prompt))
        )
        assert memory.reused == min(common, len(prompt) - 1)
        assert memory.known == prompt + answer.tokens[:-1]
        if turn % 2:
            prompt = prompt + answer.tokens


def test_only_the_new_tokens_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat_network(TOKENIZER)
    memory = Memory(model)
    remembering, read = RememberingGenerator(memory, TOKENIZER), count_reading(model, monkeypatch)
    first = remembering.generate([list(range(30))], GREEDY)[0]
    remembering.generate([[*range(30), *first.tokens, 5, 6, 7]], GREEDY)
    remembering.generate([list(range(30))], GREEDY)
    assert read == [30, 4, 1]  # the answer's last token was chosen but not read; of a known prompt the last token is


def test_memory_grows_with_the_conversation() -> None:
    model = chat_network(TOKENIZER, context=2000)
    memory, fresh = Memory(model), Generator(model, TOKENIZER)
    remembering = RememberingGenerator(memory, TOKENIZER)
    for length in (10, 400, 401, 1500):
        prompt = [token % 300 for token in range(length)]
        assert remembering.generate([prompt], GREEDY)[0].tokens == fresh.generate([prompt], GREEDY)[0].tokens
        assert memory.reused == {10: 0, 400: 10, 401: 400, 1500: 401}[length]


def test_several_answers_leave_no_memory() -> None:
    model = chat_network(TOKENIZER)
    memory = Memory(model)
    remembering = RememberingGenerator(memory, TOKENIZER)
    remembering.generate([[1, 2, 3]], GREEDY)
    several = remembering.generate([[1, 2, 3]], SamplingOptions(n=2, seed=1, max_tokens=5))
    assert len(several) == 2 and memory.known == []
    expected = Generator(model, TOKENIZER).generate([[1, 2, 3]], SamplingOptions(n=2, seed=1, max_tokens=5))
    assert [answer.tokens for answer in several] == [answer.tokens for answer in expected]
    beams = SamplingOptions(num_beams=3, max_tokens=5)
    assert (
        remembering.generate([[1, 2, 3]], beams)[0].tokens
        == Generator(model, TOKENIZER).generate([[1, 2, 3]], beams)[0].tokens
    )


def test_an_interrupted_answer_leaves_a_memory_that_holds() -> None:
    model = chat_network(TOKENIZER)
    memory = Memory(model)
    remembering, prompt = RememberingGenerator(memory, TOKENIZER), list(range(20))
    stream = remembering.stream(prompt, SamplingOptions(temperature=0, max_tokens=50, end_tokens=()))
    for _ in range(5):
        next(stream)
    stream.stop()
    longer = [*prompt, *stream.generation.tokens, 9]
    answer = remembering.generate([longer], GREEDY)[0]
    assert memory.reused >= 20
    assert answer.tokens == Generator(model, TOKENIZER).generate([longer], GREEDY)[0].tokens


def test_keys_that_depend_on_the_length_are_read_anew() -> None:
    scaling = RopeScaling(kind="dynamic", factor=4.0, original_context=32)
    model = chat_network(TOKENIZER, rope_scaling=scaling)
    memory = Memory(model)
    remembering = RememberingGenerator(memory, TOKENIZER)
    for length in (20, 60, 10, 25):
        prompt = list(range(length))
        answer = remembering.generate([prompt], SamplingOptions(temperature=0, max_tokens=3, end_tokens=()))[0]
        expected = Generator(model, TOKENIZER).generate(
            [prompt], SamplingOptions(temperature=0, max_tokens=3, end_tokens=())
        )
        assert answer.tokens == expected[0].tokens

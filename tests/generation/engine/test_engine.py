"""The engine against the plain loop, on both workers: the same answers, whatever runs beside them."""

import threading
import time

import pytest

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.engine import Engine
from zhixing.generation.engine.choice import core_choice
from zhixing.generation.engine.stream import RequestStream
from zhixing.native import library
from zhixing.native.network import NativeNetwork
from zhixing.native.runtime import KV_CACHES
from zhixing.tokenization.train import train_tokenizer

needs_core = pytest.mark.skipif(not library.is_available(), reason="the C++ core is not built")
TOKENIZER = train_tokenizer([], "byte").tokenizer


@pytest.fixture(params=["torch", pytest.param("native", marks=needs_core)])
def network(request, model):
    if request.param == "torch":
        return model
    return NativeNetwork(model, kv_cache=request.param if request.param in KV_CACHES else None)


every_cache = pytest.mark.parametrize(
    "network",
    ["torch", *(pytest.param(kv_cache, marks=needs_core) for kv_cache in KV_CACHES)],
    indirect=True,
)


@pytest.fixture
def engine(network):
    made = Engine(network, TOKENIZER, cache_tokens=1024, most=8)
    yield made
    made.close()


PROMPTS = ["Once upon a time", "x" * 150, "知行", "Once upon a time there was", "y" * 40, "Once upon a time"] * 2
SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 0.9, "top_k": 20, "seed": 3},
    {"temperature": 0.7, "top_p": 0.9, "seed": 5, "repetition_penalty": 1.2},
    {"temperature": 0.0, "no_repeat_ngram_size": 3, "logprobs": 2},
    {"temperature": 1.5, "whole_characters": True, "min_p": 0.01, "seed": 9},
]


@every_cache
def test_answers_are_those_of_one_prompt_alone(engine, network):
    cases = [
        (prompt, SamplingOptions(max_tokens=10 + 5 * (number % 4), **SETTINGS[number % 5]))
        for number, prompt in enumerate(PROMPTS)
    ]
    requests = [engine.submit(prompt, options) for prompt, options in cases]
    alone = Generator(network, TOKENIZER)
    for (prompt, options), request in zip(cases, requests, strict=True):
        expected, got = alone.generate([prompt], options)[0], request.generation()
        assert (got.text, got.tokens, got.finish_reason) == (expected.text, expected.tokens, expected.finish_reason)
        if expected.logprobs is not None:
            assert [entry.token for entry in got.logprobs] == [entry.token for entry in expected.logprobs]
            assert got.logprobs[0].logprob == pytest.approx(expected.logprobs[0].logprob, abs=1e-4)
    load = engine.load()
    assert (load.running, load.waiting, load.free) == (0, 0, load.blocks)


def test_samples_and_seeds_as_in_the_generator(engine, network):
    options = SamplingOptions(max_tokens=12, temperature=1.0, seed=11, n=3)
    expected = Generator(network, TOKENIZER).generate(["abc", "de"], options)
    got = engine.generate(["abc", "de"], options)
    assert [answer.text for answer in got] == [answer.text for answer in expected]
    assert [(a.prompt, a.sample, a.seed) for a in got] == [(a.prompt, a.sample, a.seed) for a in expected]


@every_cache
def test_preempted_answers_are_the_same(network):
    options = SamplingOptions(max_tokens=60, temperature=0.8, seed=1, end_tokens=())
    prompts = [f"{number} some prompt" for number in range(8)]
    small = Engine(network, TOKENIZER, cache_tokens=256, most=8)
    got = small.generate(prompts, options)
    assert small.load().preempted > 0
    assert small.load().free == small.load().blocks
    small.close()
    alone = Generator(network, TOKENIZER)
    assert [answer.text for answer in got] == [alone.generate([prompt], options)[0].text for prompt in prompts]


def test_an_abort_frees_at_once(engine):
    options = SamplingOptions(max_tokens=200, temperature=0.0, end_tokens=())
    stays, goes = engine.submit("a", options), engine.submit("b", options)
    next(goes)
    next(stays)
    goes.abort()
    answer = goes.generation()
    assert answer.finish_reason == "interrupted"
    assert len(answer.tokens) < 200
    assert len(stays.generation().tokens) == 200
    assert engine.load().free == engine.load().blocks


def test_streams_from_many_threads(engine, network):
    options = SamplingOptions(max_tokens=20, temperature=0.0)
    expected = {p: Generator(network, TOKENIZER).generate([p], options)[0].text for p in set(PROMPTS)}
    got: list[tuple[str, str]] = []

    def ask(prompt):
        got.append((prompt, "".join(engine.submit(prompt, options))))

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(PROMPTS)
    assert all(expected[prompt] == text for prompt, text in got)


@needs_core
@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_what_was_read_is_found_again(model, kv_cache):
    engine = Engine(NativeNetwork(model, kv_cache=kv_cache), TOKENIZER, cache_tokens=1024)
    options = SamplingOptions(max_tokens=5, temperature=0.0)
    first = engine.submit("system " * 20 + "one", options)
    cold = first.generation()
    again = engine.submit("system " * 20 + "one", options)
    assert again.generation().tokens == cold.tokens
    other = engine.submit("system " * 20 + "two", options)
    other.generation()
    assert first.reused == 0
    assert again.reused == 128
    assert other.reused == 128
    engine.close()


def test_an_error_is_told_to_its_user_alone(engine):
    def refuse(logits, context):
        raise BadInput("no")

    options = SamplingOptions(max_tokens=5, temperature=0.0)
    bad, good = engine.submit("a", options, processors=[refuse]), engine.submit("b", options)
    with pytest.raises(BadInput, match="no"):
        bad.generation()
    assert len(good.generation().tokens) == 5
    assert engine.load().free == engine.load().blocks


def test_what_cannot_be_is_refused(engine):
    with pytest.raises(BadInput, match="num_beams"):
        engine.submit("a", SamplingOptions(num_beams=3))
    small = Engine(engine.model, TOKENIZER, cache_tokens=32)
    with pytest.raises(BadInput, match="the cache holds 32"):
        small.submit("a", SamplingOptions(max_tokens=100))
    small.close()
    with pytest.raises(BadInput, match="closed"):
        small.submit("a", SamplingOptions(max_tokens=3))


def test_time_ends_answers_and_closing_ends_all(engine):
    options = {"temperature": 0.0, "end_tokens": ()}
    late = engine.submit("a", SamplingOptions(max_tokens=200, max_seconds=0.01, **options))
    assert late.generation().finish_reason in ("time", "length")
    request = engine.submit("b", SamplingOptions(max_tokens=250, **options))
    next(request)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 5
    assert request.generation().finish_reason in ("interrupted", "length")


@pytest.fixture
def slow_engine(engine, monkeypatch):
    """An engine of twenty milliseconds a step: no answer is whole before a test could stop it."""
    run = engine._worker.run

    def slow(*given):
        time.sleep(0.02)
        return run(*given)

    monkeypatch.setattr(engine._worker, "run", slow)
    return engine


def test_streams_end_where_they_are_stopped(slow_engine):
    engine = slow_engine
    options = SamplingOptions(max_tokens=200, temperature=0.0, end_tokens=())
    whole = RequestStream(engine.submit("a", SamplingOptions(max_tokens=20, temperature=0.0, end_tokens=())))
    with pytest.raises(BadInput, match="still being written"):
        _ = whole.generation
    assert "".join(whole) == whole.generation.text
    assert whole.stop() == ""
    stopped = RequestStream(engine.submit("a", options))
    shown = next(stopped)
    shown += stopped.stop()
    assert stopped.generation.finish_reason == "interrupted"
    assert shown == stopped.generation.text


def test_an_interruption_ends_a_stream_with_what_is_there(slow_engine, monkeypatch):
    stream = RequestStream(slow_engine.submit("a", SamplingOptions(max_tokens=200, temperature=0.0, end_tokens=())))
    shown, events, pressed = next(stream), stream.request._events, []

    class Interrupted:
        put = events.put

        def get(self):
            if not pressed:
                pressed.append(1)
                raise KeyboardInterrupt
            return events.get()

    monkeypatch.setattr(stream.request, "_events", Interrupted())
    shown += "".join(stream)
    assert stream.generation.finish_reason == "interrupted"
    assert shown == stream.generation.text


@needs_core
def test_what_is_forgotten_is_read_again(model):
    engine = Engine(NativeNetwork(model), TOKENIZER, cache_tokens=1024)
    options = SamplingOptions(max_tokens=3, temperature=0.0)
    for reused in (0, 32, 0):
        request = engine.submit("x" * 40, options)
        request.generation()
        assert request.reused == reused
        if reused:
            engine.forget()
    engine.close()


@needs_core
@pytest.mark.parametrize(
    ("options", "by_core"),
    [
        ({"temperature": 0.0}, True),
        ({"temperature": 0.0, "top_k": 5, "whole_characters": True, "eta_cutoff": 0.1}, True),
        ({"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "stop": ("x",), "seed": 1, "n": 2}, True),
        ({"temperature": 0.7, "whole_characters": True}, True),
        ({"typical_p": 0.9}, False),
        ({"temperature": 0.0, "logprobs": 0}, False),
        ({"temperature": 0.0, "min_tokens": 3}, False),
        ({"temperature": 0.0, "repetition_penalty": 1.1}, False),
    ],
)
def test_the_core_chooses_only_what_it_knows(options, by_core):
    assert (core_choice(SamplingOptions(**options), TOKENIZER) is not None) == by_core

"""Several steps in one call of the core: the same answers as step by step, and as the plain loop writes them."""

import threading

import pytest

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.engine import Engine, workers
from zhixing.native import library
from zhixing.native.network import NativeNetwork
from zhixing.native.steps import Steps
from zhixing.tokenization.train import train_tokenizer

pytestmark = pytest.mark.skipif(not library.is_available(), reason="the C++ core is not built")
TOKENIZER = train_tokenizer([], "byte").tokenizer
PLAIN = {"temperature": 0.0, "end_tokens": ()}


@pytest.fixture(scope="module")
def network(model):
    return NativeNetwork(model)


@pytest.fixture
def bursts(monkeypatch):
    """The numbers of steps that the core was asked for; slow machines must not make them fewer."""
    asked: list[int] = []
    write = Steps.write

    def spy(self, reading, settings, ends):
        asked.append(len(settings))
        return write(self, reading, settings, ends)

    monkeypatch.setattr(Steps, "write", spy)
    monkeypatch.setattr(workers, "MOST_SECONDS", 1e6)
    return asked


@pytest.fixture
def make(network):
    made: list[Engine] = []

    def new(**options):
        made.append(Engine(network, TOKENIZER, **{"cache_tokens": 1024, "most": 8, **options}))
        return made[-1]

    yield new
    for engine in made:
        assert engine.load().free == engine.load().blocks
        engine.close()


def answers(engine, cases):
    requests = [engine.submit(prompt, options) for prompt, options in cases]
    found = [request.generation() for request in requests]
    return [(one.text, one.tokens, one.finish_reason) for one in found]


def expect(make, network, monkeypatch, cases):
    """Compares with steps one at a time, and with the plain loop."""
    together = answers(make(), cases)
    monkeypatch.setattr(workers, "MOST_STEPS", 1)
    assert answers(make(), cases) == together
    alone = Generator(network, TOKENIZER)
    for (prompt, options), got in zip(cases, together, strict=True):
        one = alone.generate([prompt], options)[0]
        assert (one.text, one.tokens, one.finish_reason) == got


def whole(network, prompt, count, **options):
    settings = SamplingOptions(max_tokens=count, **{**PLAIN, **options})
    return Generator(network, TOKENIZER).generate([prompt], settings)[0]


def test_one_answer_grows_its_bursts(make, network, monkeypatch, bursts):
    expect(make, network, monkeypatch, [("Once upon a time", SamplingOptions(max_tokens=50, **PLAIN))])
    assert bursts[:8] == [1, 1, 2, 4, 8, 16, 16, 2]  # the first one reads the prompt


def test_drawn_answers(make, network, monkeypatch, bursts):
    settings = [
        {"temperature": 0.9, "top_k": 20, "seed": 3}, {"temperature": 0.7, "top_p": 0.9, "seed": 5},
        {"temperature": 1.2, "min_p": 0.02, "seed": 9}, {"temperature": 1.0, "seed": 1},
    ]  # fmt: skip
    for setting in settings:
        with monkeypatch.context() as once:
            expect(make, network, once, [("abc", SamplingOptions(max_tokens=60, end_tokens=(), **setting))])
    assert bursts.count(16) >= len(settings)


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.9, "seed": 4}])
def test_an_end_token_within_a_burst(make, network, monkeypatch, bursts, setting):
    tokens = whole(network, "x y", 40, **setting).tokens
    end = next(token for place, token in enumerate(tokens) if place >= 9 and token not in tokens[:place])
    options = SamplingOptions(max_tokens=40, **{**PLAIN, **setting, "end_tokens": (end,)})
    expect(make, network, monkeypatch, [("x y", options)])
    assert max(bursts) > 4


@pytest.mark.parametrize("first", range(7, 18))
def test_stop_texts_across_the_borders_of_bursts(make, network, monkeypatch, bursts, first):
    text = whole(network, "Once", 40).text
    stop = text[first : first + 3]
    options = SamplingOptions(max_tokens=40, stop=(stop,), **PLAIN)
    expect(make, network, monkeypatch, [("Once", options)])
    engine = make()
    pieces = list(engine.submit("Once", options))
    assert "".join(pieces) == text[: text.index(stop)]


def test_many_answers_that_end_at_different_times(make, network, monkeypatch, bursts):
    first = whole(network, "a0", 30).tokens
    cases = []
    for number in range(6):
        drawn = {"temperature": 0.8, "seed": number} if number % 2 else {"temperature": 0.0}
        ends = (first[12],) if number % 3 == 0 else (first[20],)
        cases.append((f"a{number}", SamplingOptions(max_tokens=20 + 7 * number, end_tokens=ends, **drawn)))
    expect(make, network, monkeypatch, cases)
    assert max(bursts) > 2


def test_answers_that_need_python_between_their_tokens_go_step_by_step(make, network, monkeypatch, bursts):
    cases = [
        ("a", SamplingOptions(max_tokens=20, repetition_penalty=1.2, **PLAIN)),
        ("b", SamplingOptions(max_tokens=30, **PLAIN)),
        ("c", SamplingOptions(max_tokens=20, temperature=1.4, whole_characters=True, seed=2, end_tokens=())),
    ]
    expect(make, network, monkeypatch, cases)
    seen: list[int] = []

    def rule(progress):
        seen.append(len(progress.tokens))
        return "enough" if len(progress.tokens) == 11 else None

    bursts.clear()
    monkeypatch.setattr(workers, "MOST_STEPS", 16)
    request = make().submit("a", SamplingOptions(max_tokens=40, **PLAIN), rules=[rule])
    assert (request.generation().finish_reason, seen) == ("enough", list(range(1, 12)))
    assert set(bursts) == {1}


def test_bursts_take_no_block_from_others(make, network, monkeypatch, bursts):
    options = SamplingOptions(max_tokens=60, **PLAIN)
    prompts = [f"{number} some prompt" for number in range(6)]
    engine = make(cache_tokens=192)  # fewer than all need: some must wait, some are preempted
    got = engine.generate(prompts, options)
    assert engine.load().preempted > 0
    assert [answer.tokens for answer in got] == [whole(network, prompt, 60).tokens for prompt in prompts]
    assert max(bursts) > 1


def test_an_abort_during_bursts_leaves_what_was_written(make, network, bursts):
    engine = make()
    expected = whole(network, "a", 200)
    goes = engine.submit("a", SamplingOptions(max_tokens=200, **PLAIN))
    shown = next(goes) + next(goes)
    goes.abort()
    answer = goes.generation()
    shown += "".join(goes)
    assert answer.finish_reason in ("interrupted", "length")  # the machine may be fast
    assert answer.tokens == expected.tokens[: len(answer.tokens)]
    assert shown == answer.text
    assert engine.load().running == 0


def test_what_bursts_have_read_is_found_again(make, network, bursts):
    engine = make()
    answer = engine.submit("abc", SamplingOptions(max_tokens=60, **PLAIN)).generation()
    again = engine.submit([*TOKENIZER.encode("abc"), *answer.tokens], SamplingOptions(max_tokens=20, **PLAIN))
    assert again.generation().tokens == whole(network, "abc", 80).tokens[60:]
    assert again.reused == 48


def test_logits_that_are_no_numbers_end_their_answer_alone(make, network, bursts, monkeypatch):
    write = Steps.write
    submitted = threading.Event()  # a fast worker would be done with the first before the second comes

    def broken(self, reading, settings, ends):
        submitted.wait(60)
        chosen = write(self, reading, settings, ends)
        if len(chosen) >= 4 and len(chosen[0]) == 2:
            chosen[2][0] = -1
        return chosen

    monkeypatch.setattr(Steps, "write", broken)
    engine = make()
    options = SamplingOptions(max_tokens=40, **PLAIN)
    requests = [engine.submit(prompt, options) for prompt in ("a", "b")]
    submitted.set()
    with pytest.raises(BadInput, match="not numbers"):
        requests[0].generation()
    assert requests[1].generation().tokens == whole(network, "b", 40).tokens

"""Sampling against transformers' warpers, against the distribution it must have, and batch against one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.generation.filters import Temperature, TopK, TopP, filters_for
from zhixing.generation.options import SamplingOptions
from zhixing.generation.penalties import RepetitionPenalty
from zhixing.generation.published import options_from_config
from zhixing.generation.sampling import Candidates, Context, Sampler, draw
from zhixing.generation.sequence import sequence_random

transformers = pytest.importorskip("transformers")
VOCAB = 1000


def context(tokens: torch.Tensor, padding: list[int] | None = None) -> Context:
    return Context(tokens, torch.tensor(padding or [0] * len(tokens)), tokens.shape[1])


@pytest.mark.parametrize("k", [1, 7, 1000, 5000])
def test_top_k_is_that_of_transformers(k):
    logits = torch.randn(4, VOCAB)
    expected = transformers.TopKLogitsWarper(top_k=k)(None, logits)
    torch.testing.assert_close(TopK(k)(Candidates(logits)).scattered(VOCAB), expected)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("probe", [4, 64, 1000])
@pytest.mark.parametrize("spread", [0.1, 5.0])
def test_top_p_is_that_of_transformers(p, probe, spread):
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1)) * spread
    expected = transformers.TopPLogitsWarper(top_p=p)(None, logits)
    torch.testing.assert_close(TopP(p, probe)(Candidates(logits)).scattered(VOCAB), expected)


def test_the_chain_is_that_of_transformers():
    logits = torch.randn(3, VOCAB) * 3
    expected = logits
    for warper in (
        transformers.TemperatureLogitsWarper(0.7),
        transformers.TopKLogitsWarper(40),
        transformers.TopPLogitsWarper(0.8),
    ):
        expected = warper(None, expected)
    candidates = Candidates(logits)
    for narrow in filters_for(SamplingOptions(temperature=0.7, top_k=40, top_p=0.8)):
        candidates = narrow(candidates)
    assert candidates.logits.shape[1] == 40
    torch.testing.assert_close(candidates.scattered(VOCAB), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty):
    logits, tokens = torch.randn(3, VOCAB), torch.randint(0, VOCAB, (3, 30))
    expected = transformers.RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits.clone())
    torch.testing.assert_close(RepetitionPenalty(penalty)(logits, context(tokens)), expected)


def test_repetition_penalty_leaves_padding_out():
    logits, tokens = torch.ones(1, 5), torch.tensor([[0, 0, 3, 3, 2]])
    assert RepetitionPenalty(2.0)(logits, context(tokens, [2])).tolist() == [[1, 1, 0.5, 0.5, 1]]


def test_draw_at_the_borders():
    logits = torch.log(torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]))
    candidates = Candidates(logits)
    for uniform, token in ((0.0, 1), (0.2499, 1), (0.2501, 3), (0.7499, 3), (0.7501, 4), (1 - 2**-53, 4)):
        assert draw(candidates, [uniform]).tolist() == [token], uniform


def test_a_sequence_draws_the_same_alone_and_in_a_batch():
    logits = torch.randn(5, 300)
    sampler = Sampler((), filters_for(SamplingOptions(top_p=0.9, temperature=1.5)))
    history = torch.zeros(5, 1, dtype=torch.long)
    together = sampler(logits, context(history), [sequence_random(row, 0) for row in range(5)])
    for row in range(5):
        alone = sampler(logits[row : row + 1], context(history[:1]), [sequence_random(row, 0)])
        assert alone.item() == together[row].item()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    st.integers(1, 50),
    st.floats(0.01, 1),
    st.floats(0.05, 5),
    st.floats(0, 1, exclude_max=True),
)
def test_what_is_drawn_was_never_excluded(values, k, p, temperature, uniform):
    logits = torch.tensor([values])
    candidates = Temperature(temperature)(TopK(k)(Candidates(logits)))
    narrowed = TopP(p)(candidates)
    token = draw(narrowed, [uniform]).item()
    assert narrowed.scattered(len(values))[0, token] > float("-inf")
    assert sum(value > values[token] for value in values) < k


def test_greedy_takes_the_likeliest_and_uses_no_random_numbers():
    generator = sequence_random(1, 0)
    before = generator.getstate()
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert Sampler(greedy=True)(logits, context(torch.zeros(1, 1, dtype=torch.long)), [generator]).item() == 1
    assert generator.getstate() == before


def test_custom_processor_and_filter_are_small_classes():
    class Forbid:
        def __call__(self, logits, context):
            return logits.index_fill(1, torch.tensor([1]), float("-inf"))

    class SecondBest:
        def __call__(self, candidates):
            best = candidates.best(2)
            return Candidates(best.logits[:, 1:], best.tokens[:, 1:], True)

    logits, history = torch.tensor([[0.0, 3.0, 1.0]]), context(torch.zeros(1, 1, dtype=torch.long))
    assert Sampler([Forbid()], greedy=True)(logits, history, [sequence_random(0, 0)]).item() == 2
    assert Sampler([Forbid()], [SecondBest()])(logits, history, [sequence_random(0, 0)]).item() == 0


@pytest.mark.parametrize(
    ("option", "value", "range_"),
    [
        ("temperature", -0.1, "0 (greedy) to 100"),
        ("temperature", float("nan"), "0 (greedy) to 100"),
        ("temperature", "hot", "0 (greedy) to 100"),
        ("top_k", 0, "at least 1"),
        ("top_k", 2.5, "at least 1"),
        ("top_p", 0, "above 0, up to 1"),
        ("top_p", 1.5, "above 0, up to 1"),
        ("repetition_penalty", 0, "above 0"),
        ("max_tokens", 0, "at least 1"),
        ("max_tokens", True, "at least 1"),
        ("n", -1, "at least 1"),
        ("seed", 1.5, "whole number"),
        ("logprobs", -1, "0 or more"),
        ("stop", "", "none of them empty"),
        ("stop", ["a", ""], "none of them empty"),
        ("end_tokens", [-1], "0 or more"),
        ("sliding", 1, "true or false"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_range(option, value, range_):
    with pytest.raises(BadInput) as caught:
        SamplingOptions(**{option: value})
    message = str(caught.value)
    assert option in message and range_ in message


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'temperature'"):
        SamplingOptions().replace(temprature=1)


def test_a_published_generation_config_is_read():
    values = {
        "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [3, 4], "pad_token_id": 3,
        "max_new_tokens": 99, "transformers_version": "4.0", "num_beams": 1, "token_healing": True,
    }  # fmt: skip
    options, notes = options_from_config(values, "generation_config.json")
    assert options == SamplingOptions(temperature=0.6, top_k=20, top_p=0.95, end_tokens=(3, 4), max_tokens=99)
    assert len(notes) == 1 and "token_healing = True" in notes[0]
    assert options_from_config({"eos_token_id": 7, "top_k": 0}, "x")[0] == SamplingOptions(end_tokens=(7,))

"""The best of several draws: which are returned, in which order, and by whose judgement."""

import pytest
from oracle import models

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions

pytest.importorskip("transformers")
PROMPTS = [[5, 4, 22], [0]]
DRAWN = SamplingOptions(n=12, seed=6, max_tokens=8, end_tokens=(7, 31), logprobs=0)


def test_the_likeliest_by_mean_come_first():
    generator = Generator(models()[1], None)
    every = generator.generate(PROMPTS, DRAWN)
    best = generator.generate(PROMPTS, DRAWN.replace(n=3, best_of=12, logprobs=None))
    for prompt in range(2):
        means = {
            answer.sample: sum(entry.logprob for entry in answer.logprobs) / len(answer.tokens)
            for answer in every
            if answer.prompt == prompt
        }
        ranking = sorted(means, key=lambda sample: -means[sample])[:3]
        chosen = [answer for answer in best if answer.prompt == prompt]
        assert [answer.sample for answer in chosen] == ranking
        assert [answer.score for answer in chosen] == pytest.approx([means[sample] for sample in ranking])
        assert all(answer.logprobs is None for answer in chosen)
        assert [answer.tokens for answer in chosen] == [every[prompt * 12 + sample].tokens for sample in ranking]


def test_a_scorer_of_ones_own():
    generator = Generator(models()[1], None, scorer=lambda answer: -answer.tokens[0])
    best = generator.generate(PROMPTS, DRAWN.replace(n=1, best_of=12))
    every = Generator(models()[1], None).generate(PROMPTS, DRAWN)
    for prompt, answer in enumerate(best):
        lowest = min(other.tokens[0] for other in every if other.prompt == prompt)
        assert answer.tokens[0] == lowest == -answer.score


@pytest.mark.parametrize("score", [None, float("nan"), "good"])
def test_a_scorer_that_gives_no_number_is_named(score):
    with pytest.raises(BadInput, match="must give a number for every answer, it gave"):
        Generator(models()[1], None, scorer=lambda answer: score).generate([[1]], DRAWN.replace(n=1, best_of=2))


def test_contradictions_are_refused():
    with pytest.raises(BadInput, match="a scorer chooses among several answers"):
        Generator(models()[1], None, scorer=len).generate([[1]], DRAWN)
    with pytest.raises(BadInput, match="of best_of = 2 answers, n = 3 cannot be returned"):
        SamplingOptions(n=3, best_of=2)
    with pytest.raises(BadInput, match="best_of = 2 greedy answers would all be the same"):
        SamplingOptions(best_of=2, temperature=0)
    with pytest.raises(BadInput, match="got best_of = 2"):
        Generator(models()[1], None).stream([1], SamplingOptions(best_of=2))

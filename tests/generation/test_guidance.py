"""Guidance: transformers' classifier-free guidance, its formula under every strategy, and rewards of tokens."""

import pytest
import torch
from oracle import VOCAB, models, their_tokens

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, RewardGuidance, SamplingOptions
from zhixing.tokenization.train import train_tokenizer

transformers = pytest.importorskip("transformers")
PROMPTS = [[5, 4, 22, 3, 9, 5, 9], [0], [9, 5], [1, 30, 4, 17, 2]]
GREEDY = SamplingOptions(temperature=0, max_tokens=12, end_tokens=())


def logits(tokens):
    with torch.no_grad():
        return models()[1](torch.tensor([tokens]))[0, -1]


@pytest.mark.parametrize("scale", [2.5, 0.5, -1.0])
@pytest.mark.parametrize("negative", [None, [8, 6, 33]])
@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.6, "no_repeat_ngram_size": 2}])
def test_greedy_tokens_are_those_of_transformers(scale, negative, more):
    ids = torch.tensor([negative]) if negative else None
    together = Generator(models()[1], None).generate(
        PROMPTS, GREEDY.replace(guidance_scale=scale, **({"negative_prompt": negative} if negative else {}), **more)
    )
    for prompt, answer in zip(PROMPTS, together, strict=True):
        assert (
            answer.tokens
            == their_tokens(prompt, 12, guidance_scale=scale, negative_prompt_ids=ids, **more)[0][0].tolist()
        )


def guided(prompt, negative, tokens, scale):
    away = logits([*negative, *tokens]).log_softmax(-1)
    return away + scale * (logits([*prompt, *tokens]).log_softmax(-1) - away)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "n": 3, "temperature": 1.0},
        {"n": 3, "seed": 4, "temperature": 0.8, "top_p": 0.9},
        {"best_of": 3, "n": 1, "seed": 4, "temperature": 0.8},
    ],
)
def test_every_strategy_reads_the_negative_prompt_along(options):
    """The chosen tokens are as likely as the formula says: the two memories stay together in every new order."""
    seen = []

    class Watch:
        def __call__(self, scores, context):
            for row, padding, score in zip(context.tokens.tolist(), context.padding.tolist(), scores, strict=True):
                prompt, tokens = row[padding : context.prompt], row[context.prompt :]
                seen.append((guided(prompt, [8, 6], tokens, 1.7) - score).abs().max().item())
            return scores

    generator = Generator(models()[1], None, processors=[Watch()])
    chosen = SamplingOptions(max_tokens=5, end_tokens=(7, 31), guidance_scale=1.7, negative_prompt=[8, 6])
    generator.generate(PROMPTS, chosen.replace(**options))
    assert len(seen) > 30
    assert max(seen) < 1e-3


def test_logprobs_stay_the_models_own():
    answer = Generator(models()[1], None).generate([[9, 5]], GREEDY.replace(guidance_scale=3.0, logprobs=0))[0]
    assert answer.logprobs[0].logprob == pytest.approx(
        logits([9, 5]).log_softmax(-1)[answer.tokens[0]].item(), abs=1e-4
    )


def test_the_negative_prompt_counts_against_the_context():
    options = GREEDY.replace(max_tokens=99, guidance_scale=2.0, negative_prompt=list(range(30)))
    assert len(Generator(models()[1], None).generate([[1]], options)[0].tokens) == 64 - 30
    with pytest.raises(BadInput, match="negative_prompt: the prompt has 64 tokens"):
        Generator(models()[1], None).generate([[1]], options.replace(negative_prompt=[1] * 64))
    with pytest.raises(BadInput, match="no effect without guidance"):
        GREEDY.replace(negative_prompt="not this")


def test_rewards_lead_among_the_likeliest():
    """By definition: log-probability and weighted reward, among the four likeliest."""
    worth = torch.randn(VOCAB, generator=torch.Generator().manual_seed(2)).tolist()

    def reward(beginnings):
        return [
            sum(worth[token] for token in beginning.tokens) + 0.1 * len(beginning.prompt) for beginning in beginnings
        ]

    generator = Generator(models()[1], None, processors=[RewardGuidance(reward, weight=2.0, count=4)])
    for prompt, answer in zip(PROMPTS, generator.generate(PROMPTS, GREEDY.replace(max_tokens=6)), strict=True):
        tokens = []
        for _ in range(6):
            likely = logits([*prompt, *tokens]).log_softmax(-1).topk(4)
            pairs = zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
            tokens.append(max((value + 2.0 * worth[token], token) for value, token in pairs)[1])
        assert answer.tokens == tokens


def test_rewards_see_the_text():
    tokenizer = train_tokenizer([], "byte")[0]
    model = models(tokenizer.vocab_size)[1]
    texts = []

    def vowels(beginnings):
        texts.extend(beginning.text for beginning in beginnings)
        return [sum(letter in "aeiou" for letter in beginning.text) for beginning in beginnings]

    guidance = RewardGuidance(vowels, weight=50.0, count=tokenizer.vocab_size, tokenizer=tokenizer)
    answer = Generator(model, tokenizer, processors=[guidance]).generate(["b"], GREEDY.replace(max_tokens=4))[0]
    assert set(answer.text) <= set("aeiou")
    assert len(answer.text) == 4
    assert answer.text in texts


@pytest.mark.parametrize("returned", [[1.0], [float("nan")] * 10])
def test_a_reward_that_gives_no_numbers_is_named(returned):
    guidance = RewardGuidance(lambda beginnings: returned)
    with pytest.raises(BadInput, match="must give 10 numbers for as many beginnings"):
        Generator(models()[1], None, processors=[guidance]).generate([[1]], GREEDY)

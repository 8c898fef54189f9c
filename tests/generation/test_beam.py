"""Beam search: sequences and scores of `transformers`, diverse groups against plain Python, batches as one by one."""

import itertools
import math
import random

import pytest
import torch
from oracle import VOCAB, models, their_tokens

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.rows import NetworkRows, padded
from zhixing.models.cache import KVCache
from zhixing.models.network import UNBOUNDED
from zhixing.tokenization.train import train_tokenizer

transformers = pytest.importorskip("transformers")
PROMPTS = [[5, 4, 22, 3, 9, 5, 9], [0], [9, 5], [1, 30, 4, 17, 2]]
ENDS = (7, 31, 12, 20, 35, 4)  # often enough among the likeliest

CASES = {
    "plain": {},
    "two beams": {"num_beams": 2},
    "many beams": {"num_beams": 9},
    "early": {"early_stopping": True},
    "never": {"early_stopping": "never"},
    "short": {"length_penalty": -1.5},
    "short, never": {"length_penalty": -1.5, "early_stopping": "never"},
    "long": {"length_penalty": 2.5},
    "long, early": {"length_penalty": 2.5, "early_stopping": True},
    "long, never": {"length_penalty": 2.5, "early_stopping": "never"},
    "no penalty, never": {"length_penalty": 0.0, "early_stopping": "never"},
    "processors": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "suppress_tokens": [3, 9]},
    "normalised": {"repetition_penalty": 1.4, "suppress_tokens": [3, 9], "renormalize_logits": True},
    "forced end": {"forced_eos_token_id": 12},
}  # fmt: skip


def ours(prompts, ends=ENDS, **options):
    options = {"num_beams": 4, "max_tokens": 12, **options}
    return Generator(models()[1], None).generate(prompts, SamplingOptions(end_tokens=ends, **options))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ends", [ENDS[:1], ENDS, ()])
def test_sequences_and_scores_are_those_of_transformers(name, ends):
    options = {"num_beams": 4, **CASES[name]}
    count = options["num_beams"]
    if not ends and "forced_eos_token_id" in options:
        options.pop("forced_eos_token_id")
    for prompt in PROMPTS[:2]:
        tokens, result = their_tokens(
            prompt, 12, eos_token_id=list(ends) or None, num_return_sequences=count, **options
        )
        answers = ours([prompt], ends, n=count, **options)
        assert len(answers) == count
        for answer, expected, score in zip(answers, tokens.tolist(), result.sequences_scores.tolist(), strict=True):
            assert answer.tokens == expected[: len(answer.tokens)]
            assert set(expected[len(answer.tokens) :]) <= {0, *ends[:1]}
            assert answer.score == pytest.approx(score, abs=1e-4, rel=1e-6)
        assert [answer.sample for answer in answers] == list(range(count))


@pytest.mark.parametrize("name", [*CASES, "groups", "drawn"])
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(name):
    options = {"num_beams": 4, "n": 2, "seed": 5, **CASES.get(name, {})}
    if name == "groups":
        options |= {"num_beam_groups": 2, "diversity_penalty": 0.7}
    if name == "drawn":
        options |= {"beam_sampling": True, "temperature": 0.7, "top_k": 20}
    together = ours(PROMPTS, **options)
    alone = [answer for prompt in PROMPTS for answer in ours([prompt], **options)]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert [answer.score for answer in together] == pytest.approx([answer.score for answer in alone], abs=1e-4)
    assert [answer.prompt for answer in together] == [0, 0, 1, 1, 2, 2, 3, 3]


def logprobs(tokens):
    with torch.no_grad():
        return models()[1](torch.tensor([tokens]))[0, -1].log_softmax(-1).tolist()


def by_definition(prompt, width, groups, penalty, length_penalty, longest, ends):
    """Diverse beam search as plainly as it can be said; early_stopping True, so that a full group takes no more."""
    running = [[(0.0, [])] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    for _ in range(longest):
        taken = []
        for group in range(groups):
            if len(finished[group]) == width:
                continue
            options = []
            for score, tokens in running[group]:
                for token, logprob in enumerate(logprobs(prompt + tokens)):
                    options.append((score + logprob - penalty * taken.count(token), [*tokens, token]))
            options.sort(key=lambda option: -option[0])
            running[group] = []
            for rank, (score, tokens) in enumerate(options):
                over = tokens[-1] in ends or len(tokens) == longest
                if over and rank < width:
                    finished[group].append((score / len(tokens) ** length_penalty, tokens))
                if not over and len(running[group]) < width:
                    running[group].append((score, tokens))
            finished[group] = sorted(finished[group], key=lambda pair: -pair[0])[:width]
            taken += [tokens[-1] for _, tokens in running[group]] if len(finished[group]) < width else []
    return sorted(itertools.chain(*finished), key=lambda pair: -pair[0])


@pytest.mark.parametrize("penalty", [0.3, 2.0])
@pytest.mark.parametrize(("beams", "groups"), [(4, 2), (3, 3), (6, 2), (4, 1)])
def test_diverse_groups_are_those_of_the_definition(penalty, beams, groups):
    for prompt in PROMPTS[:2]:
        expected = by_definition(prompt, beams // groups, groups, penalty, 0.8, 6, ENDS)
        answers = ours(
            [prompt], num_beams=beams, num_beam_groups=groups, diversity_penalty=penalty, length_penalty=0.8,
            early_stopping=True, max_tokens=6, n=beams,
        )  # fmt: skip
        assert [answer.tokens for answer in answers] == [tokens for _, tokens in expected]
        assert [answer.score for answer in answers] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_enough_beams_find_the_best_of_all_answers():
    """With as many beams as there are beginnings, nothing is overlooked."""
    one, two = logprobs(PROMPTS[2]), [logprobs([*PROMPTS[2], token]) for token in range(VOCAB)]
    every = {(a, b): one[a] + two[a][b] for a, b in itertools.product(range(VOCAB), repeat=2)}
    best = sorted(every, key=lambda pair: -every[pair])[:VOCAB]
    answers = ours([PROMPTS[2]], (), num_beams=VOCAB, n=VOCAB, max_tokens=2, length_penalty=0.0)
    assert [tuple(answer.tokens) for answer in answers] == best
    assert answers[0].score == pytest.approx(every[best[0]], abs=1e-4)


def test_drawn_beams_follow_the_distribution(monkeypatch):
    """With one step, the first beam is a draw of one token; the chi-square is at 0.9999 of the quantile."""
    seeds = random.Random(4)
    monkeypatch.setattr(random, "SystemRandom", lambda: seeds)  # every prompt draws a seed of its own
    draws, options = 10_000, {"num_beams": 2, "beam_sampling": True, "max_tokens": 1, "temperature": 0.6, "top_k": 6}
    shares = torch.tensor(logprobs([9, 5]))
    shares = (shares.topk(6).values / 0.6).softmax(0)
    pairs = {}
    for _ in range(draws // 250):
        found = ours([[9, 5]] * 250, (), n=2, **options)
        for one, two in zip(found[::2], found[1::2], strict=True):
            pair = (one.tokens[0], two.tokens[0])
            pairs[pair] = pairs.get(pair, 0) + 1
    tokens = torch.tensor(logprobs([9, 5])).topk(6).indices.tolist()
    statistic = 0.0
    for a, b in itertools.combinations(range(6), 2):  # without replacement, in either order
        share = (shares[a] * shares[b] / (1 - shares[a]) + shares[a] * shares[b] / (1 - shares[b])).item()
        statistic += (pairs.get((tokens[a], tokens[b]), 0) - draws * share) ** 2 / (draws * share)
    assert torch.special.gammaincc(torch.tensor(14 / 2), torch.tensor(statistic / 2)) > 1e-4  # 15 pairs
    assert sum(pairs.values()) == draws


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["abab cdcd 知行 " * 4], "byte")[0]


@pytest.mark.parametrize("stop", ["a", "行", "zz"])
def test_stop_texts_end_beams_wherever_the_borders_are(tokenizer, stop):
    model = models(tokenizer.vocab_size)[1]
    options = SamplingOptions(num_beams=3, n=3, max_tokens=9, stop=(stop,), end_tokens=())
    generator = Generator(model, tokenizer)
    spelled = tuple(tokenizer.encode(stop))
    bias = {spelled[:end]: 6.0 for end in range(1, len(spelled) + 1)}
    answers = generator.generate(["知 ab"], options.replace(logit_bias=bias))
    assert any(answer.finish_reason == "stop" for answer in answers)
    for answer in answers:
        assert stop not in answer.text
        whole = tokenizer.decode(answer.tokens)
        assert whole == answer.text + (stop if answer.finish_reason == "stop" else "")


def test_a_full_context_ends_the_search():
    answers = ours([PROMPTS[0], [1]], (), max_tokens=500, n=2)
    assert [len(answer.tokens) for answer in answers] == [57, 57, 63, 63]
    assert "context of 64 tokens is full" in answers[0].detail


def test_logprobs_are_the_models_own():
    for options in ({}, {"num_beam_groups": 2, "diversity_penalty": 0.5}):
        for answer in ours(PROMPTS[:2], n=3, logprobs=2, repetition_penalty=1.5, **options):
            tokens = list(PROMPTS[answer.prompt])
            assert len(answer.logprobs) == len(answer.tokens)
            for entry in answer.logprobs:
                own = logprobs(tokens)
                assert entry.logprob == pytest.approx(own[entry.token], abs=1e-4)
                assert [token for token, _ in entry.top] == sorted(range(VOCAB), key=lambda t: -own[t])[:2]
                tokens.append(entry.token)
            assert tokens[len(PROMPTS[answer.prompt]) :] == answer.tokens


def test_time_and_interruption_give_the_best_so_far():
    hurried = ours(PROMPTS, (), n=2, max_seconds=1e-6)
    assert {(answer.finish_reason, len(answer.tokens)) for answer in hurried} == {("time", 1)}

    class Interrupt:
        def __call__(self, progress):
            if len(progress.tokens) == 4:
                raise KeyboardInterrupt

    generator = Generator(models()[1], None, rules=[Interrupt()])
    answers = generator.generate(PROMPTS, SamplingOptions(num_beams=3, n=3, end_tokens=()))
    assert len(answers) == 12
    assert {(answer.finish_reason, len(answer.tokens)) for answer in answers} == {("interrupted", 3)}
    assert all(math.isfinite(answer.score) for answer in answers)


def test_a_search_that_finds_too_few_says_so():
    answers = ours([[1]], (), num_beams=5, n=5, max_tokens=1, suppress_tokens=list(range(3, VOCAB)))
    assert len(answers) == 3
    assert "found only 3 of the 5" in answers[0].notes[0]


def test_the_cache_is_reordered_in_place(monkeypatch):
    """It grows once, and the step that reads it is not made anew for every token."""
    calls = []
    for name in ("repeat", "keep"):
        original = getattr(KVCache, name)
        monkeypatch.setattr(KVCache, name, lambda *given, f=original, name=name: calls.append(name) or f(*given))
    ours(PROMPTS[:2], (), num_beams=3, max_tokens=8)
    assert calls == ["repeat"]


def test_rows_in_any_order_and_number_are_those_of_reading_anew():
    model = models()[1]
    for orders in ([[0, 1, 2], [2, 2, 1]], [[2, 0, 0, 1, 1, 1], [5, 4, 0]], [[1, 1], [0, 1, 1, 0, 1]], [[0]]):
        texts = [[5, 4, 22], [7], [1, 30]]
        rows = NetworkRows(model, texts, 8)
        for order in orders:
            rows.keep(torch.tensor(order))
            texts = [[*texts[row], token] for token, row in enumerate(order)]
            rows.feed(torch.arange(len(order)))
            for row, text in enumerate(texts):
                torch.testing.assert_close(rows.logits[row], model(torch.tensor([text]))[0, -1], atol=1e-4, rtol=1e-4)


def test_any_network_that_has_rows_is_searched():
    """A step function of its own, without cache or Transformer: a table of bigrams."""
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))

    class Bigrams:
        def __init__(self, prompts):
            tokens, _ = padded(prompts, torch.device("cpu"))
            self.logits = table[tokens[:, -1]]

        def feed(self, tokens):
            self.logits = table[tokens]

        def keep(self, rows):
            pass  # it remembers nothing

    class Searching(Generator):
        def read(self, prompts, room):
            return Bigrams(prompts)

    class Sizes(torch.nn.Module):
        device = torch.device("cpu")

        class config:  # noqa: N801
            vocab_size, context = 6, UNBOUNDED

    options = SamplingOptions(num_beams=36, max_tokens=3, end_tokens=(), length_penalty=0.0)
    answer = Searching(Sizes(), None).generate([[2]], options)[0]
    scores = table.log_softmax(-1)
    every = itertools.product(range(6), repeat=3)
    best = max(every, key=lambda way: (scores[2, way[0]] + scores[way[0], way[1]] + scores[way[1], way[2]]).item())
    assert answer.tokens == list(best)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "n": 3}, "num_beams = 2 has no 3 best answers"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "cannot be shared out evenly"),
        ({"num_beams": 4, "num_beam_groups": 2}, "without a diversity_penalty"),
        ({"num_beams": 4, "best_of": 2}, "best_of = 2 draws answers"),
        ({"num_beams": 4, "sliding": True}, "sliding context does not go with num_beams = 4"),
        ({"num_beams": 4, "penalty_alpha": 0.5, "top_k": 4}, "contradict"),
        ({"num_beams": 4, "early_stopping": "soon"}, "true, false or 'never'"),
        ({"num_beams": 4, "temperature": 0.7}, "temperature = 0.7 has no effect on beam search"),
        ({"num_beams": 4, "top_p": 0.7}, "top_p = 0.7 has no effect on beam search"),
        ({"length_penalty": 2.0}, "length_penalty = 2.0 has no effect without beam search"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        SamplingOptions().replace(**options)


def test_beams_are_not_streamed():
    with pytest.raises(BadInput, match="got num_beams = 4"):
        Generator(models()[1], None).stream([1], SamplingOptions(num_beams=4))

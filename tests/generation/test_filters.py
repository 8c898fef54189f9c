"""Filters: the supports and probabilities of `transformers`' warpers, alone and in chains; draws that follow them."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import models

from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.filters import TopNSigma, filters_for
from zhixing.generation.sampling import Candidates

transformers = pytest.importorskip("transformers")
VOCAB = 500


def warpers(options: SamplingOptions) -> list:
    """Returns what `transformers` makes of the same options, by its own builder."""
    config = transformers.GenerationConfig(
        do_sample=True, temperature=options.temperature, top_k=options.top_k or 0, top_p=options.top_p,
        min_p=options.min_p or None, typical_p=options.typical_p, top_h=options.top_h,
        epsilon_cutoff=options.epsilon_cutoff, eta_cutoff=options.eta_cutoff,
    )  # fmt: skip
    config._eos_token_tensor = None
    return models()[0]._get_logits_processor(config, input_ids_seq_length=1)


def expected(logits: torch.Tensor, options: SamplingOptions) -> torch.Tensor:
    if options.top_n_sigma is not None:  # not in transformers: by its definition
        low = logits.max(-1, keepdim=True)[0] - options.top_n_sigma * logits.std(-1, keepdim=True, correction=0)
        logits = torch.where(logits < low, float("-inf"), logits)
    for warp in warpers(options):
        logits = warp(torch.zeros(len(logits), 1, dtype=torch.long), logits)
    return logits


def ours(logits: torch.Tensor, options: SamplingOptions) -> torch.Tensor:
    candidates = Candidates(logits)
    for narrow in filters_for(options):
        candidates = narrow(candidates)
    return candidates.scattered(logits.shape[1])


CHAINS = {
    "plain": {},
    "temperature": {"temperature": 1.7},
    "top-k": {"top_k": 7},
    "top-p": {"top_p": 0.8},
    "min-p": {"min_p": 0.15},
    "typical": {"typical_p": 0.6},
    "typical, hot": {"typical_p": 0.3, "temperature": 2.0},
    "top-h": {"top_h": 0.5},
    "epsilon": {"epsilon_cutoff": 0.06},
    "eta": {"eta_cutoff": 0.2},
    "n-sigma": {"top_n_sigma": 1.2},
    "n-sigma, hot": {"top_n_sigma": 1.5, "temperature": 3.0},
    "k, p, min-p": {"temperature": 0.7, "top_k": 8, "top_p": 0.95, "min_p": 0.05},
    "h before k": {"top_h": 0.7, "top_k": 6, "temperature": 1.3},
    "all": {"temperature": 1.4, "top_h": 0.95, "top_k": 9, "top_p": 0.97, "min_p": 0.02, "typical_p": 0.9,
            "epsilon_cutoff": 0.01, "eta_cutoff": 0.02},
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_support_and_probabilities_are_those_of_transformers(name, spread):
    logits = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(5)) * spread
    logits[2, 3:40] = float("-inf")  # as a processor leaves them
    if "top_n_sigma" in CHAINS[name]:
        logits = logits.nan_to_num(neginf=-3.0)
    options = SamplingOptions(**CHAINS[name])
    mine, theirs = ours(logits, options), expected(logits, options)
    assert torch.equal(mine > float("-inf"), theirs > float("-inf"))
    torch.testing.assert_close(mine.softmax(-1), theirs.softmax(-1))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(2, 30), st.floats(0.1, 8), st.sampled_from(sorted(CHAINS)),
)  # fmt: skip
def test_any_logits_keep_the_support_of_transformers(seed, count, spread, name):
    logits = torch.randn(2, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
    options = SamplingOptions(**CHAINS[name])
    mine, theirs = ours(logits, options), expected(logits, options)
    assert torch.equal(mine > float("-inf"), theirs > float("-inf"))


def test_what_is_excluded_has_no_part_in_the_deviation():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    banned = torch.cat((logits, torch.full((1, 9), float("-inf"))), 1)
    for n in (0.5, 1.0, 2.0):
        kept = TopNSigma(n)(Candidates(banned)).logits
        assert torch.equal(kept[:, :4], TopNSigma(n)(Candidates(logits)).logits)


TINY, DRAWS = 9, 10_000


def exact(options: SamplingOptions) -> dict[tuple[int, int], float]:
    """Returns the probability of every pair of tokens behind the prompt, through transformers' model and warpers."""
    theirs = models(TINY)[0]
    with torch.no_grad():
        first = theirs(torch.tensor([[4, 2]])).logits[:, -1]
        after = theirs(torch.tensor([[4, 2, token] for token in range(TINY)])).logits[:, -1]
    one = expected(first.double(), options).softmax(-1)[0]
    two = expected(after.double(), options).softmax(-1)
    return {(a, b): (one[a] * two[a, b]).item() for a, b in itertools.product(range(TINY), repeat=2)}


@pytest.mark.parametrize("name", CHAINS)
def test_draws_of_a_model_follow_the_distribution(name):
    """Chi-square over 10,000 drawn pairs of tokens, at 0.9999; rare pairs are counted together."""
    options = SamplingOptions(**CHAINS[name], max_tokens=2, end_tokens=(), n=500)
    shares = exact(options)
    seen = dict.fromkeys(shares, 0)
    generator = Generator(models(TINY)[1], None)
    for seed in range(DRAWS // options.n):
        for answer in generator.generate([[4, 2]], options.replace(seed=seed)):
            seen[tuple(answer.tokens)] += 1
    assert not any(seen[pair] for pair, share in shares.items() if share == 0)
    common = [pair for pair, share in shares.items() if share * DRAWS >= 5]
    cells = [(seen[pair], DRAWS * shares[pair]) for pair in common]
    rest = (DRAWS - sum(count for count, _ in cells), DRAWS - sum(share for _, share in cells))
    if rest[1] > 1:
        cells.append(rest)
    statistic = math.fsum((count - share) ** 2 / share for count, share in cells)
    assert len(cells) > 2
    degrees = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    assert torch.special.gammaincc(degrees, torch.tensor(statistic / 2)) > 1e-4

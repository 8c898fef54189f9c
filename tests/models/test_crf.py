"""The chain of tags against the sum over all paths, one by one."""

import itertools
import math

import pytest
import torch

from zhixing.models.crf import LinearChainCRF


def path_score(crf, scores, path):
    total = crf.start[path[0]] + crf.end[path[-1]] + sum(scores[t, tag] for t, tag in enumerate(path))
    return float(total + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path)))


@pytest.fixture
def chain():
    torch.manual_seed(1)
    crf = LinearChainCRF(3)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf, torch.randn(4, 5, 3), [5, 1, 3, 4]


def test_the_loss_is_that_of_summing_over_every_path(chain):
    crf, scores, lengths = chain
    tags = torch.randint(0, 3, (4, 5))
    mask = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
    expected = 0.0
    for row, length in enumerate(lengths):
        paths = itertools.product(range(3), repeat=length)
        everything = math.log(sum(math.exp(path_score(crf, scores[row], path)) for path in paths))
        expected += everything - path_score(crf, scores[row], tags[row, :length].tolist())
    assert float(crf.loss_sum(scores, tags, mask)) == pytest.approx(expected, abs=1e-4)


def test_the_best_path_is_the_best_of_all(chain):
    crf, scores, lengths = chain
    for row, (length, found) in enumerate(zip(lengths, crf.best(scores, lengths), strict=True)):
        paths = itertools.product(range(3), repeat=length)
        best = max(paths, key=lambda path: path_score(crf, scores[row], path))
        assert tuple(found) == best


def test_forbidden_transitions_are_never_taken():
    allowed = torch.tensor([[True, True, False], [True, True, True], [True, False, True]])
    crf = LinearChainCRF(3, allowed, first=torch.tensor([True, True, False]))
    paths = crf.best(torch.randn(50, 6, 3, generator=torch.Generator().manual_seed(0)) * 5, [6] * 50)
    for path in paths:
        assert path[0] != 2
        assert all(allowed[a, b] for a, b in itertools.pairwise(path))


def test_what_stands_behind_the_end_does_not_matter(chain):
    crf, scores, lengths = chain
    tags = torch.randint(0, 3, (4, 5))
    mask = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
    changed = scores.masked_fill(~mask[:, :, None], 99.0)
    assert torch.equal(crf.loss_sum(scores, tags, mask), crf.loss_sum(changed, tags.masked_fill(~mask, 2), mask))
    assert crf.best(scores, lengths) == crf.best(changed, lengths)

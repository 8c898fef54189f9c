"""The leading candidates that the core finds, against PyTorch."""

import pytest
import torch

from zhixing.native import library
from zhixing.native.candidates import leading

pytestmark = pytest.mark.skipif(not library.is_available(), reason="the C++ core is not built")


@pytest.mark.parametrize("size", [1, 7, 63, 64, 65, 257, 6000])
def test_they_are_those_of_pytorch(size, kernels):
    scores = 4 * torch.randn(9, size, generator=torch.Generator().manual_seed(size))
    scores[1] -= 1000.0
    scores[2] = 3.0  # all equal
    scores[3, : size // 2] = float("-inf")
    for count in {1, min(size, 8), min(size, 40)}:
        found = leading(scores, count)
        assert found is not None
        values, places = found
        assert torch.equal(values, scores.topk(count).values)
        assert torch.equal(scores.gather(1, places), values)
        assert all(len(set(row)) == count for row in places.tolist())
        logprobs, same = leading(scores, count, normalise=True) or (None, None)
        assert torch.equal(same, places)
        torch.testing.assert_close(logprobs, scores.log_softmax(-1).gather(1, places), atol=2e-6, rtol=2e-6)


def test_equal_ones_come_in_their_order():
    found = leading(torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0]]), 3)
    assert found is not None
    assert found[1].tolist() == [[1, 2, 4]]


def test_what_is_no_number_is_found(kernels):
    for place in (0, 50, 199):
        scores = torch.zeros(3, 200)
        scores[1, place] = float("nan")
        assert leading(scores, 4) is None

"""Dropout against its definition and against PyTorch's: with random numbers of the core and with PyTorch's."""

from collections.abc import Iterator

import pytest
import torch

from zhixing.models.dropout import Dropout, dropout
from zhixing.models.row_kernels import set_row_kernels
from zhixing.native.library import is_available
from zhixing.native.row_kernels import use_row_kernels


@pytest.fixture(params=["PyTorch", "core"], autouse=True)
def _numbers(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "core":
        if not is_available():
            pytest.skip("the core is not built")
        assert use_row_kernels()
    yield
    set_row_kernels(None)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_share_scale_and_expectation(p: float) -> None:
    torch.manual_seed(0)
    x = torch.full((400, 1001), 2.0)  # 400,400 values: not a multiple of the four that a draw serves
    y = dropout(x, p)
    share = (y == 0).double().mean().item()
    # Five standard errors of a share over that many independent values.
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-16)
    kept = y[y != 0]
    assert torch.allclose(kept, torch.full_like(kept, 2 / (1 - p)), rtol=2e-4)
    assert y.double().mean().item() == pytest.approx(2.0, rel=0.02)


def test_neighbours_are_independent() -> None:
    torch.manual_seed(1)
    gone = (dropout(torch.ones(400_000), 0.3) == 0).double()
    for distance in (1, 2, 3, 4, 8):  # within one draw of 64 bits and from one to the next
        both = (gone[:-distance] * gone[distance:]).mean().item()
        assert both == pytest.approx(0.09, abs=0.003), distance


def test_one_call_tells_nothing_of_the_next() -> None:
    torch.manual_seed(4)
    x = torch.ones(400_000)
    first, second, third = (dropout(x, 0.3) == 0 for _ in range(3))
    for other in (second, third):
        assert (first & other).double().mean().item() == pytest.approx(0.09, abs=0.003)
        assert (first[:-1] & other[1:]).double().mean().item() == pytest.approx(0.09, abs=0.003)
    assert ((first ^ second) & third).double().mean().item() == pytest.approx(0.42 * 0.3, abs=0.003)


def test_gradient_is_zero_where_dropped_and_scaled_elsewhere() -> None:
    torch.manual_seed(2)
    x = torch.randn(7, 33, requires_grad=True)
    y = dropout(x, 0.4)
    upstream = torch.randn(7, 33)
    y.backward(upstream)
    scale = torch.where(y.detach() == 0, 0.0, 1 / 0.6)
    assert x.grad is not None
    assert torch.allclose(x.grad, upstream * scale, rtol=1e-4)
    assert torch.allclose(y.detach(), x.detach() * scale, rtol=1e-4)


def test_the_generator_decides() -> None:
    x = torch.ones(5, 5)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_ends_are_pytorch_s(p: float) -> None:
    x = torch.randn(3, 4)
    assert torch.equal(dropout(x, p), torch.nn.functional.dropout(x, p))


def test_the_module_rests_outside_training() -> None:
    x = torch.randn(4, 4)
    layer = Dropout(0.5)
    assert layer.eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    assert (layer.train()(torch.ones(1000)) == 0).any()


def test_empty_and_strided_inputs() -> None:
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)
    x = torch.ones(6, 10).t()[::2]
    y = dropout(x, 0.5)
    assert y.shape == x.shape and set(y.unique().tolist()) <= {0.0, 2.0}

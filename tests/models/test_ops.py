"""The hand-written operations against the plain formula and automatic differentiation, on both product libraries."""

import pytest
import torch
import torch.nn.functional as F

from zhixing.models import ops


@pytest.fixture(params=["torch", "onednn", "mixed", "forward"])
def backend(request, monkeypatch):
    monkeypatch.setattr(ops, "SMALLEST", 0)
    if request.param != "torch" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    before = ops.matmul_backend()
    ops.set_matmul(request.param)
    yield request.param
    ops.set_matmul(before)


def gradients(function, *inputs):
    """Returns the output and the gradients of a random projection of it."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return out.detach(), torch.autograd.grad((out * weight).sum(), leaves)


def assert_same(function, plain, *inputs, atol=1e-5):
    ours, our_gradients = gradients(function, *inputs)
    theirs, their_gradients = gradients(plain, *inputs)
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-4)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5, 8), (2, 16, 8), (40, 8)])
def test_linear_is_a_linear_map_in_both_directions(backend, shape):
    x, weight, bias = torch.randn(shape), torch.randn(6, 8), torch.randn(6)
    assert_same(ops.linear, F.linear, x, weight, bias)


def test_linear_skips_gradients_that_nobody_asked_for(backend):
    x = torch.randn(2, 16, 8)
    weight = torch.randn(6, 8, requires_grad=True)
    ops.linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.reshape(-1, 8).sum(0).expand(6, 8))


def test_rms_norm_matches_the_formula():
    x, weight = torch.randn(4, 7, 12), torch.randn(12)

    def plain(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight

    assert_same(lambda x, w: ops.rms_norm(x, w, 1e-6), plain, x, weight)


def test_rms_norm_of_a_zero_vector_is_zero_with_finite_gradient():
    x = torch.zeros(2, 4, requires_grad=True)
    y = ops.rms_norm(x, None, 1e-6)
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(y))
    assert torch.isfinite(x.grad).all()


def test_squared_relu_matches_the_formula():
    assert_same(ops.squared_relu, lambda x: F.relu(x).square(), torch.randn(5, 9))


def test_rotary_rotates_pairs_and_its_gradient_rotates_back():
    x, angle = torch.randn(2, 6, 3, 8), torch.randn(6, 1, 4)
    cos, sin = angle.cos(), angle.sin()

    def plain(x):
        low, high = x[..., :4], x[..., 4:]
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)

    assert_same(lambda x: ops.rotary(x, cos, sin), plain, x)
    rotated = ops.rotary(x, cos, sin)
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))


def test_select_matmul_names_a_usable_library():
    before = ops.matmul_backend()
    try:
        chosen = ops.select_matmul()
        assert chosen in ("torch", "onednn", "mixed", "forward")
        assert ops.matmul_backend() == chosen
    finally:
        ops.set_matmul(before)


@pytest.mark.parametrize("backend", ["torch", "onednn"])
@pytest.mark.parametrize("biased", [True, False])
def test_silu_gate_is_the_formula(backend: ops.Matmul, biased: bool) -> None:
    before = ops.matmul_backend()
    ops.set_matmul(backend)
    try:
        x = torch.randn(3, 40, 16)
        gate, up = ((torch.randn(24, 16), torch.randn(24) if biased else None) for _ in range(2))
        with torch.no_grad():
            got = ops.linear_silu_gated(x, gate, up)
        assert torch.allclose(got, F.silu(F.linear(x, *gate)) * F.linear(x, *up), atol=1e-4)
    finally:
        ops.set_matmul(before)


@pytest.mark.parametrize("backend", ["torch", "onednn"])
@torch.inference_mode()
def test_matrices_that_lie_by_columns_give_the_same_products(backend):
    before = ops.matmul_backend()
    whole = torch.randn(16, 48).t()  # (48, 16), by columns
    gate, up = whole[:24], whole[24:]
    x = torch.randn(20, 16)
    try:
        ops.set_matmul(backend)
        expected = torch.nn.functional.silu(x @ gate.t()) * (x @ up.t())
        torch.testing.assert_close(ops.linear_silu_gated(x, (gate, None), (up, None)), expected)
        bias = torch.randn(24)
        expected = torch.nn.functional.silu(x @ gate.t() + bias) * (x @ up.t() - bias)
        torch.testing.assert_close(ops.linear_silu_gated(x, (gate, bias), (up, -bias)), expected)
        torch.testing.assert_close(ops.product(x, up), x @ up.t())
        torch.testing.assert_close(ops.linear(x, up, bias), x @ up.t() + bias)
        assert ops.joined_rows([gate, up]).data_ptr() == whole.data_ptr()
    finally:
        ops.set_matmul(before)


@pytest.mark.parametrize("grad", [False, True])
def test_what_is_compiled_is_left_to_the_compiler(backend, grad):
    seen = []

    def compiler(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    weight = torch.randn(24, 16)

    def work(x):
        y = ops.linear(x, weight)
        return y, ops.linear_gelu(x, weight, None), ops.linear_silu_gated(x, (weight, None), (weight, None))

    x = torch.randn(64, 16, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        found, right = torch.compile(work, backend=compiler)(x), work(x)
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other)
    assert seen
    assert not any("mkldnn" in target for target in seen)

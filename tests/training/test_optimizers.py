"""Muon's orthogonal factor against the singular value decomposition; AdamW against PyTorch's; saving and loading."""

import pytest
import torch
from torch import nn

from zhixing.core.recipe import OptimizerRecipe
from zhixing.training.optimizers import MuonAdamW, clip_gradients
from zhixing.training.orthogonalise import orthogonalise, polar_express


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 48), (2, 48, 16), (1, 200, 300), (1, 1, 7)])
def test_many_steps_give_the_polar_factor(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(orthogonalise(matrices, 9, 1e-4), u @ v, atol=2e-3, rtol=0)


def test_three_steps_bring_the_large_singular_values_near_one():
    matrices = torch.randn(4, 32, 128, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonalise(matrices, 3, 0.005))
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.6


def test_scale_does_not_matter_and_zero_stays_finite():
    matrices = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        orthogonalise(matrices * 1e-6, 5, 0.005), orthogonalise(matrices * 1e3, 5, 0.005), atol=1e-3, rtol=1e-3
    )
    assert torch.isfinite(orthogonalise(torch.zeros(1, 8, 8), 3, 0.005)).all()


@pytest.mark.parametrize("lower", [0.3, 0.05, 1e-3])
def test_the_polynomial_is_the_best_of_its_degree(lower):
    # Chebyshev's alternation: an odd quintic is optimal on [lower, 1] when its error reaches the same size with
    # alternating signs at four points.
    a, b, c = polar_express(lower, 1)[0]
    x = torch.linspace(lower, 1, 200_001, dtype=torch.float64)
    error = 1 - (a * x + b * x**3 + c * x**5)
    largest = error.abs().max()
    signs = torch.sign(error[error.abs() > 0.999 * largest])
    assert int((signs[1:] != signs[:-1]).sum()) == 3


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "embedding.weight": (7, 4), "blocks.0.attention.query.weight": (4, 4), "blocks.0.mlp.up.weight": (8, 4),
        "blocks.0.mlp_norm.weight": (4,), "blocks.1.attention.query.weight": (4, 4), "head.weight": (7, 4),
    }  # fmt: skip
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def run(optimizer, named, steps, seed=5):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(0.5)


def test_adamw_equals_pytorch_with_decay_on_matrices_only():
    named, twin = parameters(), parameters()
    recipe = OptimizerRecipe(name="adamw", learning_rate=0.1, weight_decay=0.2, beta1=0.9, beta2=0.99, eps=1e-8)
    run(MuonAdamW(named.items(), recipe), named, 4)
    groups = [
        {"params": [p for p in twin.values() if p.dim() > 1], "weight_decay": 0.2},
        {"params": [p for p in twin.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        for parameter in twin.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        reference.step()
    for name in named:
        torch.testing.assert_close(named[name], twin[name], msg=name)


def test_muon_moves_block_matrices_by_its_rate_whatever_the_gradient():
    named = parameters()
    before = {name: p.detach().clone() for name, p in named.items()}
    recipe = OptimizerRecipe(learning_rate=0.1, head_learning_rate=0.01, matrix_learning_rate=0.02, attention_scale=2.0)
    optimizer = MuonAdamW(named.items(), recipe)
    for parameter in named.values():
        parameter.grad = 1e4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step(1.0)
    change = named["blocks.0.mlp.up.weight"].detach() - before["blocks.0.mlp.up.weight"]
    values = torch.linalg.svdvals(change) / (0.02 * 2**0.5)
    assert ((values > 0.3) & (values < 1.6)).all()
    change = named["blocks.0.attention.query.weight"].detach() - before["blocks.0.attention.query.weight"]
    assert 0.02 * 2 * 0.4 < float(torch.linalg.svdvals(change)[0]) < 0.02 * 2 * 1.6
    # Adam's first step is the learning rate in every element: the head has its own.
    torch.testing.assert_close((named["head.weight"] - before["head.weight"]).abs(), torch.full((7, 4), 0.01))
    torch.testing.assert_close((named["embedding.weight"] - before["embedding.weight"]).abs(), torch.full((7, 4), 0.1))


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_restores_exactly(name):
    recipe = OptimizerRecipe(name=name, learning_rate=0.1, matrix_learning_rate=0.02)
    named = parameters()
    optimizer = MuonAdamW(named.items(), recipe)
    run(optimizer, named, 3)
    state = {key: value.clone() for key, value in optimizer.state().items()}
    weights = {key: value.detach().clone() for key, value in named.items()}
    run(optimizer, named, 2, seed=9)
    twin = {key: nn.Parameter(value) for key, value in weights.items()}
    other = MuonAdamW(twin.items(), recipe)
    other.load_state(state)
    run(other, twin, 2, seed=9)
    for key in named:
        assert torch.equal(named[key], twin[key]), key


def test_clipping_scales_the_joint_norm():
    named = parameters()
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter)
    count = sum(p.numel() for p in named.values())
    assert clip_gradients(named.values(), None) == pytest.approx(count**0.5)
    assert clip_gradients(named.values(), 1.0) == pytest.approx(count**0.5)
    assert clip_gradients(named.values(), None) == pytest.approx(1.0, rel=1e-4)

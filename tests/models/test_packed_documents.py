"""Documents that share a row, against each of them alone and against the mask of all pairs."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from zhixing.models.attention import causal_attention
from zhixing.models.config import TransformerConfig
from zhixing.models.loss import IGNORED
from zhixing.models.packing import Packing
from zhixing.models.transformer import Transformer


def row(lengths):
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_attention_within_documents_is_that_of_each_alone(lengths):
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    q = torch.randn(1, total, 4, 8, generator=generator, requires_grad=True)
    k, v = (torch.randn(1, total, 2, 8, generator=generator, requires_grad=True) for _ in range(2))
    weight = torch.randn(1, total, 4, 8, generator=generator)

    def attend(*parts):
        return causal_attention(*parts, 0.3)

    packed = Packing(row(lengths)).attend(q, k, v, attend)
    pieces = zip(*(t.split(lengths, dim=1) for t in (q, k, v)), strict=True)
    alone = torch.cat([attend(*piece) for piece in pieces], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)
    ours = torch.autograd.grad((packed * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((alone * weight).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_positions_lengths_and_the_mask():
    packing = Packing(torch.tensor([[0, 0, 0, 1, 1], [7, 7, 2, 2, 7]]))
    assert packing.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 0]]
    assert packing.lengths.tolist() == [[3, 3, 3, 2, 2], [2, 2, 2, 2, 1]]
    assert packing.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1],
    ]  # fmt: skip
    assert packing.longest == 3


MODELS = {
    "plain": {},
    "windowed": {"window": 4, "window_layers": (True, False)},
    "capped": {"attention_softcap": 3.0},
    "biased": {"attention_bias": True, "mlp_bias": True, "activation": "gelu_tanh"},
    "learned": {"position": "learned"},
}


@pytest.mark.parametrize("kind", MODELS)
def test_packing_changes_no_loss_and_no_gradient(kind):
    config = TransformerConfig(
        vocab_size=31, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, context=64, **MODELS[kind]
    )
    model = Transformer(config).train()
    model.initialise(torch.Generator().manual_seed(0))
    lengths = [9, 3, 14, 9, 1]
    tokens = torch.randint(0, 31, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    targets = torch.where(torch.arange(sum(lengths)) % 3 == 0, IGNORED, tokens.roll(-1))
    parameters = list(model.parameters())

    packed = model.loss_sum(tokens, targets, row(lengths))
    packed_gradients = torch.autograd.grad(packed, parameters)
    pieces = list(zip(tokens.split(lengths, 1), targets.split(lengths, 1), strict=True))
    alone = sum(model.loss_sum(*piece) for piece in pieces)
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-5)
    for a, b in zip(packed_gradients, torch.autograd.grad(alone, parameters), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)
    model.eval()
    losses = model.losses(tokens, targets, row(lengths))
    torch.testing.assert_close(losses.sum(), packed.detach(), atol=1e-4, rtol=1e-5)

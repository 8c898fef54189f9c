"""Attention by blocks against PyTorch's own, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from zhixing.models.attention import causal_attention


@pytest.mark.parametrize("time", [1, 2, 63, 64, 65, 130, 200])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_causal_blocks_equal_the_fused_kernel(time, kv_heads):
    generator = torch.Generator().manual_seed(time * 10 + kv_heads)
    q = torch.randn(2, time, 4, 16, generator=generator, requires_grad=True)
    k = torch.randn(2, time, kv_heads, 16, generator=generator, requires_grad=True)
    v = torch.randn(2, time, kv_heads, 16, generator=generator, requires_grad=True)
    ours = causal_attention(q, k, v, 0.25)
    theirs = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, scale=0.25, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    weight = torch.randn(ours.shape, generator=generator)
    our_gradients = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    their_gradients = torch.autograd.grad((theirs * weight).sum(), (q, k, v))
    for a, b in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_without_gradient_the_result_is_the_same():
    q, k, v = (torch.randn(1, 70, 2, 8, requires_grad=True) for _ in range(3))
    with_gradient = causal_attention(q, k, v, 0.3)
    with torch.no_grad():
        torch.testing.assert_close(causal_attention(q, k, v, 0.3), with_gradient, atol=1e-5, rtol=1e-4)

"""Attention by blocks against PyTorch's own, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from zhixing.models.attention import attend_in_blocks, causal_attention, fused_causal


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


def by_the_formula(q, k, v, scale, start, window, softcap, mask):
    """Attention with every score in memory, in float64."""
    q, k, v = (t.double() for t in (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))
    scores = q @ k.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    distance = torch.arange(start, start + q.shape[2])[:, None] - torch.arange(k.shape[2])
    allowed = (distance >= 0) & (distance < (window or 1 << 30))
    if mask is not None:
        allowed = allowed & mask
    return torch.softmax(scores.masked_fill(~allowed, float("-inf")), -1) @ v


@pytest.mark.parametrize("window", [None, 1, 3, 70])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(("start", "time"), [(0, 1), (0, 150), (9, 1), (5, 80)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_blocks_equals_the_formula(monkeypatch, window, softcap, start, time, masked):
    monkeypatch.setattr("zhixing.models.attention.ROWS", 64)
    generator = torch.Generator().manual_seed(start + time)
    q = torch.randn(2, 4, time, 8, generator=generator)
    k, v = (torch.randn(2, 2, start + time, 8, generator=generator) for _ in range(2))
    mask = None
    if masked:  # every position sees itself
        mask = torch.rand(2, 1, time, start + time, generator=generator) < 0.5
        mask |= torch.arange(start, start + time)[:, None] == torch.arange(start + time)
    out = attend_in_blocks(q, k, v, 0.6, start=start, mask=mask, window=window, softcap=softcap)
    expected = by_the_formula(q, k, v, 0.6, start, window, softcap, mask)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_dropped_weights_of_capped_attention_keep_their_mean():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 3, 4) for _ in range(3))
    plain = attend_in_blocks(q, k, v, 0.5, softcap=4.0)
    many = [attend_in_blocks(q, k, v, 0.5, softcap=4.0, dropout=0.4) for _ in range(3000)]
    assert not torch.allclose(many[0], plain)
    torch.testing.assert_close(torch.stack(many).mean(0), plain, atol=0.08, rtol=0)


@pytest.mark.parametrize("time", [96, 129, 200])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_reading_by_blocks_is_the_fused_kernels_attention(time: int, heads: int, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(time)
    q = torch.randn(2, time, heads, 8, generator=generator).transpose(1, 2)
    k, v = (torch.randn(2, kv_heads, time, 8, generator=generator) for _ in range(2))
    with torch.no_grad():
        mine = fused_causal(q, k, v, 0.3)
        theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=heads != kv_heads)
    assert torch.allclose(mine, theirs, atol=1e-6)

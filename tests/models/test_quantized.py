"""Matrices that stay in blocks: every operation gives what the expanded matrix gives."""

import contextlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tests.models.test_blocks import random_rows
from torch import nn

from zhixing.models import ops, quantized
from zhixing.models.block_kinds import F32, Q4_1, Q6_K, Q8_0
from zhixing.models.config import TransformerConfig
from zhixing.models.decoding import decode_step, is_fast
from zhixing.models.quantized import BlockMatrix, Part
from zhixing.models.transformer import Transformer


def matrix(rows, width, kind, seed=0):
    packed = torch.from_numpy(random_rows(kind, rows, width // kind.values, seed))
    return BlockMatrix([Part(kind, packed)])


@pytest.fixture(params=[contextlib.nullcontext, torch.no_grad, torch.inference_mode], ids=["plain", "no_grad", "infer"])
def mode(request):
    return request.param


@pytest.fixture
def pair():
    packed = matrix(48, 64, Q4_1)
    return packed, packed.expanded()


def check(found, expected, packed=None):
    if packed is not None:
        assert isinstance(found, BlockMatrix) == packed
    whole = found.expanded() if isinstance(found, BlockMatrix) else found
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-4)


def test_products(pair, mode):
    packed, whole = pair
    x, bias = torch.randn(5, 64), torch.randn(48)
    with mode():
        check(F.linear(x, packed), F.linear(x, whole))
        check(F.linear(x.view(1, 5, 64), packed, bias), F.linear(x, whole, bias)[None])
        check(x @ packed.t(), x @ whole.t())
        check(x[:, :48] @ packed, x[:, :48] @ whole)
        check(F.linear(x[:, :48], packed.t()), x[:, :48] @ whole)
        check(ops.product(x, packed), x @ whole.t())
        check(torch.addmm(bias, x, packed.t()), x @ whole.t() + bias)
        check(torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""), x @ whole.t())
        check(torch.ops.mkldnn._linear_pointwise(x, packed, None, "relu", [], ""), (x @ whole.t()).relu())


def test_a_product_in_small_pieces(pair, monkeypatch):
    monkeypatch.setattr(quantized, "SCRATCH_VALUES", 64 * 7)
    x = torch.randn(3, 64)
    check(F.linear(x, pair[0]), F.linear(x, pair[1]))


def test_moving_rows_stays_packed(pair, mode):
    packed, whole = pair
    other, second = (matrix(16, 64, Q8_0, seed=1),) * 2
    with mode():
        joined, expected = torch.cat((packed, other)), torch.cat((whole, second.expanded()))
        check(joined, expected, True)
        check(joined[40:60], expected[40:60], True)
        check(joined.narrow(0, 3, 50), expected.narrow(0, 3, 50), True)
        for found, part in zip(joined.chunk(3), expected.chunk(3), strict=True):
            check(found, part, True)
        for found, part in zip(joined.split([10, 54]), expected.split([10, 54]), strict=True):
            check(found, part, True)
        check(packed.view(4, 2, 6, 64).transpose(1, 2).reshape(48, 64),
              whole.view(4, 2, 6, 64).transpose(1, 2).reshape(48, 64), True)  # fmt: skip
        check(packed.view(4, 3, 4, 64)[:, 1].reshape(-1, 64), whole.view(4, 3, 4, 64)[:, 1].reshape(-1, 64), True)
        check(packed[torch.tensor([3, 1])], whole[[3, 1]])
        check(packed.t(), whole.t(), True)
        check(packed.t().contiguous().t().contiguous(), whole)
        check(packed.detach().clone().contiguous(), whole, True)


def test_rows_of_several_kinds_in_a_new_order_are_expanded(mode):
    first, second = matrix(4, 256, Q6_K), matrix(4, 256, Q8_0)
    order = torch.tensor([7, 0, 5, 2])
    with mode():
        joined = torch.cat((first, second))
        check(joined.index_select(0, order), torch.cat((first.expanded(), second.expanded()))[order])
        check(F.embedding(order.view(2, 2), joined), joined.expanded()[order.view(2, 2)])


def test_whatever_else_is_computed_on_the_values(pair, mode):
    packed, whole = pair
    with mode():
        check(packed + 1, whole + 1, False)
        check(packed.view(-1), whole.view(-1), False)
        check(packed[:, 3:9], whole[:, 3:9], False)
        check(packed.sum(0), whole.sum(0), False)
        check(torch.cat((packed, whole)), torch.cat((whole, whole)), False)
        target = torch.empty(48, 64)
        target.copy_(packed)
        check(target, whole)
        check(packed.float(), whole, True)
        check(packed.to(torch.bfloat16).float(), whole.bfloat16().float())
    assert packed.shape == (48, 64)
    assert packed.dtype == torch.float32
    assert packed.stored_bytes == 48 * 2 * 20
    assert "Q4_1" in repr(packed)


def test_gradients_pass_through_products(pair, monkeypatch):
    packed, whole = pair
    for backend in ("torch", "onednn"):
        monkeypatch.setattr(ops, "_matmul", backend)
        x = torch.randn(20, 64, requires_grad=True)
        ops.linear(x, packed).square().sum().backward()
        found, x.grad = x.grad, None
        F.linear(x, whole).square().sum().backward()
        torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-2)


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not make the shape"):
        BlockMatrix([Part(F32, torch.zeros((4, 32), dtype=torch.uint8))], (3, 8))


CONFIG = TransformerConfig(
    vocab_size=50, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=64, context=32, tied=False
)


def packed_model():
    """A model whose matrices are packed, and the same with their expanded values."""
    plain = Transformer(CONFIG)
    plain.initialise(torch.Generator().manual_seed(0))
    compact = Transformer(CONFIG)
    compact.load_state_dict(plain.state_dict())
    seed = 0
    for name, module in compact.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            seed += 1
            packed = torch.from_numpy(random_rows(Q8_0, module.weight.numel() // 32, 1, seed))
            packed[:, :2] = torch.tensor([0.001], dtype=torch.float16).view(torch.uint8)
            value = BlockMatrix([Part(Q8_0, packed.view(module.weight.shape[0], -1))])
            module.weight = nn.Parameter(value, requires_grad=False)
            plain.get_submodule(name).weight.data = value.expanded()
    return plain.eval(), compact.eval()


def test_a_packed_model_computes_as_the_expanded_one():
    plain, compact = packed_model()
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(compact(tokens), plain(tokens), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compact.losses(tokens, tokens), plain.losses(tokens, tokens), rtol=1e-4, atol=1e-5)


def test_the_fast_step_takes_packed_models():
    plain, compact = packed_model()
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    assert is_fast(compact)
    logits = []
    with torch.inference_mode():
        for model in (plain, compact):
            cache = model.new_cache(2, 16)
            model.hidden_states(tokens, cache=cache)
            step = decode_step(model, cache, share=True)
            logits.append(torch.stack([step(tokens[:, 0]), step(tokens[:, 1])]))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    assert isinstance(compact.blocks[0].attention.query.weight, BlockMatrix)


@pytest.mark.slow
def test_computing_on_blocks_loads_nothing_more():
    """PyTorch's own machinery for such tensors would load half a second of code on its first use."""
    code = """
import sys, torch, torch.nn.functional as F
from torch import nn
from zhixing.models import ops
from zhixing.models.block_kinds import Q8_0
from zhixing.models.quantized import BlockMatrix, Part
packed = BlockMatrix([Part(Q8_0, torch.zeros((8, 68), dtype=torch.uint8))])
module = nn.Linear(64, 8, bias=False)
module.weight = nn.Parameter(packed.view(2, 4, 64).transpose(0, 1).reshape(8, 64), requires_grad=False)
module.to("cpu").eval()
with torch.inference_mode():
    x = torch.ones(20, 64)
    ops.set_matmul("onednn")
    F.linear(x, torch.cat((module.weight.detach(), packed))[2:9]), ops.linear(x, packed), ops.product(x, packed)
    module(x), F.embedding(torch.tensor([3]), packed), packed.split([3, 5]), packed.shape, packed.contiguous()
assert "torch.distributed.tensor" not in sys.modules, "dispatched"
"""
    subprocess.run([sys.executable, "-c", code], check=True)

"""Passes over rows by the core, in training and in reading, against the formulas: values, gradients, models."""

import itertools

import pytest
import torch

from zhixing.models import ops
from zhixing.models.adapters.products import Term, adapted_linear
from zhixing.models.attention import causal_attention, fused_causal
from zhixing.models.cache import LayerCache
from zhixing.models.causal_blocks import causal_blocks
from zhixing.models.config import RopeScaling, TransformerConfig
from zhixing.models.decoding import decode_step
from zhixing.models.head_places import Group, placed_heads, taken_heads
from zhixing.models.loss import IGNORED, cross_entropy_sum
from zhixing.models.packing import Packing
from zhixing.models.row_kernels import row_kernels, set_row_kernels
from zhixing.models.transformer import Transformer
from zhixing.native.row_kernels import CoreRowKernels, use_row_kernels

SIZES = {
    "vocab_size": 31,
    "width": 24,
    "layers": 2,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 6,
    "mlp_width": 40,
    "context": 96,
}
MODELS = {
    "nanochat": {"norm_weight": False, "embedding_norm": True, "rope_reversed": True, "qk_norm": "after_rotary",
                 "activation": "relu2", "gated": False, "logit_softcap": 15.0},
    "norm before rotation": {"norm_weight": False, "qk_norm": "before_rotary"},
    "llama, grouped heads": {"kv_heads": 2},
    "scaled scores": {"attention_scale": 0.3, "kv_heads": 1},
    "biases, no rotation": {"position": "learned", "attention_bias": True, "norm": "layer"},
    "wide heads": {"head_dim": 40, "heads": 2, "kv_heads": 2},
}  # fmt: skip
OTHERS = {
    "learned scales": {"qk_norm": "before_rotary"},
    "one norm for all heads": {"norm_weight": False, "qk_norm": "before_rotary", "qk_norm_scope": "projection"},
    "dropout": {"attention_dropout": 0.1},
    "capped scores": {"attention_softcap": 20.0},
    "a stretched rotation": {"norm_weight": False, "qk_norm": "before_rotary",
                             "rope_scaling": RopeScaling("yarn", 4.0, 24, attention_factor=1.3)},
    "a stretched rotation of windowed layers": {
        "norm_weight": False, "qk_norm": "before_rotary", "window": 100, "local_rope_theta": 100.0,
        "local_rope_scaling": RopeScaling("yarn", 4.0, 24, attention_factor=1.5)},
}  # fmt: skip
"""What is left to PyTorch."""


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    set_row_kernels(None)


@pytest.fixture(params=[1, 2])
def core(request, kernels):
    """The core's operations, with every kind of kernels, on one thread and on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    assert use_row_kernels()
    yield CoreRowKernels()
    torch.set_num_threads(before)


def rotation_of(time, half, seed=0):
    angles = torch.rand(time, half, generator=torch.Generator().manual_seed(seed)) * 6
    return angles.cos(), angles.sin()


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "half"), [(2, 2, 6, 3), (3, 1, 32, 16), (4, 2, 20, 4), (1, 1, 5, 0)]
)
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_placed_heads_are_the_formula_and_so_is_their_gradient(core, heads, kv_heads, size, half, eps):
    batch, time, factor = 3, 37, 0.7
    joined = torch.randn(batch, time, heads + 2 * kv_heads, size, requires_grad=True)
    turns = rotation_of(time, half) if half else None
    groups = [Group(batch, time)]
    [(q, k, v)] = placed_heads(joined.flatten(0, 1), heads, kv_heads, turns, eps, factor, groups)
    rotation = None if turns is None else tuple(part.unsqueeze(1) for part in turns)

    exact = joined.detach().double().requires_grad_()
    both, values = exact[:, :, : heads + kv_heads], exact[:, :, heads + kv_heads :]
    if eps is not None:
        both = both / (both.square().mean(-1, keepdim=True) + eps).sqrt()
    if rotation is not None:
        cos, sin = (part.double() for part in rotation)
        low, high, rest = both[..., :half], both[..., half : 2 * half], both[..., 2 * half :]
        both = torch.cat([low * cos - high * sin, high * cos + low * sin, rest], -1)
    expected = [part.transpose(1, 2) for part in (both[:, :, :heads] * factor, both[:, :, heads:], values)]
    grads = [torch.randn(part.shape) for part in expected]
    for mine, right in zip((q, k, v), expected, strict=True):
        torch.testing.assert_close(mine, right.float())
    sum((a * b).sum() for a, b in zip((q, k, v), grads, strict=True)).backward()
    sum((a * b).sum() for a, b in zip(expected, grads, strict=True)).backward()
    torch.testing.assert_close(joined.grad, exact.grad.float(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_documents_are_placed_by_themselves_and_taken_back(core, eps):
    heads, kv_heads, size, factor = 4, 2, 12, 0.6
    packing = Packing(torch.tensor([[0] * 9 + [1] * 30 + [2] * 33 + [3], [4] * 40 + [5] * 10 + [6] * 23]))
    tokens, groups = packing.segments.numel(), packing.groups
    assert len(groups) > 2 and any((group.tokens < 0).any() for group in groups)
    joined = torch.randn(tokens, heads + 2 * kv_heads, size, requires_grad=True)
    turns = rotation_of(tokens, 6)
    placed = placed_heads(joined, heads, kv_heads, turns, eps, factor, groups)

    alone = joined.detach().clone().requires_grad_()
    [whole] = placed_heads(alone, heads, kv_heads, turns, eps, factor, [Group(1, tokens)])
    grads = []
    for group, parts in zip(groups, placed, strict=True):
        there = group.tokens >= 0
        for part, right in zip(parts, whole, strict=True):
            moved = torch.where(there[:, None, :, None], right[0][:, group.tokens].transpose(0, 1), 0.0)
            assert torch.equal(part, moved)
            grads.append(torch.randn(part.shape) * there[:, None, :, None])
    flat = [part for parts in placed for part in parts]
    sum((a * b).sum() for a, b in zip(flat, grads, strict=True)).backward()
    for index, right in enumerate(whole):
        grad = torch.zeros_like(right)
        for at, group in enumerate(groups):
            there = group.tokens >= 0
            grad[0][:, group.tokens[there]] = grads[3 * at + index].transpose(0, 1)[:, there]
        right.backward(grad, retain_graph=True)
    torch.testing.assert_close(joined.grad, alone.grad)

    queries = [q.detach().requires_grad_() for q, _, _ in placed]
    taken = taken_heads(queries, groups, tokens)
    assert torch.equal(taken, whole[0][0].transpose(0, 1))
    upstream = torch.randn(taken.shape)
    taken.backward(upstream)
    for group, query in zip(groups, queries, strict=True):
        there = (group.tokens >= 0)[:, None, :, None]
        assert torch.equal(query.grad, torch.where(there, upstream[group.tokens].transpose(1, 2), 0.0))


@pytest.mark.parametrize("size", [1, 7, 16, 384])
def test_norms_of_rows_with_a_scale(core, size):
    x, grad, weight = torch.randn(5, 9, size), torch.randn(5, 9, size), torch.randn(size)
    exact, of = x.double().requires_grad_(), weight.double().requires_grad_()
    (of * exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt()).backward(grad.double())
    mine, scale = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = ops.rms_norm(mine, scale, 1e-5)
    right = weight.double() * x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(y, right.float())
    y.backward(grad)
    torch.testing.assert_close(mine.grad, exact.grad.float(), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(scale.grad, of.grad.float(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 16, 384])
def test_norms_of_rows(core, size):
    x, grad = torch.randn(5, 9, size), torch.randn(5, 9, size)
    exact = x.double().requires_grad_()
    right = exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    right.backward(grad.double())
    y, scales = core.norm(x, 1e-5)
    torch.testing.assert_close(y, right.float())
    torch.testing.assert_close(core.norm_gradient(grad, y, scales), exact.grad.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 13, 40_000])
def test_squares_of_what_is_positive(core, size):
    x, grad = torch.randn(size), torch.randn(size)
    positive, scaled = x.clone(), grad.clone()
    assert torch.equal(core.square_positive(positive), x.clamp_min(0).square())
    assert torch.equal(positive, x.clamp_min(0))
    assert torch.equal(core.square_positive_gradient(scaled, positive), positive.square())
    assert torch.equal(scaled, grad * positive)


def mixed(x):
    """The mixing of 32 bits in rows.inl, in 64-bit integers."""
    whole = 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & whole
    x = ((x ^ (x >> 15)) * 0x846CA68B) & whole
    return x ^ (x >> 16)


@pytest.mark.parametrize("seed", [0, 7, 0x123456789ABCDEF, 2**63 - 1])
def test_what_is_dropped_is_decided_by_seed_and_place(core, seed):
    x = torch.randn(3, 50_001)
    places = torch.arange(x.numel())
    drawn = mixed(mixed(places ^ (seed & 0xFFFFFFFF)) ^ (seed >> 32)) >> 1
    share = 0.25
    expected = torch.where(drawn.view_as(x) < share * 2**31, 0.0, x / (1 - share))
    torch.testing.assert_close(core.drop(x, seed, int(share * 2**31)), expected)


def test_all_may_not_be_dropped(core):
    with pytest.raises(Exception, match="no such numbers or share"):
        core.drop(torch.ones(4), 1, 1 << 31)


@pytest.mark.parametrize("size", [1, 13, 1536])
def test_gates(core, size):
    x, grad = 4 * torch.randn(3, 11, 2 * size), torch.randn(3, 11, size)
    x[0, 0, 0], x[0, 1, 0] = -200.0, 200.0
    exact = x.double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    right = torch.nn.functional.silu(gate) * up
    right.backward(grad.double())
    torch.testing.assert_close(core.gate(x), right.float(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(core.gate_gradient(grad, x), exact.grad.float(), atol=1e-5, rtol=1e-5)
    opened, by = (half.contiguous() for half in x.chunk(2, dim=-1))
    core.gate_by(opened, by)
    torch.testing.assert_close(opened, right.float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("rows", "keys", "before"), list(itertools.product([1, 5, 64], [64, 90], [0, 7])))
def test_causal_weights_and_their_gradient(core, rows, keys, before):
    if before + rows > keys:
        return
    scores, grad = 4 * torch.randn(3, rows, keys), torch.randn(3, rows, keys)
    seen = torch.arange(keys) < torch.arange(before + 1, before + rows + 1)[:, None]
    exact = scores.double().requires_grad_()
    right = exact.masked_fill(~seen, float("-inf")).softmax(-1)
    right.backward(grad.double())
    core.causal_weights(scores, before)
    torch.testing.assert_close(scores, right.float())
    assert not scores[:, ~seen].any()
    core.causal_weights_gradient(grad, scores, before)
    torch.testing.assert_close(grad, exact.grad.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 9, 20])
def test_scores_that_are_no_numbers_stay_so(core, bad, place):
    scores = torch.randn(1, 1, 21)
    scores[..., place] = bad
    core.causal_weights(scores, 20)
    assert scores.isnan().any()


@pytest.mark.parametrize("size", [3, 16, 21])
def test_what_is_no_number_is_not_taken_for_negative(core, size):
    for place in range(size):
        x = torch.randn(size)
        x[place] = float("nan")
        squared = core.square_positive(x)
        assert x.isnan().nonzero().flatten().tolist() == squared.isnan().nonzero().flatten().tolist() == [place]


def counted(monkeypatch, name):
    """Turns the core's passes on; returns a list that gets an entry for each call of one of them."""
    assert use_row_kernels()
    calls, kernel = [], getattr(CoreRowKernels, name)
    monkeypatch.setattr(CoreRowKernels, name, lambda *parts: calls.append(name) or kernel(*parts))
    return calls


def gradients_of(config, time, segments=None):
    torch.manual_seed(0)
    model = Transformer(config).train()
    tokens = torch.randint(0, 31, (3, time + 1), generator=torch.Generator().manual_seed(1))
    loss = model.loss_sum(tokens[:, :-1], tokens[:, 1:], segments)
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
@pytest.mark.parametrize("time", [1, 50, 90])
def test_whole_models_learn_the_same(name, time, monkeypatch):
    config = TransformerConfig(**SIZES | (MODELS | OTHERS)[name])
    expected = gradients_of(config, time)
    calls = counted(monkeypatch, "place_heads")
    for mine, right in zip(gradients_of(config, time), expected, strict=True):
        torch.testing.assert_close(mine, right, atol=2e-5, rtol=2e-4)
    assert len(calls) == (config.layers if name in MODELS else 0)


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
@pytest.mark.parametrize("cuts", [(0, 0, 0), (20, 21, 60), (7, 40, 89)])
def test_models_learn_the_same_from_documents_in_one_row(name, cuts, monkeypatch):
    config = TransformerConfig(**SIZES | (MODELS | OTHERS)[name])
    segments = torch.tensor([[sum(at >= cut for cut in cuts[: row + 1]) for at in range(90)] for row in range(3)])
    expected = gradients_of(config, 90, segments)
    calls = counted(monkeypatch, "take_heads")
    for mine, right in zip(gradients_of(config, 90, segments), expected, strict=True):
        torch.testing.assert_close(mine, right, atol=2e-5, rtol=2e-4)
    assert (len(calls) >= config.layers) == (name in MODELS)


@pytest.mark.parametrize("window", [None, 30, 560])
def test_long_documents_and_windows_among_short_ones(window, monkeypatch):
    config = TransformerConfig(**SIZES | {"context": 700, "window": window, "kv_heads": 2})
    segments = torch.tensor([[0] * 40 + [1] * 560 + [2] * 10, [3] * 540 + [4] * 70, [5] * 300 + [6] * 310])
    expected = gradients_of(config, 610, segments)
    calls = counted(monkeypatch, "take_heads")
    for mine, right in zip(gradients_of(config, 610, segments), expected, strict=True):
        torch.testing.assert_close(mine, right, atol=5e-5, rtol=5e-4)
    assert calls


def test_half_precision_by_autocast_learns_with_normalised_heads():
    config = TransformerConfig(**SIZES | {"qk_norm": "before_rotary"})
    exact = gradients_of(config, 50)
    with torch.autocast("cpu", torch.bfloat16):
        half = gradients_of(config, 50)
    torch.testing.assert_close(half[0].float(), exact[0], rtol=2e-2, atol=0.5)
    assert all(grad.isfinite().all() for grad in half)


def test_no_texts_and_scales_of_another_size():
    assert use_row_kernels()
    q, k = torch.empty(0, 5, 4, 8, requires_grad=True), torch.empty(0, 5, 2, 8)
    assert causal_attention(q, k, k, 1.0).shape == q.shape
    assert ops.rms_norm(torch.ones(2, 8), torch.ones(1), 0.0).eq(1).all()


def test_only_float32_on_the_cpu_goes_there():
    assert use_row_kernels()
    assert row_kernels(torch.ones(2)) is not None
    assert row_kernels(torch.ones(2, dtype=torch.float64)) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert row_kernels(torch.ones(2)) is None
    set_row_kernels(None)
    assert row_kernels(torch.ones(2)) is None
    assert ops.rms_norm(torch.ones(2, 3), None, 0.0).eq(1).all()


def test_shapes_that_do_not_fit_are_refused(core):
    with pytest.raises(ValueError, match="scores"):
        core.causal_weights(torch.ones(1, 5, 4), 0)
    with pytest.raises(ValueError, match="heads"):
        core.place_heads(torch.ones(2, 3, 4), Group(1, 2), 1, 1, rotation_of(2, 3), None, 1.0, torch.empty(2, 2))


READS = {
    "llama, grouped heads": {"kv_heads": 2},
    "nanochat": MODELS["nanochat"],
    "biases": {"attention_bias": True},
    "a short window": {"window": 50},
    "learned scales": {"qk_norm": "before_rotary"},
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("joined", [False, True])
def test_prompts_are_read_the_same(name, joined, monkeypatch):
    model = Transformer(TransformerConfig(**SIZES | {"context": 200} | READS[name]))
    model.initialise(torch.Generator().manual_seed(3))
    tokens = torch.randint(0, 31, (2, 130), generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def read():
        cache = model.eval().new_cache(2, 140)
        first = model.next_logits(tokens, cache)
        step = decode_step(model, cache, share=joined)  # lays the weights of one input into one matrix
        return first, step(tokens[:, 0]), step(tokens[:, 1])

    expected = read()
    calls = counted(monkeypatch, "place_heads")
    for mine, right in zip(read(), expected, strict=True):
        torch.testing.assert_close(mine, right, atol=2e-5, rtol=2e-4)
    assert len(calls) == (0 if name in ("a short window", "learned scales") else 2)


def test_prompts_attend_to_what_the_cache_keeps(monkeypatch):
    model = Transformer(TransformerConfig(**SIZES | {"context": 200, "kv_heads": 2}))
    model.initialise(torch.Generator().manual_seed(3))
    tokens = torch.randint(0, 31, (2, 130), generator=torch.Generator().manual_seed(1))
    update = LayerCache.update
    monkeypatch.setattr(LayerCache, "update", lambda self, k, v, start: update(self, k.round(decimals=1), 2 * v, start))

    @torch.no_grad()
    def read():
        return model.eval().next_logits(tokens, model.new_cache(2, 140))

    expected = read()
    assert use_row_kernels()
    torch.testing.assert_close(read(), expected, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("cap", [None, 15.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_losses_and_their_gradients(core, cap, smoothing, scale):
    torch.manual_seed(5)
    hidden, head, bias = torch.randn(1, 23, 12) * scale, torch.randn(301, 12), torch.randn(301)
    targets = torch.randint(0, 301, (1, 23))
    targets[0, 4] = IGNORED
    given = [part.clone().requires_grad_() for part in (hidden, head, bias)]
    total = cross_entropy_sum(given[0], given[1], targets, cap, bias=given[2], smoothing=smoothing)
    total.backward()
    exact = [part.double().requires_grad_() for part in (hidden, head, bias)]
    logits = (exact[0] @ exact[1].t() + exact[2])[0]
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    right = torch.nn.functional.cross_entropy(
        logits, targets[0], ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    right.backward()
    torch.testing.assert_close(total.double(), right, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(given, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=2e-4 * scale)


@pytest.mark.parametrize(
    ("rows", "cols", "rank"), [(1, 1, 1), (5, 63, 3), (19, 64, 16), (37, 700, 17), (448, 1100, 40)]
)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("which", ["into", "back", "both"])
def test_products_with_narrow_matrices_are_the_formula(core, rows, cols, rank, transposed, which):
    whole = torch.randn(rows, cols + 5)
    x = whole[:, 2 : cols + 2]  # part of a wider matrix

    def narrow(n):
        return torch.randn(rank, n).t() if transposed else torch.randn(n, rank)

    p, q, into, back = narrow(cols), narrow(rows), narrow(rows), narrow(cols)
    wanted_into, wanted_back = 0.5 * (x.double() @ p.double()), 0.5 * (x.t().double() @ q.double())
    kept = into.clone(), back.clone()
    core.low_rank_sums(x, 0.5, (p, into) if which != "back" else None, (q, back) if which != "into" else None)
    expected = wanted_into.float() if which != "back" else kept[0]
    torch.testing.assert_close(into, expected, rtol=1e-5, atol=1e-5 * cols**0.5)
    expected = wanted_back.float() if which != "into" else kept[1]
    torch.testing.assert_close(back, expected, rtol=1e-5, atol=1e-5 * rows**0.5)


def test_adapted_maps_with_the_core_are_those_without(core):
    torch.manual_seed(0)
    x, weights = torch.randn(3, 7, 40, requires_grad=True), [torch.randn(70, 40), torch.randn(20, 40)]
    factors = [torch.randn(shape, requires_grad=True) for shape in [(4, 40), (70, 4), (3, 40), (20, 3)]]
    terms = [Term(factors[0], factors[1], 2.0, 0), Term(factors[2], factors[3], 0.5, 70)]

    def computed():
        y = adapted_linear(x, weights, terms)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *factors])]

    with_core = computed()
    set_row_kernels(None)
    for one, other in zip(with_core, computed(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3 * float(other.abs().max()) * 1e-2)


def test_products_with_narrow_matrices_do_not_depend_on_the_threads(kernels):
    x, p, q = torch.randn(450, 1536), torch.randn(1536, 16), torch.randn(450, 16)
    results, before = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert use_row_kernels()
        into, back = torch.empty(450, 16), torch.empty(1536, 16)
        CoreRowKernels().low_rank_sums(x, 1.0, (p, into), (q, back))
        results.append((into, back))
    torch.set_num_threads(before)
    for into, back in results[1:]:
        assert torch.equal(into, results[0][0])
        assert torch.equal(back, results[0][1])


@pytest.mark.parametrize("time", [1, 5, 33, 64, 67, 200])
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "size"), [(1, 3, 1, 32), (2, 4, 2, 64), (1, 2, 2, 96)])
def test_prompts_are_read_as_the_formula_says(core, time, batch, heads, kv_heads, size):
    q = torch.randn(batch, heads, time, size) * size**-0.5
    room = torch.randn(2, batch, kv_heads, time + 9, size)  # as a cache keeps them, with room behind
    k, v = room[:, :, :, :time]
    with torch.no_grad():
        read = fused_causal(q, k, v, 1.0)
    many = heads // kv_heads
    scores = q.double() @ k.double().repeat_interleave(many, 1).transpose(-1, -2)
    weights = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -torch.inf).softmax(-1)
    expected = weights @ v.double().repeat_interleave(many, 1)
    torch.testing.assert_close(read, expected.float(), rtol=1e-5, atol=1e-5)


def test_what_follows_in_a_prompt_changes_no_number_and_what_is_none_stays_so(core):
    q, k, v = torch.randn(1, 2, 130, 32), torch.randn(1, 1, 130, 32), torch.randn(1, 1, 130, 32)
    with torch.no_grad():
        before = fused_causal(q, k, v, 0.2)
        k[:, :, 100:], v[:, :, 100:] = 1e20, -1e20
        after = fused_causal(q, k, v, 0.2)
        k[:, :, 100:] = torch.nan
        none = fused_causal(q, k, v, 0.2)
    assert torch.equal(before[:, :, :100], after[:, :, :100])
    assert none[:, :, 100:].isnan().all()


def test_heads_of_other_sizes_are_left_to_pytorch(core):
    q, k, v = torch.randn(1, 4, 7, 40), torch.randn(1, 4, 7, 40), torch.randn(1, 4, 7, 40)
    assert core.causal(q.view(4, 1, 7, 40), k.view(4, 7, 40), v.view(4, 7, 40), keep=False) is None


@pytest.mark.parametrize("time", [1, 5, 64, 67, 130, 200])
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "size"), [(2, 3, 1, 32), (2, 4, 2, 64), (4, 1, 1, 96)])
def test_attention_learns_as_the_formula_says(core, time, batch, heads, kv_heads, size):
    shapes = [(batch, heads, time, size), (batch, kv_heads, time, size), (batch, kv_heads, time, size)]
    q, k, v = (torch.randn(shape, requires_grad=True) for shape in shapes)
    grad, scale, many = torch.randn(shapes[0]), size**-0.5, heads // kv_heads
    grouped = q.detach().reshape(batch * kv_heads, many, time, size)
    assert core.causal(grouped, *(t.detach().flatten(0, 1) for t in (k, v)), keep=True) is not None
    mixed = causal_blocks(q, k, v, scale)
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    scores = scale * exact[0] @ exact[1].repeat_interleave(many, 1).transpose(-1, -2)
    weights = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -torch.inf).softmax(-1)
    right = weights @ exact[2].repeat_interleave(many, 1)
    torch.testing.assert_close(mixed, right.float(), rtol=1e-5, atol=1e-5)
    got, wanted = torch.autograd.grad(mixed, (q, k, v), grad), torch.autograd.grad(right, exact, grad.double())
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))


def test_attention_does_not_depend_on_the_threads(kernels):
    q, k, v, grad = (
        torch.randn(8, 3, 130, 32),
        torch.randn(8, 130, 32),
        torch.randn(8, 130, 32),
        torch.randn(8, 3, 130, 32),
    )
    results, before = [], torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        assert use_row_kernels()
        found = CoreRowKernels().causal(q, k, v, keep=True)
        assert found is not None
        results.append([found[0], *CoreRowKernels().causal_gradient(grad, q, k, v, found[1])])
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_unequal_parts_for_the_threads_are_left_to_pytorch():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    assert use_row_kernels()
    q, k, v = torch.randn(3, 3, 40, 32), torch.randn(3, 40, 32), torch.randn(3, 40, 32)
    assert CoreRowKernels().causal(q, k, v, keep=True) is None
    assert CoreRowKernels().causal(q, k, v, keep=False) is not None
    torch.set_num_threads(before)


def test_what_does_not_fit_is_refused_and_other_numbers_are_left_to_pytorch(core):
    x, half = torch.randn(9, 64), torch.randn(9, 4)
    with pytest.raises(ValueError, match="narrow matrix"):
        core.low_rank_sums(x, 1.0, (torch.randn(32, 4), half), None)
    with pytest.raises(ValueError, match="float32"):
        core.low_rank_sums(x, 1.0, (torch.randn(64, 4).bfloat16(), half), None)
    with pytest.raises(ValueError, match="keys"):
        core.causal(torch.randn(2, 1, 7, 32), torch.randn(2, 6, 32), torch.randn(2, 6, 32), keep=False)
    mixed = adapted_linear(x, [torch.randn(5, 64)], [Term(torch.randn(4, 64).bfloat16(), torch.randn(5, 4), 1.0, 0)])
    assert mixed.isfinite().all()
    assert adapted_linear(
        x[:0].view(2, 0, 64), [torch.randn(5, 64)], [Term(torch.randn(4, 64), torch.randn(5, 4), 1.0, 0)]
    ).shape == (2, 0, 5)

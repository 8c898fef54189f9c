"""Encoder-decoders: cross-attention, batches without padding, the cache, and learning."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig
from zhixing.models.cross_attention import CrossAttention, read_source
from zhixing.models.loss import IGNORED, cross_entropy_sum, token_losses
from zhixing.models.positions import RelativeBias
from zhixing.models.ragged import Ragged
from zhixing.models.transformer import Transformer
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder, TransformerSeq2SeqConfig

SIDE = {"vocab_size": 23, "width": 16, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 4, "mlp_width": 24,
        "context": 40, "norm": "layer", "activation": "relu", "gated": False, "attention_bias": True,
        "attention_output_bias": True, "mlp_bias": True, "tied": True, "init_std": 0.3}  # fmt: skip
KINDS = {
    "paper": {"norm_placement": "residual", "position": "sinusoidal", "scale_embeddings": True, "head_bias": True},
    "bart": {"norm_placement": "residual", "position": "learned", "position_offset": 2, "embedding_norm": True},
    "t5": {"norm": "rms", "position": "relative", "relative_buckets": 8, "relative_distance": 20, "logit_scale": 0.25,
           "attention_scale": 1.0, "attention_bias": False, "attention_output_bias": False, "mlp_bias": False,
           "gated": True},
    "no positions": {"norm_placement": "pre", "position": "none", "kv_heads": 2, "tied": False},
}  # fmt: skip
SOURCES = [[5, 6, 7, 8, 9], [3], [4, 4, 9], [1, 2, 3]]
TARGETS = [[2, 3, 1], [9, 8, 7, 6, 5, 1], [1], [7, 1]]


def build(kind, shared=True, **changes):
    both = {**SIDE, **KINDS[kind], **changes}
    decoder = TransformerConfig(**both, cross_width=16)
    encoder = TransformerConfig(**{**both, "head_bias": False, "logit_scale": None, "tied": True}, causal=False)
    model = TransformerEncoderDecoder(TransformerSeq2SeqConfig(encoder, decoder, start=0, shared=shared))
    generator = torch.Generator().manual_seed(1)
    model.initialise(generator)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and "weight" in name else 0.0, 0.2, generator)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_each_pair_gives_alone_and_every_token_through_the_cache(kind):
    model = build(kind)
    targets = Ragged.of(TARGETS)
    inputs = model.shifted(targets)
    with torch.no_grad():
        together = inputs.split(model(Ragged.of(SOURCES), inputs))
        for source, target, logits in zip(SOURCES, TARGETS, together, strict=True):
            fed = [0, *target[:-1]]
            torch.testing.assert_close(logits, model(Ragged.of([source]), Ragged.of([fed])), atol=1e-5, rtol=1e-5)
            network = model.reading(Ragged.of([source]))
            cache = network.new_cache(1, len(fed))
            for place, token in enumerate(fed):
                step = network.next_logits(torch.tensor([[token]]), cache)
                torch.testing.assert_close(step[0], logits[place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_cache_are_repeated_and_reordered_with_their_sources(kind):
    model = build(kind)
    network = model.reading(Ragged.of(SOURCES[:3]))
    cache = network.new_cache(3, 8)
    with torch.no_grad():
        network.next_logits(torch.zeros(3, 1, dtype=torch.long), cache)
        cache.repeat(2)  # rows 0 0 1 1 2 2
        network.next_logits(torch.tensor([[1], [2], [3], [4], [5], [6]]), cache)
        assert cache.can_reorder(torch.tensor([1, 1, 2, 3, 5, 4]))
        assert not cache.can_reorder(torch.tensor([2, 1, 2, 3, 5, 4]))
        cache.reorder(torch.tensor([1, 1, 2, 3, 5, 4]))
        cache.keep(torch.tensor([5, 0, 2]))
        step = network.next_logits(torch.tensor([[7], [8], [9]]), cache)
        wanted = [(2, [0, 5, 7]), (0, [0, 2, 8]), (1, [0, 3, 9])]
        for row, (source, fed) in enumerate(wanted):
            alone = model(Ragged.of([SOURCES[source]]), Ragged.of([fed]))[-1]
            torch.testing.assert_close(step[row], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
def test_parameters_are_counted_exactly(kind, shared):
    model = build(kind, shared)
    assert model.config.parameter_count() == sum(p.numel() for p in model.parameters())
    assert model.decoder.config.parameter_count() == sum(p.numel() for p in model.decoder.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_batch_are_the_sum_of_those_of_its_pairs(kind):
    model = build(kind).train()
    targets = Ragged.of(TARGETS)
    model.loss_sum(Ragged.of(SOURCES), model.shifted(targets), targets.tokens, smoothing=0.1).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for source, target in zip(SOURCES, TARGETS, strict=True):
        one = Ragged.of([target])
        model.loss_sum(Ragged.of([source]), model.shifted(one), one.tokens, smoothing=0.1).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_activations_computed_again_give_the_same_gradients():
    model = build("paper").train()
    targets = Ragged.of(TARGETS)
    grads = []
    for again in (False, True):
        model.zero_grad()
        model.decoder.checkpoint_activations = again
        model.loss_sum(Ragged.of(SOURCES), model.shifted(targets), targets.tokens).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right)


def test_cross_attention_is_torchs():
    config = TransformerConfig(**SIDE, position="none", cross_width=10)
    layer = CrossAttention(config)
    theirs = torch.nn.MultiheadAttention(16, 4, kdim=10, vdim=10, batch_first=True)
    with torch.no_grad():
        theirs.q_proj_weight.copy_(layer.query.weight)
        theirs.k_proj_weight.copy_(layer.key.weight)
        theirs.v_proj_weight.copy_(layer.value.weight)
        theirs.in_proj_bias.copy_(torch.cat((layer.query.bias, layer.key.bias, layer.value.bias)))
        theirs.out_proj.weight.copy_(layer.output.weight)
        theirs.out_proj.bias.copy_(layer.output.bias)
        x, states = torch.randn(3, 5, 16), torch.randn(3, 7, 10)
        present = torch.arange(7)[None] < torch.tensor([7, 1, 4])[:, None]
        source = read_source([layer], states, present)
        ours = layer(x, source.keys[0], source.values[0], source.mask)
        wanted, _ = theirs(x, states, states, key_padding_mask=~present, need_weights=False)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_relative_biases_are_t5s(causal):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = TransformerConfig(**SIDE, position="relative", causal=causal, relative_distance=100)
    distances = torch.arange(-300, 300)
    theirs = t5.T5Attention._relative_position_bucket(distances, not causal, 32, 100)
    assert torch.equal(RelativeBias(config).buckets(distances), theirs)


def test_smoothed_loss_is_torchs_with_its_gradients():
    hidden, head, bias = torch.randn(6, 8), torch.randn(11, 8), torch.randn(11)
    targets = torch.tensor([1, 4, IGNORED, 10, 0, 4])
    parts = [part.clone().requires_grad_() for part in (hidden, head, bias)]
    ours = cross_entropy_sum(parts[0], parts[1], targets, bias=parts[2], smoothing=0.3)
    ours.backward()
    plain = [part.clone().requires_grad_() for part in (hidden, head, bias)]
    logits = plain[0] @ plain[1].t() + plain[2]
    theirs = F.cross_entropy(logits, targets, label_smoothing=0.3, reduction="sum", ignore_index=IGNORED)
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    for left, right in zip(parts, plain, strict=True):
        torch.testing.assert_close(left.grad, right.grad)
    each = F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(token_losses(hidden, head, targets, bias=bias), each.detach())


def test_it_learns_to_copy():
    model = build("paper", init_std=None).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        lengths = torch.randint(1, 3, (32,), generator=generator).tolist()
        texts = [torch.randint(2, 23, (length,), generator=generator).tolist() for length in lengths]
        targets = Ragged.of([[*text, 1] for text in texts])
        loss = model.loss_sum(Ragged.of(texts), model.shifted(targets), targets.tokens) / len(targets.tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.0  # guessing gives 3.1 for all but the end
    assert model.losses(Ragged.of(texts), model.shifted(targets), targets.tokens).mean() == pytest.approx(
        loss.item(), abs=0.3
    )


def test_what_does_not_fit_is_refused():
    model = build("bart")
    config = model.config
    with pytest.raises(BadInput, match="reads states of width 16"):
        dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, width=8, heads=2, kv_heads=2))
    with pytest.raises(BadInput, match="one size for both"):
        dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, vocab_size=9))
    with pytest.raises(BadInput, match="start token 23"):
        dataclasses.replace(config, start=23)
    with pytest.raises(BadInput, match="a target has 41 tokens"):
        model(Ragged.of([[1]]), Ragged.of([[1] * 41]))
    with pytest.raises(BadInput, match="a sequence has 41 tokens"):
        model(Ragged.of([[1] * 41]), Ragged.of([[1]]))
    with pytest.raises(BadInput, match="1 sources do not go with 2 targets"):
        model(Ragged.of([[1]]), Ragged.of([[1], [2]]))
    with pytest.raises(BadInput, match="2 sources are written for"):
        model.reading(Ragged.of([[1], [2]])).new_cache(3, 5)
    with pytest.raises(ValueError, match="a source is what"):
        Transformer(TransformerConfig(**SIDE, cross_width=16, position="none"))(torch.tensor([[1]]))
    for changes in ({"cross_width": 0}, {"parallel_residual": True, "cross_width": 4}, {"relative_buckets": 1}):
        with pytest.raises(BadInput):
            TransformerConfig(**SIDE, position="relative", **changes)

"""The whole network: cache, documents, padding, counting, checkpointing."""

import itertools
import math

import pytest
import torch

from zhixing.core.errors import BadInput
from zhixing.models import transformer
from zhixing.models.config import RopeScaling, TransformerConfig
from zhixing.models.transformer import Transformer

SIZES = {
    "vocab_size": 31,
    "width": 16,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 4,
    "mlp_width": 24,
    "context": 64,
}
KINDS = {
    "llama": {},
    "gpt2": {"norm": "layer", "position": "learned", "activation": "gelu_tanh", "gated": False, "attention_bias": True,
             "attention_output_bias": True, "mlp_bias": True, "tied": True, "kv_heads": 4},
    "qwen3": {"qk_norm": "before_rotary"},
    "nanochat": {"norm_weight": False, "embedding_norm": True, "rope_reversed": True, "qk_norm": "after_rotary",
                 "activation": "relu2", "gated": False, "logit_softcap": 15.0},
    "no positions": {"position": "none"},
    "windows": {"window": 5, "window_layers": (True, False), "local_rope_theta": 50.0},
    "windows everywhere, capped": {"window": 3, "attention_softcap": 2.0, "attention_scale": 0.7},
    "gemma": {"norm_offset": 1.0, "norm_placement": "sandwich", "scale_embeddings": True, "qk_norm": "before_rotary",
              "window": 4, "window_layers": (True, False), "activation": "gelu_tanh"},
    "olmo2": {"norm_placement": "post", "qk_norm": "before_rotary", "qk_norm_scope": "projection"},
    "qk-norm of layer kind, together": {"norm": "layer", "qk_norm": "after_rotary", "qk_norm_scope": "projection"},
    "weightless qk-norm, together": {"norm_weight": False, "qk_norm": "before_rotary", "qk_norm_scope": "projection"},
    "neox": {"norm": "layer", "parallel_residual": True, "rotary_dim": 2, "gated": False, "activation": "gelu"},
    "rotary in one layer": {"rotary_layers": (False, True)},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 8, 1.2)},
}  # fmt: skip


def build(kind, **changes):
    config = TransformerConfig(**{**SIZES, **KINDS[kind], "init_std": 0.3, **changes})
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_count_is_exact(kind):
    model = build(kind)
    assert model.config.parameter_count() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_cache_gives_the_same_logits_in_any_pieces(kind):
    model, tokens = build(kind), torch.randint(0, 31, (2, 20))
    with torch.no_grad():
        whole = model(tokens)
        for cuts in ([0, 20], [0, 7, 20], [0, 1, 2, 19, 20], list(range(21))):
            cache = model.new_cache(2, 20)
            parts = [model(tokens[:, a:b], cache=cache) for a, b in itertools.pairwise(cuts)]
            torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_changes_nothing(kind):
    model, tokens = build(kind), torch.randint(0, 31, (1, 12))
    other = tokens.clone()
    other[0, 8:] = (other[0, 8:] + 1) % 31
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :8], model(other)[:, :8], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_documents_on_their_own(kind):
    model = build(kind)
    first, second = torch.randint(0, 31, (1, 7)), torch.randint(0, 31, (1, 5))
    packed = torch.cat([first, second], 1)
    segments = torch.tensor([[0] * 7 + [1] * 5])
    with torch.no_grad():
        logits = model(packed, segments)
        torch.testing.assert_close(logits[:, :7], model(first), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits[:, 7:], model(second), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_changes_nothing(kind):
    model, tokens = build(kind), torch.randint(0, 31, (1, 9))
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), tokens], 1)
    with torch.no_grad():
        plain = model(tokens)
        cache = model.new_cache(1, 20, padding=torch.tensor([4]))
        first = model(padded[:, :10], cache=cache)
        rest = torch.cat([model(padded[:, i : i + 1], cache=cache) for i in range(10, 13)], 1)
        torch.testing.assert_close(torch.cat([first[:, 4:], rest], 1), plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_training_computes_the_same_as_evaluation(kind):
    # Training joins projections and writes gradients by hand where it can; it must not forget a feature.
    model, tokens = build(kind), torch.randint(0, 31, (2, 14))
    with torch.no_grad():
        expected = model(tokens)
    torch.testing.assert_close(model.train()(tokens).detach(), expected, atol=1e-5, rtol=1e-4)


LONG = {
    "dynamic": RopeScaling("dynamic", 4.0, 8),
    "longrope": RopeScaling("longrope", 1.0, 8, 1.1, short_factors=(1.0, 1.5), long_factors=(2.0, 5.0)),
}


@pytest.mark.parametrize("scaling", LONG)
def test_frequencies_that_depend_on_the_length_are_each_sequences_own(scaling):
    model = build("llama", rope_scaling=LONG[scaling])
    short, long = torch.randint(0, 31, (1, 6)), torch.randint(0, 31, (1, 11))
    with torch.no_grad():
        alone = [model(short), model(long)]
        together = model(torch.cat([short, long], 1), torch.tensor([[0] * 6 + [1] * 11]))
        torch.testing.assert_close(together, torch.cat(alone, 1), atol=1e-5, rtol=1e-4)
        cache = model.new_cache(2, 20, padding=torch.tensor([5, 0]))
        padded = model(torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), short], 1), long]), cache=cache)
        torch.testing.assert_close(padded[:1, 5:], alone[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(padded[1:], alone[1], atol=1e-5, rtol=1e-4)
        other = model(torch.cat([short, long[:, :5]], 1))[:, :6]
    assert not torch.allclose(other, alone[0], atol=1e-3)  # in a longer sequence the same tokens are rotated otherwise


def test_longrope_reads_again_when_a_sequence_outgrows_the_original_context():
    model, tokens = build("llama", rope_scaling=LONG["longrope"]), torch.randint(0, 31, (2, 14))
    padding = torch.tensor([0, 3])
    with torch.no_grad():
        for cuts in ([0, 5, 14], [0, 8, 9, 14], list(range(15))):
            cache = model.new_cache(2, 14, padding)
            for a, b in itertools.pairwise(cuts):
                logits = model(tokens[:, a:b], cache=cache)
            assert cache.length == 14
            torch.testing.assert_close(logits[:1, -1], model(tokens[:1])[:, -1], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(logits[1:, -1], model(tokens[1:, 3:])[:, -1], atol=1e-5, rtol=1e-4)


def test_remembered_tokens_follow_their_sequences():
    model, tokens = build("llama", rope_scaling=LONG["longrope"]), torch.randint(0, 31, (3, 7))
    with torch.no_grad():
        cache = model.new_cache(3, 12)
        model(tokens, cache=cache)
        cache.keep(torch.tensor([2, 0]))
        cache.repeat(2)
        more = torch.randint(0, 31, (4, 3))
        logits = model(more, cache=cache)[:, -1]
        whole = torch.cat([tokens[[2, 2, 0, 0]], more], 1)
        torch.testing.assert_close(logits, model(whole)[:, -1], atol=1e-5, rtol=1e-4)


def test_activation_checkpointing_gives_the_same_gradients():
    tokens, targets = torch.randint(0, 31, (2, 10)), torch.randint(0, 31, (2, 10))
    results = []
    for checkpointing in (0, 1, 20, 21):
        model = build("llama").train()
        model.checkpoint_activations = checkpointing
        model.loss_sum(tokens, targets).backward()
        results.append([p.grad.clone() for p in model.parameters()])
    for kept, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(kept, other)


@pytest.mark.parametrize("least", [0, 1, 20, 21])
def test_only_passes_of_so_many_tokens_compute_activations_again(least, monkeypatch):
    calls = []
    monkeypatch.setattr(transformer, "checkpoint", lambda block, *parts, **_: calls.append(block) or block(*parts))
    model = build("llama").train()
    model.checkpoint_activations = least
    model(torch.randint(0, 31, (2, 10)))
    assert len(calls) == (len(model.blocks) if 0 < least <= 20 else 0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma"])
def test_a_fresh_model_begins_near_the_loss_of_guessing(kind, tied):
    model = build(kind, tied=tied, init_std=None, zero_init_outputs=True, width=64, head_dim=16)
    tokens, targets = torch.randint(0, 31, (2, 30)), torch.randint(0, 31, (2, 30))
    assert float(model.losses(tokens, targets).mean()) < 1.5 * math.log(31)


def test_losses_agree_with_the_training_loss():
    model = build("nanochat")
    tokens, targets = torch.randint(0, 31, (2, 10)), torch.randint(0, 31, (2, 10))
    torch.testing.assert_close(model.losses(tokens, targets).sum(), model.loss_sum(tokens, targets).detach())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", 3),
        ("width", 0),
        ("dropout", 1.0),
        ("head_dim", 5),
        ("vocab_size", -1),
        ("rotary_dim", 3),
        ("rotary_dim", 6),
        ("window", 0),
        ("window_layers", (True, True)),
        ("rotary_layers", (True,)),
        ("attention_softcap", 0.0),
        ("attention_scale", -1.0),
        ("rope_theta", 0.0),
    ],
)
def test_impossible_configurations_are_refused(field, value):
    with pytest.raises(BadInput, match=field):
        TransformerConfig(**{**SIZES, field: value})

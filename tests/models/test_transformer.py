"""The whole network: cache, documents, padding, counting, checkpointing."""

import itertools

import pytest
import torch

from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig
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


def test_activation_checkpointing_gives_the_same_gradients():
    tokens, targets = torch.randint(0, 31, (2, 10)), torch.randint(0, 31, (2, 10))
    results = []
    for checkpointing in (False, True):
        model = build("llama").train()
        model.checkpoint_activations = checkpointing
        model.loss_sum(tokens, targets).backward()
        results.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_losses_agree_with_the_training_loss():
    model = build("nanochat")
    tokens, targets = torch.randint(0, 31, (2, 10)), torch.randint(0, 31, (2, 10))
    torch.testing.assert_close(model.losses(tokens, targets).sum(), model.loss_sum(tokens, targets).detach())


@pytest.mark.parametrize(
    ("field", "value"),
    [("heads", 3), ("width", 0), ("dropout", 1.0), ("head_dim", 5), ("vocab_size", -1)],
)
def test_impossible_configurations_are_refused(field, value):
    with pytest.raises(BadInput, match=field):
        TransformerConfig(**{**SIZES, field: value})

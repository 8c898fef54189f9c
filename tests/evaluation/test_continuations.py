"""Scores of continuations against a plain loop over single tokens, for every kind of network."""

import random

import pytest
import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.evaluation.continuations import ContinuationScorer
from zhixing.families.gpt2 import FIXED as GPT2
from zhixing.families.llama import FIXED as LLAMA
from zhixing.models.config import TransformerConfig
from zhixing.models.network import Cache, CausalNetwork, NetworkConfig
from zhixing.models.recurrent import RecurrentConfig, RecurrentNetwork
from zhixing.models.transformer import Transformer

VOCABULARY = 40


class Plain(CausalNetwork):
    """A network that gives nothing but the logits of the next token."""

    def __init__(self, inner: CausalNetwork) -> None:
        super().__init__()
        self.inner = inner

    @property
    def config(self) -> NetworkConfig:
        return self.inner.config

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> Cache:
        return self.inner.new_cache(batch, capacity, padding)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        return self.inner.next_logits(tokens, cache)


def network(kind: str) -> CausalNetwork:
    if kind == "plain":
        return Plain(network("llama"))
    generator = torch.Generator().manual_seed(0)
    model: Transformer | RecurrentNetwork
    if kind == "lstm":
        model = RecurrentNetwork(RecurrentConfig(vocab_size=VOCABULARY, cell="lstm", width=8, hidden=12, layers=1))
    else:
        sizes = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 8, "mlp_width": 48, "context": 64}
        fixed = LLAMA if kind == "llama" else GPT2
        model = Transformer(TransformerConfig(vocab_size=VOCABULARY, zero_init_outputs=False, **sizes, **fixed))
    model.initialise(generator)
    return model.eval()


def plainly(model: CausalNetwork, context: list[int], continuation: list[int], longest: int) -> tuple[float, bool]:
    """Reads the whole beginning anew for every token."""
    whole = (context + continuation)[-(longest + 1) :]
    total, greedy = 0.0, True
    for place in range(len(whole) - len(continuation), len(whole)):
        tokens = torch.tensor([whole[:place]])
        with torch.inference_mode():
            logits = model.next_logits(tokens, model.new_cache(1, place))[0]
        total += float(logits.log_softmax(0)[whole[place]])
        greedy &= int(logits.argmax()) == whole[place]
    return total, greedy


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lstm", "plain"])
def test_as_a_plain_loop(kind: str) -> None:
    model = network(kind)
    generator = random.Random(0)

    def tokens(least: int, most: int) -> list[int]:
        return [generator.randrange(VOCABULARY) for _ in range(generator.randint(least, most))]

    requests: list[tuple[list[int], list[int]]] = []
    for _ in range(10):  # one context with several continuations, some of one token, some equal
        context = tokens(1, 60)
        requests += [(context, tokens(1, 6)) for _ in range(3)] + [(context, [k]) for k in range(4)]
    requests += [(tokens(1, 60), tokens(1, 4)) for _ in range(12)]
    requests.append((tokens(70, 70), tokens(3, 3)))
    context = tokens(30, 30)
    with torch.inference_mode():
        best = int(model.next_logits(torch.tensor([context]), model.new_cache(1, 30))[0].argmax())
    requests.append((context, [best]))
    scorer = ContinuationScorer(model)
    done: list[int] = []
    found = scorer(requests, done.append)
    longest = min(scorer.longest, 1 << 20)
    for (before, continuation), one in zip(requests, found, strict=True):
        total, greedy = plainly(model, before, continuation, longest)
        assert one.log_probability == pytest.approx(total, abs=2e-4)
        assert one.greedy == greedy
    assert found[-1].greedy
    assert sum(done) == len(requests)
    assert scorer.truncated >= (kind != "lstm")


def test_the_same_input_with_more_or_less_of_it_asked_for() -> None:
    model = network("llama")
    tokens = list(range(30))
    requests = [(tokens[:28], tokens[28:30]), (tokens[:20], tokens[20:30]), (tokens[:29], [29]), (tokens[:29], [3])]
    for request, one in zip(requests, ContinuationScorer(model)(requests), strict=True):
        assert one.log_probability == pytest.approx(plainly(model, *request, 64)[0], abs=1e-4)


def test_what_cannot_be_scored() -> None:
    scorer = ContinuationScorer(network("llama"))
    for request in (([], [1]), ([1], []), ([1], [2] * 65)):
        with pytest.raises(BadInput):
            scorer([request])
    assert scorer([]) == []

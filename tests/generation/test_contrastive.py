"""Contrastive search against its definition, with transformers' hidden states, and in batches."""

import pytest
import torch
from oracle import VOCAB, models

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions

transformers = pytest.importorskip("transformers")
PROMPTS = [[5, 4, 22, 3, 9, 5, 9], [0], [9, 5], [1, 30, 4, 17, 2]]


def by_definition(prompt, alpha, k, count, banned=()):
    """Reads everything anew for every candidate."""
    theirs, tokens = models()[0], list(prompt)
    for _ in range(count):
        with torch.no_grad():
            logits = theirs(torch.tensor([tokens])).logits[0, -1]
            logits[list(banned)] = float("-inf")
            shares, candidates = logits.softmax(-1).topk(k)
            ways = torch.tensor([[*tokens, candidate] for candidate in candidates.tolist()])
            hidden = theirs(ways, output_hidden_states=True).hidden_states[-1]
        states = torch.nn.functional.normalize(hidden, dim=-1)
        alike = (states[:, :-1] @ states[:, -1:].transpose(1, 2)).amax(1).squeeze(1)
        scores = (1 - alpha) * shares - alpha * alike
        tokens.append(int(candidates[scores.argmax()]))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.2, 8), (0.9, 2), (1.0, VOCAB)])
def test_tokens_are_those_of_the_definition_in_a_batch_too(alpha, k):
    options = SamplingOptions(penalty_alpha=alpha, top_k=k, max_tokens=14, end_tokens=())
    together = Generator(models()[1], None).generate(PROMPTS, options)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        assert answer.tokens == by_definition(prompt, alpha, k, 14)


def test_it_is_not_greedy_and_ends_where_it_should():
    options = SamplingOptions(penalty_alpha=0.6, top_k=5, max_tokens=20, end_tokens=(), suppress_tokens=[4])
    free = by_definition(PROMPTS[0], 0.6, 5, 20, [4])
    greedy = Generator(models()[1], None).generate(
        PROMPTS[:1], SamplingOptions(temperature=0, max_tokens=20, end_tokens=())
    )
    assert greedy[0].tokens != free
    ends = (free[6], by_definition(PROMPTS[1], 0.6, 5, 20, [4])[2])
    together = Generator(models()[1], None).generate(PROMPTS, options.replace(end_tokens=ends))
    for prompt, answer in zip(PROMPTS, together, strict=True):
        whole = by_definition(prompt, 0.6, 5, 20, [4])
        cut = min([whole.index(end) + 1 for end in ends if end in whole], default=20)
        assert answer.tokens == whole[:cut]
    assert len({len(answer.tokens) for answer in together}) > 1


def test_it_streams_fills_the_context_and_tells_logprobs():
    generator = Generator(models()[1], None)
    options = SamplingOptions(penalty_alpha=0.6, top_k=4, max_tokens=500, end_tokens=(), logprobs=1)
    stream = generator.stream([9, 5], options)
    assert list(stream) == []  # there is no tokenizer, so no text
    answer = stream.generation
    assert len(answer.tokens) == 62 and "context of 64 tokens is full" in answer.detail
    with torch.no_grad():
        own = models()[1](torch.tensor([[9, 5, *answer.tokens]]))[0].log_softmax(-1)
    for place, entry in enumerate(answer.logprobs):
        assert entry.logprob == pytest.approx(own[1 + place, answer.tokens[place]].item(), abs=1e-3)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(BadInput, match="needs a top_k of at least 2"):
        SamplingOptions(penalty_alpha=0.6)
    with pytest.raises(BadInput, match="does not go with guidance"):
        SamplingOptions(penalty_alpha=0.6, top_k=4, guidance_scale=2.0)
    with pytest.raises(BadInput, match=r"temperature = 0\.5 has no effect on contrastive search"):
        SamplingOptions().replace(penalty_alpha=0.6, top_k=4, temperature=0.5)
    with pytest.raises(BadInput, match="would all be the same"):
        SamplingOptions(penalty_alpha=0.6, top_k=4, n=2)

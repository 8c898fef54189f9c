"""Processors: the tokens that `transformers` writes greedily with each, and rows that padding does not change."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import VOCAB, models, their_tokens

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.chain import processors_for
from zhixing.generation.penalties import CountPenalty, NoRepeatNGrams
from zhixing.generation.sampling import Context
from zhixing.tokenization.train import train_tokenizer

transformers = pytest.importorskip("transformers")
PROMPT = [5, 4, 22, 3, 9, 5, 9]
ENDS = [7, 31]

CASES = {
    "repetition": ({"repetition_penalty": 1.7}, {}),
    "prompt": ({"encoder_repetition_penalty": 1.9}, {}),
    "n-grams of one": ({"no_repeat_ngram_size": 1}, {}),
    "n-grams of two": ({"no_repeat_ngram_size": 2}, {}),
    "n-grams of three": ({"no_repeat_ngram_size": 3}, {}),
    "prompt's n-grams": ({"encoder_no_repeat_ngram_size": 2}, {}),
    "bias": ({"sequence_bias": [[[4], 9.0], [[4, 17], 12.0], [[9, 4, 17], -20.0]]},
             {"logit_bias": {4: 9.0, (4, 17): 12.0, (9, 4, 17): -20.0}}),
    "bad words": ({"bad_words_ids": [[n] for n in range(12, 30)] + [[31], [3, 4], [9, 5, 9]]},
                  {"bad_words": [[n] for n in range(12, 30)] + [[31], [3, 4], [9, 5, 9]]}),
    "suppressed": ({"suppress_tokens": list(range(20))}, {}),
    "suppressed first": ({"begin_suppress_tokens": list(range(30))}, {}),
    "min new tokens": ({"min_new_tokens": 6}, {"min_tokens": 6}),
    "min length": ({"min_length": 14}, {}),
    "forced end": ({"forced_eos_token_id": 7}, {}),
    "forced ends": ({"forced_eos_token_id": [31, 7]}, {}),
    "decay": ({"exponential_decay_length_penalty": (3, 1.4)}, {}),
    "valid": ({"remove_invalid_values": True}, {}),
    "all": ({"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "suppress_tokens": [3, 4, 5], "min_new_tokens": 9,
             "exponential_decay_length_penalty": (9, 1.1), "forced_eos_token_id": 7,
             "sequence_bias": [[[4], 3.0], [[17], -2.0]], "bad_words_ids": [[9, 8], [22]]},
            {"min_tokens": 9, "logit_bias": {4: 3.0, 17: -2.0}, "bad_words": [[9, 8], [22]]}),
}  # fmt: skip
RENAMED = {"min_new_tokens", "sequence_bias", "bad_words_ids"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ends", [None, ENDS])
def test_greedy_tokens_are_those_of_transformers(name, ends):
    theirs, ours = CASES[name]
    if ends is None and "exponential_decay_length_penalty" in theirs:
        pytest.skip("without an end token nothing decays, there as here")
    options = {**{key: value for key, value in theirs.items() if key not in RENAMED}, **ours}
    expected = their_tokens(PROMPT, 24, eos_token_id=ends, **theirs)[0][0].tolist()
    chosen = SamplingOptions(temperature=0, max_tokens=24, end_tokens=tuple(ends or ()), **options)
    written = Generator(models()[1], None).generate([PROMPT], chosen)[0].tokens
    plain = Generator(models()[1], None).generate(
        [PROMPT], SamplingOptions(temperature=0, max_tokens=24, end_tokens=tuple(ends or ()))
    )
    assert written == expected[: len(written)]
    assert len(written) == 24 or written[-1] in ENDS
    if name not in ("valid", "forced end", "forced ends"):
        assert name in ("min length", "min new tokens") or written != plain[0].tokens


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(name):
    theirs, ours = CASES[name]
    options = {**{key: value for key, value in theirs.items() if key not in RENAMED}, **ours}
    chosen = SamplingOptions(temperature=0, max_tokens=14, end_tokens=tuple(ENDS), **options)
    generator = Generator(models()[1], None)
    prompts = [PROMPT, [0], [9, 5], [0, 0, 4, 17, 0]]
    together = generator.generate(prompts, chosen)
    for prompt, answer in zip(prompts, together, strict=True):
        assert answer.tokens == generator.generate([prompt], chosen)[0].tokens


EVERY = {
    "temperature": 0.0, "repetition_penalty": 1.3, "encoder_repetition_penalty": 1.2, "presence_penalty": 0.4,
    "frequency_penalty": 0.3, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 1, "min_tokens": 3,
    "min_length": 7, "bad_words": [[1, 2], [3]], "logit_bias": {0: 0.5, (2, 1): -0.5, (0, 0, 4): 2.0},
    "suppress_tokens": [5], "begin_suppress_tokens": [4], "exponential_decay_length_penalty": (1, 1.3),
    "forced_bos_token_id": 2, "forced_eos_token_id": 6,
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_padding_changes_nothing_for_any_processor(data):
    """A row among longer ones gets what it gets alone, whatever stands in its padding."""
    name = data.draw(st.sampled_from(sorted(EVERY)))
    time, written = data.draw(st.integers(2, 9)), data.draw(st.integers(0, 4))
    lengths = [data.draw(st.integers(1, time)) for _ in range(3)]
    tokens = torch.tensor(data.draw(st.lists(st.lists(st.integers(0, 6), min_size=time + written,
                                                      max_size=time + written), min_size=3, max_size=3)))  # fmt: skip
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    padding = torch.tensor([time - length for length in lengths])
    room = torch.tensor([written + data.draw(st.integers(1, 2)) for _ in range(3)])
    for process in processors_for(SamplingOptions(**{name: EVERY[name]}), ends=(6, 3)):
        together = process(logits.clone(), Context(tokens, padding, time, room))
        for row, length in enumerate(lengths):
            own = Context(tokens[row : row + 1, time - length :], torch.tensor([0]), length, room[row : row + 1])
            assert torch.equal(process(logits[row : row + 1].clone(), own)[0], together[row])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(1, 4), st.integers(1, 14), st.booleans())
def test_no_sequence_comes_twice(tokens, size, prompt, of_prompt):
    prompt = min(prompt, len(tokens))
    context = Context(torch.tensor([tokens]), torch.tensor([0]), prompt)
    allowed = NoRepeatNGrams(size, of_prompt)(torch.zeros(1, 4), context)[0] == 0
    source = tokens[:prompt] if of_prompt else tokens
    there = {tuple(source[start : start + size]) for start in range(len(source) - size + 1)}
    for token in range(4):
        newest = tuple([*tokens, token][-size:])
        assert allowed[token] == (newest not in there)


@pytest.mark.parametrize("prompt", [[5], [5, 6]])
def test_forced_first_token_and_what_is_suppressed_behind_it(prompt):
    options = {"forced_bos_token_id": 11, "begin_suppress_tokens": list(range(30))}
    expected = their_tokens(prompt, 5, **options)[0][0].tolist()
    chosen = SamplingOptions(temperature=0, max_tokens=5, end_tokens=(), **options)
    generator = Generator(models()[1], None)
    assert generator.generate([prompt], chosen)[0].tokens == expected
    both = generator.generate([[5], [5, 6]], chosen)
    assert expected in [answer.tokens for answer in both]


def test_count_penalties_are_openais_definition():
    """logit - count * frequency - (count > 0) * presence, over the answer's tokens only."""
    tokens = torch.tensor([[0, 1, 1, 4, 4, 4, 2], [3, 1, 1, 0, 2, 2, 2]])
    logits = torch.randn(2, 6)
    expected = logits.clone()
    for row in range(2):
        for token in range(6):
            count = tokens[row, 3:].tolist().count(token)
            expected[row, token] -= count * 0.3 + (count > 0) * 0.7
    context = Context(tokens, torch.tensor([1, 0]), 3)
    torch.testing.assert_close(CountPenalty(0.7, 0.3)(logits, context), expected)
    assert CountPenalty(0.7, 0.3)(logits, Context(tokens[:, :3], torch.tensor([1, 0]), 3)) is logits


def test_penalties_for_counts_reach_the_answer():
    generator = Generator(models()[1], None)
    options = SamplingOptions(temperature=0, max_tokens=30, end_tokens=())
    varied = generator.generate([PROMPT], options.replace(presence_penalty=1000.0 / 10))[0].tokens
    assert len(set(varied)) == 30
    assert len(set(generator.generate([PROMPT], options.replace(presence_penalty=-100.0))[0].tokens)) == 1


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["to know is to act and to act is to know"] * 3, "byte-bpe", 290)[0]


def test_texts_are_spelled_by_the_tokenizer(tokenizer):
    options = SamplingOptions(logit_bias={" know": 2.0, 4: 1.0}, bad_words="act")
    chain = processors_for(options, tokenizer=tokenizer, vocab_size=290)
    spelled = tokenizer.encode(" know")
    tokens = torch.tensor([[1, *spelled[:-1]]])
    context = Context(tokens, torch.tensor([0]), 1)
    biased = chain[0](torch.zeros(1, 290), context)[0]
    assert biased[spelled[-1]] == 2.0
    assert biased[4] == 1.0
    for text in ("act", " act"):
        *before, last = tokenizer.encode(text)
        banned = chain[1](torch.zeros(1, 290), Context(torch.tensor([[1, *before]]), torch.tensor([0]), 1))[0]
        assert banned[last] == float("-inf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bad_words": "act"}, "without a tokenizer 'act' cannot be spelled"),
        ({"logit_bias": {VOCAB: 1.0}}, "token id 40 is outside of the vocabulary of 40"),
        ({"suppress_tokens": [99]}, "suppress_tokens: token id 99"),
        ({"forced_bos_token_id": 99}, "forced_bos_token_id: token id 99"),
        ({"suppress_tokens": list(range(VOCAB))}, "exclude every token, after 0 tokens"),
        ({"no_repeat_ngram_size": 1, "max_tokens": 60}, "exclude every token, after 35 tokens"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message):
    chosen = SamplingOptions(temperature=0, end_tokens=()).replace(**options)
    with pytest.raises(BadInput, match=message):
        Generator(models()[1], None).generate([PROMPT], chosen)


def test_longest_time_and_length():
    generator = Generator(models()[1], None)
    options = SamplingOptions(temperature=0, max_tokens=50, end_tokens=())
    hurried = generator.generate([PROMPT, [1]], options.replace(max_seconds=1e-6))
    assert [(answer.finish_reason, len(answer.tokens)) for answer in hurried] == [("time", 1)] * 2
    assert "max_seconds (1e-06) over" in hurried[0].detail
    bounded = generator.generate([PROMPT, [1]], options.replace(max_length=10))
    assert [len(answer.tokens) for answer in bounded] == [3, 9]
    assert "max_length (10) reached (prompt 7, answer 3)" in bounded[0].detail
    with pytest.raises(BadInput, match="prompt 1 of 2: the prompt has 7 tokens, which leaves no room"):
        generator.generate([PROMPT, [1]], options.replace(max_length=7))


def test_custom_processors_come_last_and_may_work_in_place():
    class Force:
        def __call__(self, logits, context):
            return logits.fill_(0.0).index_fill_(1, torch.tensor([context.written % 3]), 1.0)

    model = models()[1]
    options = SamplingOptions(temperature=0, max_tokens=5, end_tokens=(), repetition_penalty=9.0, logprobs=1)
    answer = Generator(model, None, processors=[Force()]).generate([PROMPT], options)[0]
    assert answer.tokens == [0, 1, 2, 0, 1]
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT]))[0, -1].log_softmax(-1)
    assert answer.logprobs[0].logprob == pytest.approx(expected[0].item(), abs=1e-4)

"""Where two greedy answers part: against the answers themselves."""

import copy

import pytest
import torch

from zhixing.evaluation.greedy import beginnings, greedy_answer, partings
from zhixing.families.llama import FIXED
from zhixing.generation import Generator, SamplingOptions
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

TOKENIZER = train_tokenizer([], "byte").tokenizer
PROMPTS = [TOKENIZER.encode(text) for text in ("To know", "and to do", "are one")]


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = TransformerConfig(
        vocab_size=TOKENIZER.vocab_size, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp_width=48,
        context=64, **FIXED,
    )  # fmt: skip
    made = Transformer(config)
    made.initialise(torch.Generator().manual_seed(3))
    return made.eval()


def test_answers_are_the_generators(model: Transformer) -> None:
    options = SamplingOptions(temperature=0, max_tokens=12, end_tokens=())
    for prompt, written in zip(PROMPTS, Generator(model, None).generate(PROMPTS, options), strict=True):
        assert greedy_answer(model, prompt, 12)[0] == written.tokens


def test_a_network_does_not_part_from_itself(model: Transformer) -> None:
    assert partings(model, copy.deepcopy(model), TOKENIZER, PROMPTS, 12) == []


def test_partings_name_the_first_difference_and_its_size(model: Transformer) -> None:
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    found = {one.prompt: one for one in partings(model, other, TOKENIZER, PROMPTS, 12)}
    assert found
    for number, prompt in enumerate(PROMPTS, 1):
        (mine, logits), (theirs, _) = greedy_answer(model, prompt, 12), greedy_answer(other, prompt, 12)
        if number not in found:
            assert mine == theirs
            continue
        at = found[number].place - 1
        assert mine[:at] == theirs[:at] and mine[at] != theirs[at]
        assert found[number].gap == pytest.approx(float(logits[at].max() - logits[at][theirs[at]]))
        assert found[number].gap >= 0


def test_beginnings_are_lines_that_are_long_enough() -> None:
    found = beginnings(TOKENIZER, ["short\nabcdefgh\n\nijklmnop", "qrstuvwx"], 2, size=6)
    assert [TOKENIZER.decode(one) for one in found] == ["abcdef", "ijklmn"]

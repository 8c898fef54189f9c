"""Lets a network in training write: what reinforcement learning and distillation on whole sequences draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zhixing.generation.generate import Generator
from zhixing.generation.options import SamplingOptions
from zhixing.tokenization.chat_format import ChatFormat
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Writer, Written


def writer_for(model: Any, tokenizer: Tokenizer) -> Writer:
    """Returns a writer; it reads the network's weights anew for every call.

    An answer ends with the tokenizer's end of text, or with what ends a turn where it has a chat template.
    """
    ends = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
    if tokenizer.chat_templates is not None:
        turn = ChatFormat(tokenizer).end_of_turn
        ends += [] if turn is None or turn in ends else [turn]

    def write(
        prompts: Sequence[Sequence[int]], *, samples: int, seeds: Sequence[int], temperature: float, max_tokens: int
    ) -> list[list[Written]]:
        options = SamplingOptions(temperature=temperature, max_tokens=max_tokens, n=samples, end_tokens=tuple(ends))
        found: list[list[Written]] = [[] for _ in prompts]
        # The samples of a prompt share its reading; the native core is left alone, since its weights are a copy.
        for answer in Generator(model, tokenizer).generate([list(prompt) for prompt in prompts], options, seeds):
            found[answer.prompt].append(Written(answer.tokens, answer.text, answer.finish_reason == "stop"))
        return found

    return write

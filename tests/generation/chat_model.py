"""A tiny random network with a tokenizer that has a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tests.tokenization.chat_samples import TEMPLATES, make_tokenizer

from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization import Tokenizer

SIZES = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_width": 48}


def chat_tokenizer(template: str = "chatml", **config: Any) -> Tokenizer:
    plain = make_tokenizer()
    return Tokenizer(plain.definition, {**plain.roles, "chat_template": TEMPLATES.get(template, template), **config})


def chat_network(tokenizer: Tokenizer, context: int = 512, **options: Any) -> Transformer:
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, context=context, **{**SIZES, **FIXED, **options})
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():  # a network as it begins says the same whatever it is told
            parameter.mul_(4)
    return model.eval()


class Scripted:
    """A logits processor that makes the model write given texts, one per answer."""

    def __init__(self, tokenizer: Tokenizer, *answers: str, end: str = "<|im_end|>") -> None:
        ends = [tokenizer.vocabulary[end]]
        self._answers: Iterator[list[int]] = iter(
            [*tokenizer.encode(answer, parse_special=True), *ends] for answer in answers
        )
        self._now: list[int] = []

    def __call__(self, logits: torch.Tensor, context: Any) -> torch.Tensor:
        written = context.tokens.shape[1] - context.prompt
        if written == 0:
            self._now = next(self._answers)
        forced = torch.full_like(logits, float("-inf"))
        forced[:, self._now[written]] = 0.0
        return forced

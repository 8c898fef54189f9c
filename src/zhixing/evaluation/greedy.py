"""Greedy answers of two forms of one model, side by side: where they part, and by how little.

Two ways to compute the same network round differently, so that their texts part sooner or later; that is no fault where
both candidates are nearly tied. What is not here: what a difference means for an export (`workflows.parity`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zhixing.core.progress import progress_bar
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.tokenizer import Tokenizer

PROMPT = 16
"""Tokens of a stretch of text that are continued."""


@dataclass(frozen=True)
class Parting:
    """Where two answers to one prompt part.

    Attributes:
        prompt: The number of the prompt, from 1.
        place: The number of the token of the answer, from 1.
        gap: How much the reference prefers its own token to the other one, in logits.
        tokens: The reference's token and the other one, as they read.
    """

    prompt: int
    place: int
    gap: float
    tokens: tuple[str, str]

    def __str__(self) -> str:
        mine, other = self.tokens
        return f"prompt {self.prompt}, token {self.place}: {mine!r} or {other!r}, {self.gap:.4f} logits apart"


def greedy_answer(network: CausalNetwork, tokens: Sequence[int], count: int) -> tuple[list[int], list[Tensor]]:
    """Answers greedily.

    Returns:
        The tokens, and the logits that each was chosen by, (vocab).
    """
    network.eval()
    cache = network.new_cache(1, len(tokens) + count)
    written: list[int] = []
    seen: list[Tensor] = []
    read = torch.tensor([list(tokens)])
    with torch.inference_mode():
        for _ in range(count):
            logits = network.next_logits(read, cache)[0].float()
            seen.append(logits)
            written.append(int(logits.argmax()))
            read = torch.tensor([written[-1:]])
    return written, seen


def beginnings(tokenizer: Tokenizer, texts: Iterable[str], most: int, size: int = PROMPT) -> list[list[int]]:
    """Returns the first tokens of up to `most` lines that are long enough to be continued."""
    found: list[list[int]] = []
    for text in texts:
        for line in text.splitlines():
            if len(found) == most:
                return found
            tokens = tokenizer.encode(line.strip(), special=True)
            if len(tokens) > size:
                found.append(tokens[:size])
    return found


def partings(
    reference: CausalNetwork, other: CausalNetwork, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], count: int
) -> list[Parting]:
    """Returns where the other's greedy answers part from the reference's, for those that do.

    Args:
        reference: The network whose logits judge.
        other: The same, computed another way.
        tokenizer: Of both.
        prompts: Token ids.
        count: Tokens of an answer.
    """
    found: list[Parting] = []
    with progress_bar("Answering", len(prompts)) as bar:
        for number, prompt in enumerate(prompts, 1):
            mine, logits = greedy_answer(reference, prompt, count)
            theirs, _ = greedy_answer(other, prompt, count)
            for place, (one, two) in enumerate(zip(mine, theirs, strict=True)):
                if one != two:
                    gap = float(logits[place][one] - logits[place][two])
                    found.append(Parting(number, place + 1, gap, (tokenizer.decode([one]), tokenizer.decode([two]))))
                    break
            bar.advance(1)
    return found

"""What the C++ core's number formats cost: perplexity and likeliest tokens against float32, position by position.

The reference is PyTorch in float32 on the expanded weights; the other side is the core, on the packed weights of the
file or on weights that it quantised itself. Both read the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.core.progress import progress_bar
from zhixing.models.transformer import Transformer
from zhixing.native.network import NativeNetwork
from zhixing.tokenization.tokenizer import Tokenizer

WINDOW = 256
NEAR = 0.1
"""Logits: two tokens that are nearer than this in float32 are called nearly tied."""


@dataclass(frozen=True)
class Quality:
    """How near the core is to float32.

    Attributes:
        tokens: Positions compared.
        perplexity: The core's.
        reference: That of float32.
        agreement: Share of positions with the same likeliest token.
        near_ties: Share of positions with another one, where float32 holds the two for nearly tied.
        widest: The largest difference, in float32's logits, between its likeliest token and the core's.
        divergence: Mean Kullback-Leibler divergence from float32, in nats.
    """

    tokens: int
    perplexity: float
    reference: float
    agreement: float
    near_ties: float
    widest: float
    divergence: float

    @property
    def change(self) -> float:
        """The perplexity's relative change."""
        return self.perplexity / self.reference - 1

    def to_json(self) -> dict[str, Any]:
        """Returns all figures."""
        return {**asdict(self), "change": self.change}


@torch.inference_mode()
def compare(
    reference: Transformer,
    native: NativeNetwork,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    most_tokens: int = 4096,
    window: int = WINDOW,
) -> Quality:
    """Compares both on texts.

    Args:
        reference: The network in float32, its weights expanded.
        native: The same on the core.
        tokenizer: Its tokenizer.
        texts: Documents; each is cut into windows that are read by themselves.
        most_tokens: Where to stop.
        window: Longest input.

    Raises:
        BadInput: The texts have less than two tokens.
    """
    window = min(window, reference.config.context)
    sums = np.zeros(5)  # losses of both, agreements, near ties, divergence
    count, widest = 0, 0.0
    with progress_bar("Comparing", most_tokens) as bar:
        for inputs, targets in _windows(tokenizer, texts, most_tokens, window):
            exact = reference(inputs[None])[0].float()  # (time, vocab)
            core = native.every_logits(inputs)  # (time, vocab)
            part, gap = _compare_window(exact, core, targets)
            sums += part
            count, widest = count + len(targets), max(widest, gap)
            bar.advance(len(targets))
    if not count:
        raise BadInput("there is nothing to compare", remedy="give texts of at least two tokens")
    mean = sums / count
    return Quality(count, math.exp(mean[1]), math.exp(mean[0]), mean[2], mean[3], widest, mean[4])


def _windows(
    tokenizer: Tokenizer, texts: Iterable[str], most_tokens: int, window: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """Yields stretches of the texts and what follows each token.

    Where a text begins with a token of its own, so does every stretch: models that always saw one (Gemma, say) compute
    with far larger numbers, and round them far more, where it is missing.
    """
    left = most_tokens
    for text in texts:
        tokens = tokenizer.encode(text, special=True)
        start = tokens[:1] if tokenizer.begin_id is not None and tokens[:1] == [tokenizer.begin_id] else []
        # Each stretch reads the last token of the one before, or the one that begins a text.
        for first in range(len(start), len(tokens) - (not start), window):
            if left < 1:
                return
            last = min(first + min(window, left) + (not start), len(tokens))
            stretch = torch.tensor(start + tokens[first:last])
            left -= len(stretch) - 1
            yield stretch[:-1], stretch[1:]


def _compare_window(exact: Tensor, core: Tensor, targets: Tensor) -> tuple[np.ndarray[Any, Any], float]:
    """Returns the sums over a window, and the widest gap: exact and core (time, vocab), targets (time)."""
    losses = [float(F.cross_entropy(logits, targets, reduction="sum")) for logits in (exact, core)]
    best, others = exact.argmax(-1), core.argmax(-1)
    gaps = (exact.gather(1, best[:, None]) - exact.gather(1, others[:, None])).squeeze(1)
    differ = best != others
    divergence = F.kl_div(core.log_softmax(-1), exact.log_softmax(-1), reduction="sum", log_target=True)
    near = int((differ & (gaps < NEAR)).sum())
    sums = np.array([*losses, int((~differ).sum()), near, float(divergence)])
    return sums, float(gaps.max())

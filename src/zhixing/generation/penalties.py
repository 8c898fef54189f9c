"""Processors that look at what was written so far: penalties for repeating, and bans of whole phrases.

Each is a few operations on tensors, however long the text is. Padding at the left of a row counts for nothing, so that
a row gets the same in a batch as alone. Processors that look at token ids alone are in `constraints`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zhixing.generation.sampling import Context

NEVER = float("-inf")


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive and multiplies negative logits of every token that already occurred (Keskar et al. 2019)."""

    penalty: float

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        return _scaled(logits, context.real_tokens(), self.penalty)


@dataclass(frozen=True)
class PromptPenalty:
    """Multiplies positive and divides negative logits of the prompt's tokens, which keeps an answer near its prompt."""

    penalty: float

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        return _scaled(logits, context.real_tokens()[:, : context.prompt], 1 / self.penalty)


def _scaled(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    old = logits.gather(1, tokens)
    return logits.scatter(1, tokens, torch.where(old < 0, old * penalty, old / penalty))


@dataclass(frozen=True)
class CountPenalty:
    """OpenAI's penalties over the answer's tokens: logit - count * frequency - (1 if count > 0 else 0) * presence."""

    presence: float
    frequency: float

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        answer = context.tokens[:, context.prompt :]  # (batch, answer)
        if answer.shape[1] == 0:
            return logits
        if self.presence:
            logits = logits.scatter(1, answer, logits.gather(1, answer) - self.presence)
        if self.frequency:
            logits = logits.scatter_add(1, answer, torch.full_like(answer, -1, dtype=logits.dtype) * self.frequency)
        return logits


@dataclass(frozen=True)
class NoRepeatNGrams:
    """Excludes every token that would complete a sequence of `size` tokens that is already there (Paulus et al. 2018).

    Args:
        size: Tokens of a sequence.
        of_prompt: Only the prompt's sequences are protected; those of the answer may come again.
    """

    size: int
    of_prompt: bool = False

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        tokens = context.tokens
        source = tokens[:, : context.prompt] if self.of_prompt else tokens
        if source.shape[1] < self.size:
            return logits
        newest = tokens[:, tokens.shape[1] - self.size + 1 :]  # (batch, size - 1)
        sequences = source.unfold(1, self.size, 1)  # (batch, sequences, size)
        same = (sequences[..., :-1] == newest[:, None]).all(-1)
        same &= torch.arange(sequences.shape[1], device=tokens.device) >= context.padding[:, None]
        rows, places = same.nonzero(as_tuple=True)
        if len(rows):
            logits = logits.index_put((rows, sequences[rows, places, -1]), logits.new_tensor(NEVER))
        return logits


class SequenceBias:
    """Adds a bias to the last token of a sequence when the ones before it have just been written.

    A bias of minus infinity bans the sequence.

    Args:
        biases: Token ids and the bias of each sequence.
        device: Where the logits are.
    """

    def __init__(self, biases: dict[tuple[int, ...], float], device: torch.device | str = "cpu") -> None:
        self._groups: list[tuple[Tensor, Tensor, Tensor]] = []
        for length in sorted({len(sequence) for sequence in biases}):
            group = [sequence for sequence in biases if len(sequence) == length]
            tokens = torch.tensor(group, device=device)  # (sequences, length)
            added = torch.tensor([biases[sequence] for sequence in group], device=device)
            self._groups.append((tokens[:, :-1], tokens[:, -1], added))

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        time = context.tokens.shape[1]
        lengths = time - context.padding  # (batch)
        for before, last, added in self._groups:
            count = before.shape[1]
            if count == 0:
                logits = logits.index_add(1, last, added.to(logits.dtype).expand(len(logits), -1))
                continue
            if count > time:
                continue
            written = (context.tokens[:, None, time - count :] == before).all(-1) & (lengths[:, None] >= count)
            if bool(written.any()):
                logits = logits.index_add(1, last, torch.where(written, added, 0.0).to(logits.dtype))
        return logits

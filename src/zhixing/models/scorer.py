"""A decoder that gives a text one figure: what a reward model is (Ouyang et al. 2022, section 3.5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zhixing.models.config import TransformerConfig
from zhixing.models.layers import Linear
from zhixing.models.transformer import Transformer


class Scorer(nn.Module):
    """Reads a sequence and maps the final hidden state of its last token to a figure.

    Args:
        network: The decoder; its output head is not used.
    """

    def __init__(self, network: Transformer) -> None:
        super().__init__()
        self.network = network
        self.score = Linear(network.config.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)  # no text is worth more than another before there is a reason

    @property
    def config(self) -> TransformerConfig:
        """The decoder's sizes."""
        return self.network.config

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Returns the figure of each sequence, (rows).

        Args:
            tokens: (rows, time), filled up behind the ends of the sequences.
            ends: Where the last token of each sequence is, (rows).
        """
        hidden = self.network.hidden_states(tokens)
        last = hidden[torch.arange(len(ends), device=ends.device), ends]  # (rows, width)
        scores: Tensor = self.score(last)[:, 0].float()
        return scores


def side_by_side(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns sequences as one tensor, filled up behind their ends, and where they end."""
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    return tokens.to(device), torch.tensor([len(row) - 1 for row in rows], device=device)


@torch.no_grad()
def score_rows(model: Scorer, rows: Sequence[Sequence[int]], most_tokens: int = 8192) -> list[float]:
    """Returns the figure of each sequence, computed a few at a time."""
    found: list[float] = []
    begin = 0
    while begin < len(rows):
        end = begin + 1
        while end < len(rows) and (end + 1 - begin) * max(map(len, rows[begin : end + 1])) <= most_tokens:
            end += 1
        found += model(*side_by_side(rows[begin:end], model.network.device)).tolist()
        begin = end
    return found

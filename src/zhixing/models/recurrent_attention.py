"""How a recurrent decoder looks at its source: additive attention (Bahdanau et al. 2015) and multiplicative attention
(Luong et al. 2015), over sources of unequal length.

The vectors of a source are mapped once, by `keys`; at each step the decoder's state is held against them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models.layers import Linear

Score = Literal["additive", "general", "dot"]
SCORES: tuple[Score, ...] = ("additive", "general", "dot")


class SourceAttention(nn.Module):
    """Weighs the vectors of a source by how well they go with a state.

        additive: v . tanh(W s + U h)    (Bahdanau et al. 2015, appendix A.1.2; "concat" of Luong et al. 2015)
        general:  s . U h                (Luong et al. 2015, equation 8)
        dot:      s . h

    Args:
        hidden: Size of the states s.
        width: Size of the source's vectors h.
        score: Which of them.

    Raises:
        BadInput: `dot` is asked for, and the sizes differ.
    """

    query: Linear | None
    key: Linear | None
    energy: Linear | None

    def __init__(self, hidden: int, width: int, score: Score) -> None:
        super().__init__()
        if score == "dot" and hidden != width:
            raise BadInput(
                f"a dot product needs states as large as the source's vectors, which are {width}, not {hidden}",
                remedy="choose the score 'general', or other sizes",
            )
        self.score = score
        self.query = Linear(hidden, hidden) if score == "additive" else None
        self.key = Linear(width, hidden, bias=False) if score != "dot" else None
        self.energy = Linear(hidden, 1, bias=False) if score == "additive" else None

    def keys(self, vectors: Tensor) -> Tensor:
        """Maps the source's vectors, (..., width), to what states are held against, (..., hidden)."""
        return vectors if self.key is None else self.key(vectors)

    def forward(self, states: Tensor, keys: Tensor, vectors: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns what the states see.

        Args:
            states: (sources, time, hidden).
            keys: From `keys`, (sources, longest, hidden).
            vectors: The source's vectors, (sources, longest, width).
            present: Where there is a token, (sources, longest); None: everywhere.

        Returns:
            The weighted means of the vectors, (sources, time, width), and the weights, (sources, time, longest).
        """
        if self.query is not None and self.energy is not None:
            both = torch.tanh(self.query(states)[:, :, None] + keys[:, None])  # (sources, time, longest, hidden)
            scores = self.energy(both)[..., 0]
        else:
            scores = states @ keys.transpose(1, 2)
        if present is not None:
            scores = scores.masked_fill(~present[:, None], float("-inf"))
        weights = scores.softmax(-1)
        return weights @ vectors, weights

"""What an n-gram model expects after a text, and how long the n-gram is that each expectation rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zhixing.checkpoints.arpa import need_tokenizer, ngram_of
from zhixing.checkpoints.folder import ModelFolder
from zhixing.models.ngram.tables import UNKNOWN, find


@dataclass(frozen=True)
class NextToken:
    """A token that may come next.

    Attributes:
        token: Its id.
        piece: Its readable spelling.
        probability: p(token | text).
        order: Length of the longest n-gram of the model that ends with it.
    """

    token: int
    piece: str
    probability: float
    order: int


def next_tokens(opened: ModelFolder, text: str, top: int) -> list[NextToken]:
    """Returns the likeliest tokens after a text, the likeliest first.

    Args:
        opened: The folder of an n-gram model.
        text: What comes before; an empty one is the beginning of a document.
        top: How many.

    Raises:
        BadInput: It is another kind of model, or the text cannot be encoded.
        MissingResource: The model has no tokenizer.
    """
    tables, tokenizer = ngram_of(opened).tables, need_tokenizer(opened)
    tokens = tokenizer.encode(text) or [tables.begin]
    contexts = tables.read(np.array([tokens]), tables.fresh(1))
    state = np.array([[int(rows[0, -1]) for rows in contexts]], dtype=np.int64).reshape(1, -1)
    logs = tables.distribution(state)[0]
    chosen = np.argsort(-logs, kind="stable")[:top]
    orders = np.ones(len(chosen), dtype=np.int64)
    for length, row in enumerate(state[0].tolist(), 1):
        found = find(tables.keys[length - 1], tables.vocab_size, np.full(len(chosen), row), chosen)
        orders[found != UNKNOWN] = length + 1
    return [
        NextToken(token, tokenizer.piece(token), float(10 ** logs[token]), order)
        for token, order in zip(chosen.tolist(), orders.tolist(), strict=True)
    ]

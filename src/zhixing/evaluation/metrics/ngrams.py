"""Counting n-grams of many texts at once in numpy, exactly and in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zhixing.evaluation.metrics.scripts import HAN, KANA

Ids = npt.NDArray[np.int64]

_TOKEN = re.compile(rf"[{HAN}{KANA}]|(?:(?![{HAN}{KANA}])[^\W_])+|[^\w\s]|_")
TOKENS = "a Chinese or Japanese character, a word of other letters and digits, or a symbol"
"""What `cut` takes for a token, in words."""


def cut(text: str) -> list[str]:
    """Cuts a text of any language into tokens: see TOKENS."""
    return _TOKEN.findall(text)


@dataclass(frozen=True)
class Order:
    """All n-grams of one order.

    Attributes:
        n: The order.
        ids: A number for each n-gram where it stands; equal n-grams have equal numbers, from 0 without gaps.
        owner: The text that it stands in.
        kinds: How many different n-grams there are.
    """

    n: int
    ids: Ids
    owner: Ids
    kinds: int

    def per_text(self) -> tuple[Ids, Ids, Ids]:
        """Returns (n-gram, text, count) for every n-gram of every text, by n-gram and then text."""
        texts = int(self.owner.max()) + 1 if len(self.owner) else 1
        found, counts = np.unique(self.ids * texts + self.owner, return_counts=True)
        ids, owner = np.divmod(found, texts)
        return ids, owner, counts.astype(np.int64)


def orders(tokens: Sequence[Sequence[str]], highest: int) -> Iterator[Order]:
    """Numbers the n-grams of texts, order by order from 1, holding one order at a time."""
    vocabulary: dict[str, int] = {}
    numbers = [vocabulary.setdefault(token, len(vocabulary)) for text in tokens for token in text]
    flat = np.array(numbers, dtype=np.int64)
    lengths = np.array([len(text) for text in tokens], dtype=np.int64)
    owner = np.repeat(np.arange(len(tokens), dtype=np.int64), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(flat))  # tokens from here to the end of the text
    ids, starts = flat, np.arange(len(flat), dtype=np.int64)
    kinds = len(vocabulary)
    for n in range(1, highest + 1):
        if n > 1:
            # An n-gram is the (n-1)-gram at its beginning and one token more: two numbers in one are an exact key.
            fits = left[starts] >= n
            starts = starts[fits]
            keys = ids[fits] * max(1, len(vocabulary)) + flat[starts + n - 1]
            found, ids = np.unique(keys, return_inverse=True)
            ids, kinds = ids.reshape(-1).astype(np.int64), len(found)
        yield Order(n, ids, owner[starts], kinds)

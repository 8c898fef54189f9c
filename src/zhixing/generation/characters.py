"""Keeps answers readable: only tokens that leave the text valid UTF-8, or the beginning of it.

Tokens of byte-level vocabularies may end in the middle of a character, as Chinese ones often do. A well-trained model
goes on with the character's other bytes; a small one often does not, and what it wrote reads as U+FFFD. The sequences
that may follow are a small automaton over bytes (Unicode 15, table 3-7); it is walked once for each token that is not
whole characters, so that a step only looks up a row of a table.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zhixing.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from zhixing.generation.sampling import Context

NEVER = float("-inf")
BORDER, ONE, TWO, THREE, AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4, BROKEN = range(9)
"""Where in a character the text ends: at its border, or with so many bytes missing; after some first bytes the second
one has a narrower range."""

SECOND = {
    AFTER_E0: (0xA0, 0xBF, ONE),
    AFTER_ED: (0x80, 0x9F, ONE),
    AFTER_F0: (0x90, 0xBF, TWO),
    AFTER_F4: (0x80, 0x8F, TWO),
}
LOOK_BACK = 4
"""Tokens of the past that are read to know where the text ends: a character has at most four bytes."""


def next_state(state: int, byte: int) -> int:
    """Returns the state behind one more byte."""
    if state == BORDER:
        return _first(byte)
    low, high, after = SECOND.get(state, (0x80, 0xBF, {ONE: BORDER, TWO: ONE, THREE: TWO}.get(state, BROKEN)))
    return after if low <= byte <= high and state != BROKEN else BROKEN


@functools.cache
def _first(byte: int) -> int:
    if byte < 0x80:
        return BORDER
    special = {0xE0: AFTER_E0, 0xED: AFTER_ED, 0xF0: AFTER_F0, 0xF4: AFTER_F4}
    if byte in special:
        return special[byte]
    for first, last, state in ((0xC2, 0xDF, ONE), (0xE1, 0xEF, TWO), (0xF1, 0xF3, THREE)):
        if first <= byte <= last:
            return state
    return BROKEN


def walk(state: int, content: bytes) -> int:
    """Returns the state behind some bytes."""
    for byte in content:
        state = next_state(state, byte)
        if state == BROKEN:
            break
    return state


def state_behind(content: bytes) -> int:
    """Returns where in a character some bytes end, whatever came before them; what is broken counts as a border."""
    for length in range(1, min(3, len(content)) + 1):
        if content[-length] >= 0xC0:  # the first byte of the last character
            state = walk(BORDER, content[-length:])
            return BORDER if state == BROKEN else state
        if content[-length] < 0x80:
            break
    return BORDER


class WholeCharacters:
    """Excludes the tokens behind which the text could not become valid UTF-8 any more.

    Args:
        contents: The bytes of every token; empty for special tokens, which stand between characters only.
    """

    def __init__(self, contents: Sequence[bytes]) -> None:
        self._contents = contents
        self._excluded = np.ones((BROKEN, len(contents)), np.bool_)
        for token, content in enumerate(contents):
            try:
                content.decode("utf-8")
                self._excluded[BORDER, token] = False
            except UnicodeDecodeError:
                for state in range(BROKEN):
                    self._excluded[state, token] = walk(state, content) == BROKEN

    @property
    def idle(self) -> bool:
        """Whether all tokens are whole characters, so that nothing is ever excluded."""
        return not bool(self._excluded[BORDER].any())

    def excluded(self, tokens: Sequence[int]) -> NDArray[np.bool_]:
        """Returns what is excluded behind a text, (vocab)."""
        recent = (self._contents[token] for token in tokens[-LOOK_BACK:] if token < len(self._contents))
        row: NDArray[np.bool_] = self._excluded[state_behind(b"".join(recent))]
        return row

    def mask(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> None:
        """Does what `__call__` does to one row, (vocab), in place."""
        size = min(len(logits), self._excluded.shape[1])
        excluded, part = self.excluded(tokens)[:size], logits[:size]
        if not np.isinf(part[~excluded]).all():
            part[excluded] = NEVER

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        import torch

        recent = context.tokens[:, -LOOK_BACK:]
        padding = (context.padding - (context.tokens.shape[1] - recent.shape[1])).clamp_min(0)
        size = min(logits.shape[1], self._excluded.shape[1])
        rows = [self.excluded(row[lack:])[:size] for row, lack in zip(recent.tolist(), padding.tolist(), strict=True)]
        excluded = torch.from_numpy(np.stack(rows)).to(logits.device)  # (batch, size)
        masked = logits[:, :size].masked_fill(excluded, NEVER)
        # A vocabulary without some bytes may leave no choice: then anything is better than nothing.
        stuck = torch.isinf(masked).all(1, keepdim=True)
        logits[:, :size] = torch.where(stuck, logits[:, :size], masked)
        return logits


@functools.lru_cache(maxsize=4)
def whole_characters(tokenizer: Tokenizer) -> WholeCharacters | None:
    """Returns the processor for a tokenizer; None for one whose tokens are all whole characters."""
    special = tokenizer.special_ids
    contents = [b"" if token in special else tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    made = WholeCharacters(contents)
    return None if made.idle else made

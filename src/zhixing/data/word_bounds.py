"""Where words begin, for hiding whole ones: in spaced scripts by the spaces, in Chinese by which characters stick
together. There is no dictionary: cohesion is learned from the text itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

MOST_PAIRS = 400_000
"""Pairs of characters that are kept while counting; the rarest are dropped beyond it."""

COHESION = 3.0
"""Pointwise mutual information, in nats, from which two neighbours are taken to be of one word."""

SELDOM = 5
LONGEST = 4
KEPT = 50_000


def is_chinese(character: str) -> bool:
    """Tells whether a character is a Chinese ideograph."""
    return "\u4e00" <= character <= "\u9fff" or "\u3400" <= character <= "\u4dbf"


class WordBounds:
    """Learns which Chinese characters stick together, and says for each character of a text which word it is of.

    Two neighbours stick when they occur together far more often than their frequencies alone would make them (pointwise
    mutual information: Church & Hanks 1990).
    """

    def __init__(self) -> None:
        self._single: Counter[str] = Counter()
        self._pairs: Counter[str] = Counter()
        self.sticky: frozenset[str] = frozenset()

    def observe(self, text: str) -> None:
        """Counts the neighbours of a text."""
        before = ""
        for character in text:
            if not is_chinese(character):
                before = ""
                continue
            self._single[character] += 1
            if before:
                self._pairs[before + character] += 1
            before = character
        if len(self._pairs) > 2 * MOST_PAIRS:
            self._pairs = Counter(dict(self._pairs.most_common(MOST_PAIRS)))

    def settle(self) -> None:
        """Fixes which pairs stick."""
        total, pairs = self._single.total(), self._pairs.total()
        found: dict[str, float] = {}
        for pair, count in self._pairs.items():
            expected = self._single[pair[0]] / total * self._single[pair[1]] / total
            strength = math.log(count / pairs / expected)
            if count >= SELDOM and strength >= COHESION:
                found[pair] = count * strength
        self.sticky = frozenset(sorted(found, key=lambda pair: (-found[pair], pair))[:KEPT])

    def facts(self) -> list[str]:
        """Returns the pairs that stick, as plain JSON values."""
        return sorted(self.sticky)

    def load(self, facts: Iterable[str]) -> None:
        """Takes what `facts` returned."""
        self.sticky = frozenset(facts)

    def numbers(self, text: str) -> list[int]:
        """Returns the number of the word that each character is of, counted from 0; a space is of the word after it."""
        found: list[int] = []
        number, length, before = 0, 0, " "
        for character in text:
            if _begins(before, character, length, self.sticky):
                number, length = number + 1, 0
            length += 1
            found.append(number)
            before = character
        return found


def _begins(before: str, character: str, length: int, sticky: frozenset[str]) -> bool:
    """Tells whether a character begins a word behind another one."""
    if before.isspace():  # a space has begun the word that follows it; at the very beginning there is none
        return False
    if is_chinese(character):
        return before + character not in sticky or length >= LONGEST
    return not (character.isalnum() and before.isalnum() and not is_chinese(before))


def words_of_tokens(offsets: Sequence[tuple[int, int]], numbers: Sequence[int]) -> list[int]:
    """Returns the number of the word that each token is of: that of its last character.

    Args:
        offsets: Where each token begins and ends, in characters.
        numbers: What `WordBounds.numbers` returned of the same text.
    """
    return [numbers[max(begin, end - 1)] if numbers else 0 for begin, end in offsets]


def spaced(words: Sequence[str]) -> list[str]:
    """Returns words as they stand in running text: a space in front of each but the first, and of Chinese ones none.

    Byte-level tokens carry that space.
    """
    return [f" {word}" if place and word[:1].isascii() else word for place, word in enumerate(words)]

"""A bounded sample of a text stream of any length, even over the whole of it and the same on every run."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from zhixing.tokenization.utf8 import utf8_size

PIECE = 1 << 16
"""The most characters taken or left together, so that one huge document is sampled inside as well."""


def cut(text: str, size: int = PIECE) -> Iterator[str]:
    """Cuts a long text into pieces of at most `size` characters, at line ends or else spaces where there are any."""
    start = 0
    while len(text) - start > size:
        end = start + size
        for mark in ("\n", " "):
            found = text.rfind(mark, start + size // 2, end)
            if found >= 0:
                end = found + 1
                break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:] if start else text


@dataclass
class Sample:
    """A sample that is never larger than its bound, drawn from a stream in one pass.

    Every piece of text draws a random number; those with the smallest numbers stay as far as the bound allows. When
    the stream fits, all of it stays.

    Args:
        max_bytes: The bound, in UTF-8 bytes.
        wide_weight: How many times the bytes of a text in three-byte characters (Chinese) count towards the bound;
            ASCII counts once, and what lies between in proportion.
        seed: Decides which pieces stay.
    """

    max_bytes: int
    seed: int = 0
    wide_weight: float = 1.0
    documents: int = 0
    bytes_seen: int = 0
    characters_seen: int = 0
    bytes_used: int = 0
    _weight: float = 0.0
    _kept: list[tuple[float, int, str, int]] = field(default_factory=list, repr=False)
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._pieces = 0

    def add(self, text: str) -> None:
        """Offers one document to the sample.

        Raises:
            BadInput: UTF-8 cannot spell it.
        """
        self.documents += 1
        self.characters_seen += len(text)
        for piece in cut(text):
            size = utf8_size(piece)
            self.bytes_seen += size
            self._pieces += 1
            # A heap's smallest comes first, and the largest number is the one to go: hence the minus.
            heapq.heappush(self._kept, (-self._random.random(), self._pieces, piece, size))
            self.bytes_used += size
            self._weight += self._weigh(piece, size)
            while self._weight > self.max_bytes and len(self._kept) > 1:
                _, _, dropped, dropped_size = heapq.heappop(self._kept)
                self.bytes_used -= dropped_size
                self._weight -= self._weigh(dropped, dropped_size)

    def _weigh(self, piece: str, size: int) -> float:
        # Two bytes of each Chinese character are beyond the first: 2/3 of the size make the full weight.
        return size + 1.5 * (self.wide_weight - 1) * (size - len(piece))

    def extend(self, texts: Iterable[str]) -> None:
        """Offers many documents."""
        for text in texts:
            self.add(text)

    @property
    def whole(self) -> bool:
        """Whether everything that was offered is in the sample."""
        return self.bytes_used == self.bytes_seen

    def texts(self) -> list[str]:
        """Returns the sample in the order of the stream."""
        return [piece for _, _, piece, _ in sorted(self._kept, key=lambda kept: kept[1])]

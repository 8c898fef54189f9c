"""Word vectors: a word is a point, and words that are used alike lie close together.

Here: looking words up, their nearest neighbours, analogies, and fastText's vectors of words that were never seen. Files
are `vectors_files`', training is `training.word_vectors`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput, nearest

Matrix = NDArray[np.float32]

FNV_OFFSET, FNV_PRIME = 2166136261, 16777619


@dataclass(frozen=True)
class Subwords:
    """The vectors of fastText's character n-grams (Bojanowski et al. 2017), which share a table by their hashes.

    Attributes:
        shortest: Characters of the shortest n-grams.
        longest: Characters of the longest.
        vectors: One row per bucket, (buckets, size).
    """

    shortest: int
    longest: int
    vectors: Matrix

    def rows(self, word: str) -> list[int]:
        """Returns the buckets of a word's n-grams, its two ends marked by < and >."""
        text = f"<{word}>"
        places = [
            (start, start + length)
            for start in range(len(text))
            for length in range(self.shortest, min(self.longest, len(text) - start) + 1)
            if length > 1 or 0 < start < len(text) - 1  # the marks alone say nothing
        ]
        return [fnv1a(text[start:end].encode()) % len(self.vectors) for start, end in places]

    def vector(self, word: str) -> Matrix | None:
        """Returns the mean of the n-grams' vectors, (size); None for a word too short to have any."""
        rows = self.rows(word)
        if not rows:
            return None
        mean: Matrix = self.vectors[rows].mean(axis=0)
        return mean


def fnv1a(data: bytes) -> int:
    """Returns the 32-bit FNV-1a hash as fastText computes it: bytes above 127 count as negative numbers."""
    value = FNV_OFFSET
    for byte in data:
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * FNV_PRIME) & 0xFFFFFFFF
    return value


@dataclass
class WordVectors:
    """Words and their vectors.

    Attributes:
        words: All different, the most frequent first where that is known.
        vectors: A row per word, (words, size).
        counts: How often each word was seen, (words), or None.
        subwords: fastText's n-grams, or None.
        facts: How they came about, for people.

    Raises:
        BadInput: A word stands twice, or there are not as many words as vectors.
    """

    words: Sequence[str]
    vectors: Matrix
    counts: NDArray[np.int64] | None = None
    subwords: Subwords | None = None
    facts: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.words) != len(self.vectors) or not len(self.words):
            raise BadInput(f"{len(self.words)} words and {len(self.vectors)} vectors do not go together")
        self.index = {word: row for row, word in enumerate(self.words)}
        if len(self.index) != len(self.words):
            seen: set[str] = set()
            double = next(word for word in self.words if word in seen or seen.add(word))  # type: ignore[func-returns-value]
            raise BadInput(f"the word {double[:60]!r} has two vectors")
        self._unit: Matrix | None = None

    @property
    def size(self) -> int:
        """Numbers per vector."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def vector(self, word: str) -> Matrix:
        """Returns the vector of a word, (size); fastText makes one for words that it has not seen.

        Raises:
            BadInput: The word is not known.
        """
        row = self.index.get(word)
        if row is not None:
            known: Matrix = self.vectors[row]
            return known
        if self.subwords is not None and (made := self.subwords.vector(word)) is not None:
            return made
        guess = word.lower() if word.lower() in self.index else nearest(word, self.words[:50_000])
        remedy = f"did you mean {guess!r}?" if guess else "choose another word"
        raise BadInput(f"the word {word[:60]!r} has no vector", remedy=remedy)

    def nearest(self, word: str, top: int = 10) -> list[tuple[str, float]]:
        """Returns the words most like a word, with the cosine of the angle between them, the closest first.

        Raises:
            BadInput: The word is not known.
        """
        return self._closest(self.vector(word), {word}, top)

    def analogy(self, positive: Iterable[str], negative: Iterable[str] = (), top: int = 10) -> list[tuple[str, float]]:
        """Returns the words closest to a sum of unit vectors (3CosAdd: Mikolov et al. 2013, Levy & Goldberg 2014).

        "man is to king as woman is to ..." is `analogy(["king", "woman"], ["man"])`. The words given are left out.

        Args:
            positive: Words to add.
            negative: Words to take away.
            top: How many to return.

        Raises:
            BadInput: A word is not known, or none is given.
        """
        plus, minus = list(positive), list(negative)
        if not plus and not minus:
            raise BadInput("an analogy needs at least one word")
        terms = [_unit(self.vector(word)[None])[0] for word in plus]
        terms += [-_unit(self.vector(word)[None])[0] for word in minus]
        total: Matrix = np.asarray(terms, dtype=np.float32).mean(axis=0)
        return self._closest(total, {*plus, *minus}, top)

    def _closest(self, query: Matrix, without: set[str], top: int) -> list[tuple[str, float]]:
        if self._unit is None:
            self._unit = _unit(self.vectors)
        cosines = self._unit @ _unit(query[None])[0]  # (words)
        wanted = min(len(self.words), top + len(without))
        chosen = np.argpartition(-cosines, wanted - 1)[:wanted]
        chosen = chosen[np.lexsort((chosen, -cosines[chosen]))]
        found = [(self.words[row], float(cosines[row])) for row in chosen.tolist()]
        return [(word, cosine) for word, cosine in found if word not in without][:top]


def _unit(vectors: Matrix) -> Matrix:
    """Returns vectors of length one, (n, size); zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    result: Matrix = (vectors / lengths).astype(np.float32)
    return result

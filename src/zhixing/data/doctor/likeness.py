"""Duplicates: records that are the same, and records that are nearly the same.

Near duplicates are found by hashing: stretches of five characters, one-permutation MinHash signatures (Li, Owen and
Zhang 2012) in bands, and for those that share a band the share of common stretches, over at most KEPT of the smallest
hashes of each. That share is exact for texts of up to about KEPT characters, and within some percent for longer ones.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

STRETCH = 5
BANDS, ROWS = 16, 4
KEPT = 256
MOST = 32
"""Texts that a band remembers, the latest ones, and texts that a new one is compared with, those that share most bands
first: records made from one template would otherwise all be compared with each other."""
ALIKE = 0.85
"""Share of common stretches from which two texts are near duplicates."""
SHORTEST = 40
"""Bytes of UTF-8 below which texts are too short: what is nearly the same is often meant to be different."""

Hashes = npt.NDArray[np.uint32]

_SPACE = re.compile(r"[\W_]+")
_EMPTY = np.uint32(0xFFFFFFFF)


def fingerprint(*texts: str) -> bytes:
    """Returns a short hash of texts, for comparing them exactly."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def normalised(text: str) -> str:
    """Returns a text without case, width, punctuation and spacing, which do not make it another one."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def stretches(text: str) -> Hashes:
    """Returns the hashes of all stretches of a normalised text, sorted, each once."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < STRETCH:
        return np.zeros(0, dtype=np.uint32)
    mixed = np.zeros(len(codes) - STRETCH + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for place in range(STRETCH):
            mixed = (mixed ^ codes[place : place + len(mixed)]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


class Likeness:
    """Remembers texts, and tells for each new one which earlier one it repeats or nearly repeats."""

    def __init__(self, alike: float = ALIKE) -> None:
        self.alike = alike
        self._exact: dict[bytes, int] = {}
        self._bands: list[dict[bytes, deque[int]]] = [{} for _ in range(BANDS)]
        self._kept: dict[int, list[tuple[Hashes, bool]]] = {}

    def same(self, key: bytes, number: int) -> int | None:
        """Returns the earlier record with the same fingerprint; remembers this one when there is none."""
        found = self._exact.setdefault(key, number)
        return None if found == number else found

    def near(self, parts: Sequence[str], number: int) -> tuple[int, float] | None:
        """Returns the earlier record most like a new one, and how like it is; remembers the new one when there is none.

        Args:
            parts: The texts of the record. Each of them must be alike: an answer that differs makes another record,
                however much of a long prompt both share.
            number: Of the record.
        """
        bare = [normalised(part) for part in parts]
        if sum(len(text.encode("utf-8", "replace")) for text in bare) < SHORTEST:
            return None
        sketches = [_sketch(text) for text in bare]
        keys = _bands(np.unique(np.concatenate([hashes for hashes, _ in sketches])))
        best: tuple[int, float] | None = None
        shared = Counter(one for band, key in zip(self._bands, keys, strict=True) for one in band.get(key, ()))
        for candidate, _ in shared.most_common(MOST):
            others = self._kept[candidate]
            if len(others) != len(sketches):
                continue
            share = min(_common(*one, *other) for one, other in zip(sketches, others, strict=True))
            if share >= self.alike and (best is None or share > best[1]):
                best = candidate, share
        if best is None:
            self._kept[number] = sketches
            for band, key in zip(self._bands, keys, strict=True):
                band.setdefault(key, deque(maxlen=MOST)).append(number)
        return best


def _sketch(text: str) -> tuple[Hashes, bool]:
    """Returns the smallest hashes of a text, and whether those are all; a very short text is one hash."""
    hashes = stretches(text)
    if not len(hashes):
        hashes = np.frombuffer(fingerprint(text)[:4], dtype=np.uint32)
    return hashes[:KEPT], len(hashes) <= KEPT


def _bands(hashes: Hashes) -> list[bytes]:
    """Returns the signature of a text in bands: in each of its bins the smallest hash, empty bins filled from the
    next."""
    size = BANDS * ROWS
    signature = np.full(size, _EMPTY, dtype=np.uint32)
    np.minimum.at(signature, hashes % np.uint32(size), hashes // np.uint32(size))
    empty = signature == _EMPTY
    if empty.any() and not empty.all():
        filled = np.flatnonzero(~empty)
        following = filled[np.searchsorted(filled, np.flatnonzero(empty)) % len(filled)]
        signature[empty] = signature[following]
    return [signature[start : start + ROWS].tobytes() for start in range(0, size, ROWS)]


def _common(one: Hashes, one_whole: bool, other: Hashes, other_whole: bool) -> float:
    """Returns the share of common stretches (Jaccard), from the smallest hashes of each when a text is long."""
    if one_whole and other_whole:
        both = len(np.intersect1d(one, other, assume_unique=True))
        return both / max(1, len(one) + len(other) - both)
    union = np.union1d(one, other)[:KEPT]
    both = len(np.intersect1d(np.intersect1d(union, one, assume_unique=True), other, assume_unique=True))
    return both / max(1, len(union))

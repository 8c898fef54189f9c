"""Overlap of training records with an evaluation set: the same text, or thirteen tokens in a row (Brown et al.
2020)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from zhixing.data.doctor.likeness import fingerprint, normalised

RUN = 13
"""Tokens in a row that two texts share by chance hardly ever."""

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")


def tokens(text: str) -> list[str]:
    """Cuts a normalised text into words and Chinese characters."""
    return _TOKEN.findall(normalised(text))


class EvaluationTexts:
    """The texts of an evaluation set, to look others up in.

    Args:
        texts: Place and text of each record.
    """

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self._whole: dict[bytes, str] = {}
        self._runs: dict[int, str] = {}
        self.count = 0
        for place, text in texts:
            self.count += 1
            words = tokens(text)
            if not words:
                continue
            self._whole.setdefault(fingerprint(" ".join(words)), place)
            for run in _runs(words):
                self._runs.setdefault(run, place)

    def find(self, text: str) -> tuple[str, str] | None:
        """Returns the place of an evaluation record that a text overlaps with, and how; None when it does not."""
        words = tokens(text)
        if place := self._whole.get(fingerprint(" ".join(words))) if words else None:
            return place, "the same text"
        for number, run in enumerate(_runs(words)):
            if place := self._runs.get(run):
                return place, f"{RUN} tokens in a row: {' '.join(words[number : number + RUN])!r}"
        return None


def _runs(words: Sequence[str]) -> list[int]:
    return [hash(tuple(words[start : start + RUN])) for start in range(len(words) - RUN + 1)]

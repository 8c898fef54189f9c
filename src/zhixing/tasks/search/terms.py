"""The words of a text as keyword search sees them: lower case, and Chinese as single characters and pairs of them."""

from __future__ import annotations

import re
import unicodedata

_RUN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+|[^\W_]+")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_MIXED = re.compile(
    r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+|[^\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
LONGEST = 64
"""Characters of a word that count; longer ones are hashes, encoded data and the like."""


def terms_of(text: str) -> list[str]:
    """Returns the words of a text in their order; of a run of n Chinese characters, n of one and n - 1 of two."""
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        for piece in _MIXED.findall(run):
            if _HAN.match(piece):
                found += piece
                found += [piece[at : at + 2] for at in range(len(piece) - 1)]
            else:
                found.append(piece[:LONGEST])
    return found


def query_terms(text: str) -> list[str]:
    """Returns the words to look for: of Chinese, pairs where there are any, else the single characters."""
    found = terms_of(text)
    pairs = {term for term in found if len(term) == 2 and _HAN.match(term)}
    covered = {character for pair in pairs for character in pair}
    return list(dict.fromkeys(term for term in found if term not in covered))

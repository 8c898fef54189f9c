"""Gaps in texts: how one is written, and how a word of a text becomes one. What fills them is `tasks.fill`'s."""

from __future__ import annotations

import hashlib
import re

GAP = re.compile(r"\[MASK\]|<mask>|_{2,}|\[空\]")
"""How a gap is written: [MASK], <mask>, or two underscores and more."""

SHOWN = "____"

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+")
"""A word that can be hidden: one Chinese character, or letters in a row."""


def with_gap(text: str) -> tuple[str, str] | None:
    """Hides one word of a text; which one follows from the text alone.

    Returns:
        The text with a gap, and the word; None where there is no word, or a gap already.
    """
    words = list(_WORD.finditer(text))
    if len(words) < 2 or GAP.search(text):
        return None
    chosen = words[int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % len(words)]
    return f"{text[: chosen.start()]}{SHOWN}{text[chosen.end() :]}", chosen[0]

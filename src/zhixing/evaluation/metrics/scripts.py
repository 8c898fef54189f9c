"""In which script texts are written, to choose a tokenizer. It tells scripts apart, not languages that share one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Script = Literal["zh", "ja", "ko", "other"]

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_HAN, _KANA, _HANGUL = (re.compile(f"[{block}]") for block in (HAN, KANA, HANGUL))
_LETTER = re.compile(r"[^\W\d_]")

SAMPLE = 2000
"""Texts that are looked at."""
KANA_SHARE = 0.1
"""Japanese mixes Chinese characters with kana; Chinese has none to speak of."""
SHARE = 0.3
"""A text of this share of a script's characters among its letters is written in it: one of them is worth several Latin
letters, so a Chinese text full of English names still counts as Chinese."""


def main_script(texts: Iterable[str]) -> Script:
    """Returns the script of the first texts together: Chinese, Japanese, Korean, or any other."""
    han = kana = hangul = letters = 0
    for number, text in enumerate(texts):
        if number == SAMPLE:
            break
        letters += len(_LETTER.findall(text))
        han += len(_HAN.findall(text))
        kana += len(_KANA.findall(text))
        hangul += len(_HANGUL.findall(text))
    if not letters:
        return "other"
    if (han + kana) / letters >= SHARE:
        return "ja" if kana >= KANA_SHARE * (han + kana) else "zh"
    return "ko" if hangul / letters >= SHARE else "other"

"""Where a text may be cut before merges are learned: the pre-tokenisation patterns, and why they look as they do.

Only patterns live here; who applies them is in `train` and `vocabulary_files`. The syntax is Oniguruma's, which the
`tokenizers` library uses.
"""

from __future__ import annotations

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's own pattern (Radford et al. 2019), the one that `tokenizers` calls ByteLevel(use_regex=True)."""

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern of Qwen 2 and later, whose vocab.json does not say it."""

CJK_MARKS = r"\u3000-\u303F\uFF00-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40\uFF5B-\uFF65"
"""Chinese and Japanese punctuation and full-width signs, as part of a character class."""


def multilingual_pattern(max_digits: int = 3) -> str:
    """Returns the pattern that Zhixing's own tokenizers cut with: GPT-4's, with Chinese as a script of its own.

    From left to right, a piece is one of:

    1. an English contraction after an apostrophe (`'s`, `'ll`), never the start of a quoted word;
    2. a run of Chinese characters, alone: words of other scripts and punctuation never grow into it, so a merge learned
       beside Latin text serves everywhere;
    3. a word of any other script with its combining marks, with the one sign or space before it (`" word"`, `"_name"`),
       unless that sign is Chinese punctuation;
    4. up to `max_digits` digits, so that numbers have few spellings;
    5. signs, with one space before and line ends behind;
    6. line ends with the blanks before them; other blanks, of which the last is left to the word that follows.

    Args:
        max_digits: The most digits in one piece: 1 makes every digit a token, 3 is GPT-4's choice.
    """
    digits = r"\p{N}" if max_digits == 1 else rf"\p{{N}}{{1,{max_digits}}}"
    return "|".join(
        (
            r"'(?i:[sdmt]|ll|ve|re)(?!\p{L})",
            r"\p{Han}+",
            rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}{CJK_MARKS}]?[\p{{L}}\p{{M}}&&[^\p{{Han}}]]+",
            digits,
            r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    )

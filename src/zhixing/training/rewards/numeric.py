"""The exact number: finds the answer's number in text as models write it, and compares it with the right one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

from zhixing.training.rewards.base import Attempt, RecordFault, wanted

LONGEST = 100_000
"""Characters that are searched, from the end: the answer stands there."""

_PLAIN = (
    r"(?<![\w.])(?:(?<![)\]])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,60})(?:\.\d{1,60})?(?:[eE][-+]?\d{1,2})?(?![\d])"
)
_NUMBER = re.compile(rf"{_PLAIN}(?:\s*/\s*\d{{1,30}}(?!\d|\.\d))?", re.ASCII)
_FRACTION = re.compile(r"([-+]?)\s*\\[dt]?frac\s*\{\s*([-+]?\d{1,30})\s*\}\s*\{\s*(\d{1,30})\s*\}")
_MARKED = re.compile(r"####[ \t]*([^\n]{1,200})")
_CHINESE = re.compile(r"负?[零〇一二两三四五六七八九十百千万亿]+(?:点[零〇一二三四五六七八九]+)?")
_DIGITS = {char: value for value, chars in enumerate(("零〇", "一", "二两", *"三四五六七八九")) for char in chars}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_LARGE_UNITS = {"万": 10**4, "亿": 10**8}


def extract_number(text: str) -> Fraction | None:
    r"""Returns the number that a text gives as its answer, exactly; None when there is none.

    The place: the last `\boxed{...}`, else behind the last `####`, else the last number of all. The form: thousands
    separators, decimals, exponents, `3/4`, `\frac{3}{4}`, full-width digits; without any digit, Chinese numerals.
    """
    text = unicodedata.normalize("NFKC", text[-LONGEST:]).replace("−", "-").replace("\u2044", "/")
    for place in (_last_boxed(text), _last(_MARKED.findall(text))):
        if place is not None and (number := _last_number(place)) is not None:
            return number
    return _last_number(text)


def _last(found: list[str]) -> str | None:
    return found[-1] if found else None


def _last_boxed(text: str) -> str | None:
    r"""Returns what stands between the braces of the last whole \boxed{...}, nested ones included."""
    opened: list[int] = []
    last: tuple[int, int] | None = None
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened:
            start = opened.pop()
            if text.endswith("\\boxed", 0, start - 1) and (last is None or start > last[0]):
                last = start, brace.start()
    return text[slice(*last)] if last else None


def _last_number(text: str) -> Fraction | None:
    text = re.sub(r"(?<=\d)\{,\}(?=\d{3})|(?<=\d)\\,(?=\d{3})", ",", text)  # LaTeX's thousands
    best: tuple[int, Fraction] | None = None
    for match in _FRACTION.finditer(text):
        if int(match[3]):
            value = Fraction(int(match[2]), int(match[3]))
            best = match.end(), -value if match[1] == "-" else value
    for match in _NUMBER.finditer(text):
        # The parts of a \frac are no numbers of their own.
        if (best is None or match.start() > best[0]) and (number := _value(match[0])) is not None:
            best = match.end(), number
    if best is not None:
        return best[1]
    written = _CHINESE.findall(text)
    return _chinese(written[-1]) if written else None


def _value(written: str) -> Fraction | None:
    above, slash, below = written.replace(",", "").partition("/")
    value = Fraction(above.strip())
    if not slash:
        return value
    return value / int(below) if int(below) else None


def _chinese(written: str) -> Fraction:
    """Reads 一百二十三点五, 十二, 两千零三, 三万亿, and digits in a row such as 二〇二六."""
    negative, written = written.startswith("负"), written.removeprefix("负")
    whole, _, decimals = written.partition("点")
    value = Fraction(_chinese_whole(whole))
    for place, digit in enumerate(decimals, 1):
        value += Fraction(_DIGITS[digit], 10**place)
    return -value if negative else value


def _chinese_whole(written: str) -> int:
    if all(char in _DIGITS for char in written):
        return int("".join(str(_DIGITS[char]) for char in written))
    total = section = digit = 0
    for char in written:
        if char in _DIGITS:
            digit = _DIGITS[char]
        elif char in _UNITS:
            section += (digit or 1) * _UNITS[char]
            digit = 0
        else:
            # 一亿二千万: a larger unit multiplies what stands before it, also what was summed up.
            unit, digit, before = _LARGE_UNITS[char], 0, section + digit
            if total and total < unit:
                total, section = (total + before) * unit, 0
            else:
                total, section = total + (before or 1) * unit, 0
    return total + section + digit


class ExactNumber:
    """1 where the answer's number is the right one, else 0.

    Args:
        field: The record's field with the right number; text around it is read in the same way.
    """

    name = "number"

    def __init__(self, field: str = "answer") -> None:
        self.field = field

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """See `Reward`."""
        return [float(extract_number(attempt.completion) == self._right(attempt)) for attempt in attempts]

    def check(self, attempt: Attempt) -> None:
        """See `Reward`."""
        self._right(attempt)

    def _right(self, attempt: Attempt) -> Fraction:
        value = wanted(attempt, self.field, self.name)
        number = extract_number(str(value))
        if number is None:
            raise RecordFault(
                f"the right answer {str(value)[:60]!r} holds no number",
                where=f"record field {self.field!r}",
                remedy="write one, name the field that holds it with `field`, or leave the record out",
            )
        return number

"""What every operation of a chat template costs, before it is done: operators, methods, filters.

The sandbox of jinja2 keeps a template from what it may not touch; these tables keep it from what it may not afford. A
method that is not listed cannot be called. The budget itself is in `template_budget`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from zhixing.tokenization.template_budget import MAX_DEPTH, MAX_INTEGER_BITS, STEP, Budget, TemplateLimit

MAX_WIDTH = 1000
"""Columns, digits and the like that a format or an indentation may ask for."""

Arguments = tuple[Any, ...]
Options = dict[str, Any]
Cost = Callable[[Budget, Arguments, Options], int]
"""Units that a call costs beyond reading its arguments, which are paid for already."""

PERCENT = re.compile(
    r"%(?:\((?P<key>[^)]*)\))?[#0\- +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+))?[hlL]?.", re.DOTALL
)
NUMBER = re.compile(r"\d{4,}")


def _get(arguments: Arguments, options: Options, index: int, name: str, default: Any) -> Any:
    return arguments[index] if index < len(arguments) else options.get(name, default)


def _whole(value: Any) -> int:
    """Returns a number as an int that can be compared; what is no number costs nothing, because Python refuses it."""
    return int(value) if isinstance(value, int) else 0


def check_width(value: Any, what: str) -> int:
    """Returns a width that a template asks for.

    Raises:
        TemplateLimit: It is out of all proportion.
    """
    width = len(value) if isinstance(value, str) else _whole(value)
    if width > MAX_WIDTH:
        raise TemplateLimit(f"the chat template asks for a {what} of {_shown(width)} (at most {MAX_WIDTH})")
    return max(0, width)


def _shown(number: int) -> str:
    return f"{number:,}" if number.bit_length() < 64 else "an enormous number"


# Operators


def multiply(budget: Budget, left: Any, right: Any) -> None:
    """Pays for `left * right`."""
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_INTEGER_BITS:
            raise TemplateLimit(f"the chat template computes with numbers of more than {MAX_INTEGER_BITS} bits")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | bytes | list | tuple) and isinstance(times, int):
            each = 1 if isinstance(value, str | bytes) else STEP
            budget.spend(each * len(value) * max(0, times))


def power(left: Any, right: Any) -> None:
    """Refuses `left ** right` when the result would be enormous."""
    if isinstance(left, int) and isinstance(right, int) and max(1, left.bit_length()) * right > MAX_INTEGER_BITS:
        raise TemplateLimit(f"the chat template computes with numbers of more than {MAX_INTEGER_BITS} bits")


def percent(budget: Budget, text: str | bytes, values: Any) -> None:
    """Pays for `text % values`."""
    size = budget.measure(values)[0]
    budget.spend(len(text) + size)
    for found in PERCENT.finditer(text if isinstance(text, str) else text.decode("latin-1")):
        for wanted in (found["width"], found["precision"]):
            if wanted == "*":
                for value in values if isinstance(values, tuple) else (values,):
                    check_width(abs(_whole(value)), "format width")
            elif wanted:
                _check_digits(wanted)
        budget.spend(size + MAX_WIDTH if found["width"] or found["precision"] else size)


def check_format_spec(spec: str) -> None:
    """Refuses a format specification, as in "{:>1000000}", that asks for an enormous width."""
    for digits in NUMBER.findall(spec):
        _check_digits(digits)


def _check_digits(digits: str) -> None:
    if len(digits.lstrip("0")) > 4 or int(digits) > MAX_WIDTH:
        raise TemplateLimit(f"the chat template asks for a format width above {MAX_WIDTH}")


# Methods: the first argument is the object itself.


def _free(budget: Budget, arguments: Arguments, options: Options) -> int:
    return 0


def _padded(budget: Budget, arguments: Arguments, options: Options) -> int:
    return max(0, _whole(_get(arguments, options, 1, "width", 0)))


def _tabs(budget: Budget, arguments: Arguments, options: Options) -> int:
    text = arguments[0]
    width = check_width(_get(arguments, options, 1, "tabsize", 8), "tab")
    return int(text.count("\t")) * width


def _replaced(budget: Budget, arguments: Arguments, options: Options) -> int:
    text, old, new = (str(_get(arguments, options, index, "", "")) for index in range(3))
    found = text.count(old) if old else len(text) + 1
    return int(found * len(new))


def _joined(budget: Budget, arguments: Arguments, options: Options) -> int:
    items = _get(arguments, options, 1, "", ())
    count = len(items) if hasattr(items, "__len__") else 0  # an iterator has paid when the list is made of it
    return count * len(arguments[0])


def _split(budget: Budget, arguments: Arguments, options: Options) -> int:
    text, separator = arguments[0], _get(arguments, options, 1, "sep", None)
    pieces = text.count(separator) + 1 if isinstance(separator, str) and separator else len(text) // 2 + 1
    return STEP * int(pieces)


def _lines(budget: Budget, arguments: Arguments, options: Options) -> int:
    return STEP * (sum(int(arguments[0].count(end)) for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029") + 1)


def _keys(budget: Budget, arguments: Arguments, options: Options) -> int:
    return STEP * len(arguments[0])


_PLAIN_TEXT_METHODS = """capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit
isidentifier islower isnumeric isprintable isspace istitle isupper lower lstrip partition removeprefix removesuffix
rfind rindex rpartition rstrip startswith strip swapcase title upper encode"""

TEXT_METHODS: dict[str, Cost] = {
    **dict.fromkeys(_PLAIN_TEXT_METHODS.split(), _free),
    "center": _padded,
    "ljust": _padded,
    "rjust": _padded,
    "zfill": _padded,
    "expandtabs": _tabs,
    "replace": _replaced,
    "join": _joined,
    "split": _split,
    "rsplit": _split,
    "splitlines": _lines,
    # of jinja2's escaped texts
    "unescape": _free,
    "striptags": lambda budget, arguments, options: _many_cuts(arguments[0]),
}

METHODS: tuple[tuple[type | tuple[type, ...], dict[str, Cost]], ...] = (
    (str, TEXT_METHODS),
    (bytes, {"decode": _free}),
    (dict, {"get": _free, "items": _free, "keys": _free, "values": _free, "copy": _keys}),
    ((list, tuple), {"count": _free, "index": _free, "copy": _keys}),
    (range, {"count": _free, "index": _free}),
    (int, {"bit_length": _free, "bit_count": _free, "conjugate": _free, "as_integer_ratio": _free}),
    (float, {"is_integer": _free, "as_integer_ratio": _free, "hex": _free, "conjugate": _free}),
)
"""The methods of plain values that a template may call, by the type of the value, and what each costs."""


def method_cost(owner: Any, name: str) -> Cost | None:
    """Returns what a method of a plain value costs, or None when it may not be called."""
    for types, costs in METHODS:
        if isinstance(owner, types):
            return costs.get(name)
    return None


# Filters: the first argument is the value before the bar.


def _many_cuts(value: Any) -> int:
    """Tags and comments are cut out one by one, each cut copying the whole text."""
    text = str(value)
    return len(text) * (text.count("<") + text.count("&") + 1) // STEP


def _indented(budget: Budget, arguments: Arguments, options: Options) -> int:
    width = check_width(_get(arguments, options, 1, "width", 4), "indentation")
    text = str(arguments[0])
    return (width + STEP) * (text.count("\n") + text.count("\r") + 1) + 2 * len(text)


def _wrapped(budget: Budget, arguments: Arguments, options: Options) -> int:
    length = len(str(arguments[0]))
    width = max(1, _whole(_get(arguments, options, 1, "width", 79)))
    ending = _get(arguments, options, 3, "wrapstring", None)
    cuts = length // width + 1
    return STEP * length + cuts * (length // STEP + (len(ending) if isinstance(ending, str) else 1))


def _linked(budget: Budget, arguments: Arguments, options: Options) -> int:
    return len(str(arguments[0])) ** 2 // STEP


def _batched(budget: Budget, arguments: Arguments, options: Options) -> int:
    return STEP * max(0, _whole(_get(arguments, options, 1, "linecount", 0)))


def _sorted(budget: Budget, arguments: Arguments, options: Options) -> int:
    size = budget.measure(arguments[0])[0]
    return size * max(1, int(math.log2(size + 1)))


def _summed(budget: Budget, arguments: Arguments, options: Options) -> int:
    items = arguments[0]
    count = len(items) if isinstance(items, list | tuple) else 1
    start = _get(arguments, options, 2, "start", 0)
    return 0 if isinstance(start, int | float) else count * budget.measure(items)[0]


def _filter_joined(budget: Budget, arguments: Arguments, options: Options) -> int:
    items, between = arguments[0], str(_get(arguments, options, 1, "d", ""))
    return len(between) * len(items) if hasattr(items, "__len__") else 0


def _rounded(budget: Budget, arguments: Arguments, options: Options) -> int:
    check_width(abs(_whole(_get(arguments, options, 1, "precision", 0))), "precision")
    return 0


def _formatted(budget: Budget, arguments: Arguments, options: Options) -> int:
    percent(budget, str(arguments[0]), options or tuple(arguments[1:]))
    return 0


def _json(budget: Budget, arguments: Arguments, options: Options) -> int:
    """Every character may become six (\\u0000); every element may stand on its own, indented line."""
    indent = check_width(_get(arguments, options, 2, "indent", 0), "JSON indentation")
    separators = _get(arguments, options, 3, "separators", None)
    between = sum(len(str(separator)) for separator in separators) if isinstance(separators, Iterable) else 0
    size, depth = budget.measure(arguments[0])
    return 6 * size + (indent * depth + between) * (size // STEP + 1)


def _printed(budget: Budget, arguments: Arguments, options: Options) -> int:
    return STEP * MAX_DEPTH * budget.measure(arguments[0])[0]


def _escaped(budget: Budget, arguments: Arguments, options: Options) -> int:
    return 6 * budget.measure(arguments[0])[0]


FILTERS: dict[str, Cost] = {
    "batch": _batched,
    "center": lambda budget, arguments, options: max(0, _whole(_get(arguments, options, 1, "width", 80))),
    "dictsort": _sorted,
    "e": _escaped,
    "escape": _escaped,
    "forceescape": _escaped,
    "format": _formatted,
    "groupby": _sorted,
    "indent": _indented,
    "join": _filter_joined,
    "max": _sorted,
    "min": _sorted,
    "pprint": _printed,
    "replace": _replaced,
    "round": _rounded,
    "sort": _sorted,
    "striptags": lambda budget, arguments, options: _many_cuts(arguments[0]),
    "sum": _summed,
    "tojson": _json,
    "unique": _sorted,
    "urlencode": _escaped,
    "urlize": _linked,
    "wordwrap": _wrapped,
    "xmlattr": _escaped,
}
"""What filters cost beyond reading their arguments; those that are not listed cost no more."""

SHALLOW_FILTERS = frozenset(
    "attr batch count d default first items last length list map random reject rejectattr reverse safe select"
    " selectattr slice".split()
)
"""Filters that look at the elements of a list, but not at what is in them."""

LISTING_FILTERS = frozenset("join sum sort unique groupby min max".split())
"""Filters whose cost needs the length: an iterator is made a list first."""

FREE_TESTS = frozenset(
    "defined undefined none boolean false true integer float number string mapping iterable sequence callable escaped"
    " sameas filter test odd even divisibleby".split()
)
"""Tests that look at the value itself only."""

"""What one rendering of a chat template may cost: work, time, sizes and depths, counted as it goes.

A template is a program that came with a model folder. Every operation that can take long or need memory pays for it
here before it is done; when the budget is spent, the rendering ends with one message. What each operation costs is in
`template_limits`, where the operations are caught in `template_sandbox`.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from zhixing.core.errors import BadInput

STEP = 16
"""Units for one step of a loop, one call, one element of a list; a character of a text costs one unit."""

BASE_WORK = 8_000_000
"""Units that every rendering may spend: half a million steps, or 8 million characters made."""

WORK_PER_CHARACTER = 200
"""Units more for each character of the messages, so that long conversations may be rendered."""

BASE_OUTPUT, OUTPUT_PER_CHARACTER = 1_000_000, 8
"""Characters that a rendering may write: so many, and so many more for each of the messages."""

MAX_SECONDS = 10.0
"""Of computing. The last line of defence, should an operation cost more than it pays; most need a millisecond."""

MAX_DEPTH = 100
"""Lists within lists, and what else can be nested; also of the messages themselves."""

MAX_INTEGER_BITS = 4096
"""Whole numbers beyond this serve no text, and their arithmetic is slow."""

CHECK_CLOCK_EVERY = 256


class TemplateLimit(BadInput):
    """A template asked for more than a rendering may cost."""


class Budget:
    """What is left of one rendering's work, and the sizes of what it has made.

    Args:
        characters: The size of the messages and whatever else is handed to the template.
        seconds: The longest time that it may compute.
    """

    __slots__ = ("_checks", "_deadline", "_known", "left", "output", "total")

    def __init__(self, characters: int = 0, seconds: float = MAX_SECONDS) -> None:
        self.total = self.left = BASE_WORK + WORK_PER_CHARACTER * characters
        self.output = BASE_OUTPUT + OUTPUT_PER_CHARACTER * characters
        self._deadline = time.thread_time() + seconds
        self._checks = 0
        # Containers cannot be changed by a template, so each is measured once. Holding them keeps their ids their own.
        self._known: dict[int, tuple[object, int, int]] = {}

    def spend(self, units: int) -> None:
        """Pays for an operation.

        Raises:
            TemplateLimit: The budget is spent, or the time is over.
        """
        self.left -= units
        if self.left < 0:
            raise TemplateLimit(f"the chat template asks for too much work (more than {self.total // STEP:,} steps)")
        self._checks += 1
        if self._checks % CHECK_CLOCK_EVERY == 0 and time.thread_time() > self._deadline:
            raise TemplateLimit("the chat template takes too long")

    def step(self) -> None:
        """Pays for one step of a loop, or one call."""
        self.spend(STEP)

    def write(self, text: str) -> None:
        """Counts text that the template has written.

        Raises:
            TemplateLimit: It is more than any conversation needs.
        """
        self.output -= len(text)
        if self.output < 0:
            raise TemplateLimit("the chat template writes far more than the messages hold")

    def measure(self, value: Any) -> tuple[int, int]:
        """Returns the size of a value in units, all that is nested in it included, and how deep it is nested.

        Shared parts count as often as they occur: a list that holds another one twice is twice as large, as it will be
        when it is written, compared or sorted.

        Raises:
            TemplateLimit: It is nested too deep, larger than what is left, or a number is too long.
        """
        if isinstance(value, str | bytes):
            return len(value), 0
        if isinstance(value, bool) or value is None:
            return 1, 0
        if isinstance(value, int):
            if value.bit_length() > MAX_INTEGER_BITS:
                raise TemplateLimit(f"the chat template computes with numbers of more than {MAX_INTEGER_BITS} bits")
            return 1, 0
        if isinstance(value, list | tuple | Mapping | KeysView | ValuesView | ItemsView):
            known = self._known.get(id(value))
            if known is not None:
                return known[1:]
            size, depth = self._measure_container(value)
            if depth > 1:  # flat ones are measured again: it costs no more than what is done with them
                self._known[id(value)] = (value, size, depth)
            return size, depth
        if isinstance(value, range):
            return STEP * len(value), 0
        return 1, value.depth if isinstance(value, Counted) else 0

    def _measure_container(self, value: Any) -> tuple[int, int]:
        size, depth = STEP, 0
        parts: Iterable[Any] = value
        if isinstance(value, Mapping | ItemsView):
            pairs = value.items() if isinstance(value, Mapping) else value
            parts = (part for pair in pairs for part in pair)
        for part in parts:
            inner, below = self.measure(part)
            size += inner + STEP
            depth = max(depth, below)
        if depth >= MAX_DEPTH:
            raise TemplateLimit(f"the chat template nests values more than {MAX_DEPTH} deep")
        if size > self.total:
            raise TemplateLimit("the chat template makes a value that is far larger than the messages")
        return size, depth + 1

    def charge(self, value: Any) -> Any:
        """Pays for looking at all of a value, however deep; returns it."""
        self.spend(self.measure(value)[0])
        return value

    def glance(self, value: Any) -> Any:
        """Pays for going over a value's elements, not for what is nested in them; returns it."""
        if isinstance(value, str | bytes):
            self.spend(len(value))
        elif isinstance(value, list | tuple | Mapping | KeysView | ValuesView | ItemsView | range):
            self.spend(STEP * (len(value) + 1))
        else:
            self.spend(1)
        return value

    def iterate(self, value: Any) -> Any:
        """Pays for a loop over a value in advance; an iterator, whose length nobody knows, will pay step by step."""
        return self.counted(value, 0) if is_plain_iterator(value) else self.glance(value)

    def counted(self, value: Any, depth: int) -> Any:
        """Returns an iterator that pays for each of its steps; `depth` iterators feed it already."""
        if depth >= MAX_DEPTH:
            raise TemplateLimit(f"the chat template chains more than {MAX_DEPTH} filters over one list")
        return value if isinstance(value, Counted) else Counted(self, value, depth + 1)

    def made(self, value: Any) -> Any:
        """Pays for a value that an operation has made; returns it."""
        size, _ = self.measure(value)
        self.spend(size if isinstance(value, str | bytes) else 1)
        if isinstance(value, list | tuple | Mapping):
            self.spend(STEP * len(value))
        return value


class Counted:
    """An iterator that pays for every step.

    Args:
        budget: Who counts.
        items: The iterator.
        depth: How many iterators are chained here, this one included.
    """

    __slots__ = ("_budget", "_items", "depth")

    def __init__(self, budget: Budget, items: Iterator[Any], depth: int) -> None:
        self._budget, self._items, self.depth = budget, items, depth

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self._budget.step()
        self._budget.measure(item)
        return item


def is_plain_iterator(value: Any) -> bool:
    """Tells whether a value is an iterator of the language or of a filter, as opposed to an object of the template's
    own, such as `loop`."""
    return isinstance(value, Iterator) and not type(value).__module__.startswith("jinja2")

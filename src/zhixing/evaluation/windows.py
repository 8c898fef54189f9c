"""Cutting documents into windows that a model can see, and windows into batches of equal length.

Every target of a document is scored in exactly one window. What is done with a window is `language_modelling`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

BATCH_TOKENS = 8192
"""Positions in one forward pass: enough to keep the matrix products large, small enough for any memory."""

BUFFERED_BATCHES = 16
"""Windows of so many batches are sorted by length before they are run, so that little of a batch is padding."""

Ints: TypeAlias = npt.NDArray[Any]


class TokenDocument(NamedTuple):
    """A document that is encoded already.

    Attributes:
        tokens: Its token ids, (tokens,); a memory-mapped array is read a window at a time.
        bytes: The bytes of its text in UTF-8.
        source: Where it came from; scores are kept apart by it.
        first_bytes: The bytes of its first token, left out of the count when that token cannot be scored.
    """

    tokens: Ints
    bytes: int
    source: str = ""
    first_bytes: int = 0


class Window(NamedTuple):
    """One input, and which of its targets are scored: those from `skip` on."""

    inputs: Ints  # (time)
    targets: Ints  # (time)
    skip: int
    source: str
    share: float
    """Bytes of text that this window accounts for, for the progress bar."""
    document: int = 0
    """Number of its document, among all that are measured."""


def cut_document(
    document: TokenDocument, start: int | None, window: int, stride: int, number: int = 0
) -> Iterator[Window]:
    """Cuts a document into windows that all have the same length, unless the document is shorter.

    Args:
        document: The document.
        start: The token before its first; None leaves the first token out.
        window: Longest input.
        stride: Targets that every window after the first scores; the last may score fewer.
        number: Of the document.
    """
    tokens = document.tokens
    lead = 0 if start is not None else 1  # targets begin at this token
    count = len(tokens) - lead
    done = 0
    while done < count:
        end = min(count, done + (stride if done else window))
        begin = max(0, end - window)
        targets = np.asarray(tokens[begin + lead : end + lead], dtype=np.int64)
        before = begin + lead - 1
        if before < 0 and start is not None:
            inputs: Ints = np.concatenate((np.array([start], dtype=np.int64), targets[:-1]))
        else:
            inputs = np.asarray(tokens[before : end + lead - 1], dtype=np.int64)
        share = document.bytes * (end - done) / count
        yield Window(inputs, targets, done - begin, document.source, share, number)
        done = end


def batches(windows: Iterable[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Groups windows of similar length, so that no batch holds more than `batch_tokens` positions (or one window)."""
    buffer: list[Window] = []
    held = 0
    for window in windows:
        buffer.append(window)
        held += len(window.inputs)
        if held >= batch_tokens * BUFFERED_BATCHES:
            yield from _sorted_batches(buffer, batch_tokens)
            buffer, held = [], 0
    yield from _sorted_batches(buffer, batch_tokens)


def _sorted_batches(buffer: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    buffer = sorted(buffer, key=lambda window: -len(window.inputs))
    at = 0
    while at < len(buffer):
        rows = max(1, batch_tokens // len(buffer[at].inputs))
        yield buffer[at : at + rows]
        at += rows

"""Plain yardsticks for bits per byte: what a general compressor and the simplest token model reach on the same text.

A language model is worth its name only when it beats both. Every yardstick carries a sentence that says exactly what
was measured.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zhixing.core.errors import BadInput
from zhixing.core.progress import human_bytes, human_count

XZ_DICTIONARY = 64 << 20
"""The dictionary of xz's preset 9. Preset 9 takes ten times this much memory, so a smaller text gets a smaller one."""

SMALLEST_DICTIONARY = 1 << 16


@dataclass(frozen=True)
class Yardstick:
    """One figure to hold a model against.

    Attributes:
        name: A short name: `xz`, `unigram`.
        bits_per_byte: The figure, over the bytes of the held-out text in UTF-8.
        bytes: Those bytes.
        description: What was measured, in one sentence.
    """

    name: str
    bits_per_byte: float
    bytes: int
    description: str

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return asdict(self)


def xz_yardstick(held_out: Iterable[str | bytes], primer: Iterable[str | bytes] = ()) -> Yardstick:
    """Measures `xz -9e` on the held-out text.

    Without a primer, the compressor sees the held-out text alone and learns only from what it has already read of it.
    With one, the figure is the growth of the file when the held-out text is put behind the primer: what xz makes of
    the text after having read the training text (of which it remembers the last 64 MiB).

    The dictionary is as large as the text needs, at most preset 9's: the result is that of preset 9, with less memory
    (about ten times the text, at most 700 MB).

    Args:
        held_out: The text, in pieces.
        primer: Training text to read before, in pieces; doubles the time and more.

    Raises:
        BadInput: The held-out text is empty.
    """
    text = b"".join(map(_utf8, held_out))
    if not text:
        raise BadInput("the held-out text is empty: there is nothing to compress")
    before = b"".join(map(_utf8, primer))
    total = len(before) + len(text)
    size = _xz_size([before, text], total)
    described = f"`xz -9e` on the {human_bytes(len(text))} of held-out text alone"
    if before:
        size -= _xz_size([before], total)
        described = f"growth of an `xz -9e` file of {human_bytes(len(before))} of training text by the held-out text"
    return Yardstick("xz", 8 * size / len(text), len(text), described)


def _utf8(piece: str | bytes) -> bytes:
    return piece.encode("utf-8") if isinstance(piece, str) else piece


def _xz_size(pieces: Iterable[bytes], total: int) -> int:
    dictionary = min(XZ_DICTIONARY, max(SMALLEST_DICTIONARY, total))
    preset = 9 | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())


def unigram_yardstick(
    train: Iterable[npt.NDArray[Any]], held_out: Iterable[npt.NDArray[Any]], vocab_size: int, held_out_bytes: int
) -> Yardstick:
    """Measures the model that knows only how often each token occurs: p(token) = (count + 1) / (total + vocabulary).

    Counts come from the training tokens, add-one smoothed (Laplace), the figure from the held-out tokens.

    Args:
        train: Training token ids, in pieces.
        held_out: Held-out token ids, in pieces.
        vocab_size: Number of tokens in the vocabulary.
        held_out_bytes: Bytes of the text that the held-out tokens spell, in UTF-8.

    Raises:
        BadInput: There is no held-out text, or a token lies outside the vocabulary.
    """
    counts, expected = _count(train, vocab_size), _count(held_out, vocab_size)
    if not expected.sum() or held_out_bytes < 1:
        raise BadInput("the held-out text is empty: there is nothing to measure")
    log_probability = np.log(counts + 1.0) - math.log(int(counts.sum()) + vocab_size)
    nats = -float(np.dot(expected, log_probability))
    described = (
        f"token frequencies, add-one smoothed, from {human_count(int(counts.sum()))} training tokens, "
        f"on {human_count(int(expected.sum()))} held-out tokens"
    )
    return Yardstick("unigram", nats / math.log(2) / held_out_bytes, held_out_bytes, described)


def _count(pieces: Iterable[npt.NDArray[Any]], vocab_size: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(vocab_size, dtype=np.int64)
    for piece in pieces:
        found = np.bincount(piece, minlength=vocab_size)
        if len(found) > vocab_size:
            raise BadInput(f"token {len(found) - 1} lies outside the vocabulary of {vocab_size}")
        counts += found
    return counts
